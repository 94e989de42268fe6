//! The kernel's own messages, in a network namespace of the test's own.

use std::process::Command;
use std::time::Duration;

use super::*;

/// Longest wait for the kernel, which tells at once.
const LIMIT: Duration = Duration::from_secs(10);
/// How long nothing must come where nothing is to come.
const QUIET: Duration = Duration::from_millis(200);

/// Runs the test below where changing the network changes nobody's network.
#[test]
fn gains_of_a_real_network_are_heard() {
    let me = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.arg("--net").arg(me).args(["--exact", "world::network::tests::inside_a_namespace"]);
    command.args(["--ignored", "--nocapture"]);
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: needs root for a network namespace");
    }
    let output = command.output().unwrap();
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "changes the network: run by the test above, in a namespace"]
async fn inside_a_namespace() {
    let (causes, mut heard) = mpsc::channel(100);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(listen(causes));
    tokio::task::yield_now().await;
    // A pair whose ends are down: one gets its cable when the other comes up.
    ip("link add near type veth peer name far");
    ip("link set lo up");
    ip("link set near addrgenmode none");
    ip("link set far addrgenmode none");
    ip("link set near up");
    assert!(tokio::time::timeout(QUIET, heard.recv()).await.is_err(), "no link runs, and loopback is none");

    for gain in ["link set far up", "addr add 192.0.2.7/24 dev near", "route add default via 192.0.2.1"] {
        ip(gain);
        let cause = tokio::time::timeout(LIMIT, heard.recv()).await;
        assert_eq!(cause.unwrap_or_else(|_| panic!("{gain} was not heard")), Some(Cause::Network));
        // One change may be several messages.
        while tokio::time::timeout(QUIET, heard.recv()).await.is_ok() {}
    }

    for loss in ["route del default", "addr del 192.0.2.7/24 dev near", "link set far down"] {
        ip(loss);
        assert!(tokio::time::timeout(QUIET, heard.recv()).await.is_err(), "{loss} is no gain");
    }
}
