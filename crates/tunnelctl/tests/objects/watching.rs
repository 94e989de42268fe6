//! `tunnelctl status -w` and `requests list -w` through a pipe.

use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Daemon, Script};

/// A program that watches; killed when dropped.
struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn start(daemon: &Daemon, line: &str) -> Self {
        let mut command = daemon.command(line);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let value: Value = serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(value["schema"], "tunnelctl/v1");
        value
    }

    fn talk(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn wait_until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it never held");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn status_is_a_line_for_each_change_with_what_a_newer_daemon_adds() {
    let daemon = Daemon::start(Script::default());
    let mut watching = Watching::start(&daemon, "status -w");
    assert_eq!(watching.next()["tunnel"]["state"], "disconnected");
    for state in ["connecting", "connected", "hibernating"] {
        // The same is told again and again meanwhile.
        let before = daemon.script().looks;
        wait_until(|| daemon.script().looks > before + 2);
        daemon.script().tunnel["state"] = state.into();
        assert_eq!(watching.next()["tunnel"]["state"], state);
    }
    drop(daemon);
    let talk = watching.talk();
    assert!(talk.contains("tunneld"), "{talk}");
}

#[test]
fn reader_that_leaves_is_no_error() {
    let daemon = Daemon::start(Script::default());
    let mut command = daemon.command("status -w");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    daemon.script().tunnel["state"] = "connected".into();
    let exit = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((exit.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn requests_are_a_line_when_there_is_news() {
    let daemon = Daemon::start(Script::default());
    let mut watching = Watching::start(&daemon, "requests list -w");
    assert_eq!(watching.next()["requests"], json!([]));
    daemon.script().requests = json!([{ "id": "a", "tokens": 10, "duration_ms": 1000 }]);
    assert_eq!(watching.next()["requests"][0]["tokens_per_s"], 10.0);
    daemon.script().requests = json!([{ "id": "a", "tokens": 50, "duration_ms": 2000 }]);
    assert_eq!(watching.next()["requests"][0]["tokens_per_s"], 40.0);
}
