//! The daemon, in this process and as the real program, against a scripted model server.

#![expect(clippy::unwrap_used, reason = "all of it is a test")]

mod backend;
mod http;
mod program;

mod activation;
mod doors;
mod login;
mod moving;
mod process;
