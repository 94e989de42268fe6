//! Signals go to the whole process, so these tests take turns.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::future::pending;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tunnel_runtime::{Lifecycle, Outcome, systemd};

const LONG: Duration = Duration::from_secs(60);

/// Runs one lifecycle at a time.
fn alone<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONG, test()).await.expect("ends in time") })
}

fn send(signal: Signal) {
    kill_process(getpid(), signal).unwrap();
}

#[test]
fn running_work_may_finish_after_a_signal() {
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        let (soft, hard) = (lifecycle.soft(), lifecycle.hard());
        let (finish, finished) = oneshot::channel();
        lifecycle.spawn_critical("worker", {
            let soft = soft.clone();
            async move {
                soft.cancelled().await;
                finished.await.unwrap();
            }
        });
        let run = tokio::task::JoinSet::from_iter([lifecycle.run()]);
        send(Signal::TERM);
        soft.cancelled().await;
        assert!(!hard.is_cancelled());
        finish.send(()).unwrap();
        assert_eq!(run.join_all().await, [Outcome::Asked]);
        assert!(!hard.is_cancelled());
    });
}

#[test]
fn second_signal_ends_everything() {
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        let (soft, hard) = (lifecycle.soft(), lifecycle.hard());
        lifecycle.tracker().spawn({
            let hard = hard.clone();
            async move { hard.cancelled().await }
        });
        let run = tokio::task::JoinSet::from_iter([lifecycle.run()]);
        send(Signal::INT);
        soft.cancelled().await;
        send(Signal::TERM);
        hard.cancelled().await;
        assert_eq!(run.join_all().await, [Outcome::Asked]);
    });
}

#[test]
fn end_of_the_grace_time_ends_everything() {
    alone(|| async {
        let lifecycle = Lifecycle::new(Duration::from_millis(20)).unwrap();
        let (soft, hard) = (lifecycle.soft(), lifecycle.hard());
        lifecycle.tracker().spawn(async move { hard.cancelled().await });
        soft.cancel();
        assert_eq!(lifecycle.run().await, Outcome::Asked);
    });
}

#[test]
fn task_that_ignores_the_hard_token_is_left_behind() {
    alone(|| async {
        let lifecycle = Lifecycle::new(Duration::ZERO).unwrap();
        lifecycle.tracker().spawn(pending::<()>());
        lifecycle.soft().cancel();
        assert_eq!(lifecycle.run().await, Outcome::Asked);
    });
}

#[test]
fn process_fails_when_a_critical_task_ends() {
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        lifecycle.spawn_critical("short", async {});
        assert_eq!(lifecycle.run().await, Outcome::Failed);
    });
}

#[test]
fn process_fails_when_a_critical_task_panics_while_stopping() {
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        let soft = lifecycle.soft();
        lifecycle.spawn_critical("clumsy", {
            let soft = soft.clone();
            async move {
                soft.cancelled().await;
                panic!("on purpose");
            }
        });
        soft.cancel();
        assert_eq!(lifecycle.run().await, Outcome::Failed);
    });
}

#[test]
fn task_that_outlives_the_tracker_fails_the_process_only_before_its_time() {
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        let (soft, dismissed) = (lifecycle.soft(), CancellationToken::new());
        let mut late = tokio::task::JoinSet::new();
        let task = dismissed.clone().cancelled_owned();
        late.spawn(lifecycle.critical_tasks().guarded("late", dismissed.clone(), task));
        soft.cancel();
        assert_eq!(lifecycle.run().await, Outcome::Asked);
        dismissed.cancel();
        late.join_all().await;
    });
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        let task = async { panic!("on purpose") };
        let mut late = tokio::task::JoinSet::new();
        late.spawn(lifecycle.critical_tasks().guarded("early", CancellationToken::new(), task));
        assert_eq!(lifecycle.run().await, Outcome::Failed);
    });
}

#[test]
fn hangup_is_counted_and_ends_nothing() {
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        let soft = lifecycle.soft();
        let mut hangups = lifecycle.hangups();
        let run = tokio::task::JoinSet::from_iter([lifecycle.run()]);
        send(Signal::HUP);
        hangups.changed().await.unwrap();
        assert_eq!(*hangups.borrow_and_update(), 1);
        assert!(!soft.is_cancelled());
        soft.cancel();
        assert_eq!(run.join_all().await, [Outcome::Asked]);
    });
}

