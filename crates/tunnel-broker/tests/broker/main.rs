//! The broker against scripted model servers on real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cancelling;
mod failing;
mod faults;
mod headers;
mod health;
mod listing;
mod measuring;
mod meeting;
mod models;
mod probing;
mod profiles;
mod queueing;
mod routing;
mod soaking;
mod stopping;
mod streaming;
mod support;
