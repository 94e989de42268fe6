//! The relay with real desktops' ends and real callers, in one process.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails; clippy knows only the test functions themselves"
)]

mod edge;
mod ending;
mod forwarding;
mod harness;
mod program;
mod refusing;
mod tunnels;
