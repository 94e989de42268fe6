//! The verbs about what the daemon has, and `start` and the watching ones, against a scripted daemon.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

mod connections;
mod lists;
mod service;
mod start;
mod support;
mod watching;
