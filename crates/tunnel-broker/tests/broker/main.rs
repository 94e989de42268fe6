//! The broker against scripted model servers on real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cancelling;
mod failing;
mod headers;
mod listing;
mod measuring;
mod models;
mod probing;
mod routing;
mod stopping;
mod streaming;
mod support;
