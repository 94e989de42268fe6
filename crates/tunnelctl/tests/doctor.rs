//! `doctor`, `ping`, `logs` and `diag` of the real program, against a scripted daemon and scripted tools of systemd.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

mod doctor {
    mod diag;
    mod diagnosis;
    mod logs;
    mod ping;
    mod scene;
    mod tray;
}