#[test]
fn critical_task_may_end_when_it_is_dismissed() {
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        let (soft, dismissed) = (lifecycle.soft(), lifecycle.soft().child_token());
        let ended = lifecycle.critical_tasks().spawn("door", dismissed.clone(), {
            let dismissed = dismissed.clone();
            async move { dismissed.cancelled().await }
        });
        dismissed.cancel();
        ended.await.unwrap();
        assert!(!soft.is_cancelled());
        // One that ends unasked takes the process with it.
        lifecycle.critical_tasks().spawn("door", soft.child_token(), async {}).await.unwrap();
        assert_eq!(lifecycle.run().await, Outcome::Failed);
    });
}

/// Not a test: what `watchdog_is_told_while_the_process_serves` runs as a process of its own.
#[test]
#[ignore = "run by watchdog_is_told_while_the_process_serves"]
fn child_that_may_stop_serving() {
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        let serves = Arc::new(AtomicBool::new(true));
        let mut hangups = lifecycle.hangups();
        let switch = tokio::task::JoinSet::from_iter([{
            let serves = Arc::clone(&serves);
            async move {
                while hangups.changed().await.is_ok() {
                    serves.fetch_xor(true, Ordering::SeqCst);
                    systemd::status("switched");
                }
            }
        }]);
        systemd::ready_with_status("serving");
        lifecycle
            .run_while(move || {
                let serves = Arc::clone(&serves);
                async move { serves.load(Ordering::SeqCst) || pending().await }
            })
            .await;
        drop(switch);
    });
}

#[test]
fn watchdog_is_told_while_the_process_serves() {
    let manager = Manager::new();
    let mut child = manager.run("child_that_may_stop_serving");
    manager.told("READY=1");
    manager.told("WATCHDOG=1");
    manager.told("WATCHDOG=1");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::HUP).unwrap();
    manager.told("STATUS=switched");
    // Ten times the time between two ticks.
    manager.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut buffer = [0; 512];
    // One may have been on its way.
    let ticks = std::iter::from_fn(|| manager.socket.recv(&mut buffer).ok()).count();
    assert!(ticks <= 1, "{ticks} ticks of a process that does not serve");
    manager.socket.set_read_timeout(Some(LONG)).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    manager.told("STATUS=switched");
    manager.told("WATCHDOG=1");
    kill_process(pid, Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Not a test: what `service_manager_is_told` runs as a process of its own.
#[test]
#[ignore = "run by service_manager_is_told"]
fn child() {
    alone(|| async {
        let lifecycle = Lifecycle::new(LONG).unwrap();
        systemd::ready_with_status("serving\nEVIL=1");
        systemd::reloading();
        systemd::ready();
        lifecycle.run().await
    });
}

#[test]
fn service_manager_is_told() {
    let manager = Manager::new();
    let mut child = manager.run("child");
    assert_eq!(manager.told("READY=1"), "READY=1\nSTATUS=serving EVIL=1\n");
    assert!(manager.told("RELOADING=1").contains("MONOTONIC_USEC="));
    assert_eq!(manager.told("READY=1"), "READY=1\n", "the status line is left alone");
    manager.told("WATCHDOG=1");
    manager.told("WATCHDOG=1");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(manager.told("STOPPING=1").contains("EXTEND_TIMEOUT_USEC=62000000"));
    assert!(child.wait().unwrap().success());
}

/// The manager's end of the notification socket.
struct Manager {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self { _directory: directory, path, socket }
    }

    /// Runs an ignored test of this file under a watchdog of 0.1 s.
    fn run(&self, test: &str) -> std::process::Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored"])
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", "100000")
            .env_remove("WATCHDOG_PID")
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn told(&self, wanted: &str) -> String {
        let start = Instant::now();
        let mut buffer = [0; 512];
        while start.elapsed() < LONG {
            let length = self.socket.recv(&mut buffer).unwrap();
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.contains(wanted) {
                return message;
            }
        }
        panic!("was never told {wanted}");
    }
}
