//! Sockets out of the service manager's hands, in a process of their own: they are claimed by number.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::net::TcpListener;
use std::process::{Command, Output};

use tunnel_runtime::systemd::InheritedSockets;

/// Not a test: takes what was passed and prints it.
#[test]
#[ignore = "run by the other tests"]
fn child() {
    let sockets = InheritedSockets::take();
    let tcp: Vec<u16> = sockets.tcp.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    println!("tcp {tcp:?} unix {} unusable {:?}", sockets.unix.len(), sockets.unusable);
    // Closed in programs that we start.
    let listing = Command::new("ls").arg("-l").arg("/proc/self/fd").output().unwrap();
    let left = String::from_utf8(listing.stdout).unwrap().matches("socket:").count();
    println!("left {left}");
}

/// Runs `child` with `listener` as descriptor 3, and descriptor 4 as the shell's `redirection` says.
fn run(listener: TcpListener, n_sockets: u32, redirection: &str, pid: &str) -> Output {
    let script = format!(
        "LISTEN_PID={pid} LISTEN_FDS={n_sockets} exec \"$0\" --exact child --ignored --nocapture 3<&0 0</dev/null {redirection}"
    );
    Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .stdin(std::os::fd::OwnedFd::from(listener))
        .output()
        .unwrap()
}

#[test]
fn listening_socket_is_taken_and_others_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = run(listener, 2, "4</dev/null", "$$");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        told.contains(&format!("tcp [{port}] unix 0 unusable [\"socket 1 of the socket unit ")),
        "{told}"
    );
    assert!(told.contains("left 0"), "{told}");
}

#[test]
fn socket_for_another_process_is_left_alone() {
    for pid in ["1", "''"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let output = run(listener, 1, "", pid);
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("tcp [] unix 0"), "{told}");
    }
}

#[test]
fn descriptor_that_is_not_there_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = run(listener, 3, "", "$$");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("tcp [] unix 0 unusable [\"the sockets that were passed"), "{told}");
}
