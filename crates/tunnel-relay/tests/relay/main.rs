//! The relay with real desktops' ends and real callers, in one process.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails; clippy knows only the test functions themselves"
)]

mod admin;
mod audit;
mod devices;
mod edge;
mod ending;
mod forwarding;
mod harness;
#[path = "../support/identity.rs"]
#[expect(dead_code, reason = "the unit tests use all of it")]
mod identity;
mod isolation;
mod issuers;
mod limits;
mod program;
mod refusing;
mod tokens;
mod tunnels;
