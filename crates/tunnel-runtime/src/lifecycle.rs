//! From the first task to the last: signals, an orderly end, a deadline.

use std::fmt;
use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::systemd;

/// How long tasks have after the hard token; who does not end by then is left behind.
const HARD_LIMIT: Duration = Duration::from_secs(2);

/// The life of a process.
///
/// SIGTERM or SIGINT cancels the *soft* token: listeners stop, what runs may finish. A second signal or the
/// end of the grace time cancels the *hard* token: everything ends. The hard token is the soft one's parent,
/// so a task needs to watch only the one that it means. SIGHUP is counted, see [`Lifecycle::hangups`].
pub struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    failed: Arc<AtomicBool>,
    grace: Duration,
    signals: Signals,
    hangup: Signal,
    hangups: watch::Sender<u64>,
}

/// How a process ended; converts to its exit code, 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked to end.
    Asked,
    /// A task that it cannot do without had ended, or [`Lifecycle::fail`] was called.
    Failed,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Asked => Self::SUCCESS,
            Outcome::Failed => Self::FAILURE,
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Lifecycle {
    /// Takes over the signals of the process.
    ///
    /// `grace` is how long running work may go on after the first signal. Fails when a signal handler cannot
    /// be installed. Panics outside a tokio runtime.
    pub fn new(grace: Duration) -> io::Result<Self> {
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        let hard = CancellationToken::new();
        Ok(Self {
            soft: hard.child_token(),
            hard,
            tracker: TaskTracker::new(),
            failed: Arc::default(),
            grace,
            signals,
            hangup: signal(SignalKind::hangup())?,
            hangups: watch::Sender::new(0),
        })
    }

    /// Returns the token that says: take nothing new, finish what runs.
    ///
    /// Whoever cancels it begins the orderly end, as a signal does.
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Returns the token that says: end now.
    pub fn hard(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// Returns the tracker that is waited for at the end. Tasks on it must end after [`Lifecycle::soft`].
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Returns a count of SIGHUPs. Several in a row may be seen as one change, which is what a reload wants.
    pub fn hangups(&self) -> watch::Receiver<u64> {
        self.hangups.subscribe()
    }

    /// Spawns a task that the process cannot do without.
    ///
    /// Should it end before the soft token is cancelled, or panic at any time, the process begins its orderly
    /// end and its outcome is [`Outcome::Failed`]. `name` is for the log.
    pub fn spawn_critical<F>(&self, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = Critical { name, soft: self.soft(), failed: Arc::clone(&self.failed) };
        self.tracker.spawn(async move {
            let _guard = guard;
            task.await;
        })
    }

    /// Begins the orderly end with the outcome [`Outcome::Failed`]. The caller has logged why.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.soft.cancel();
    }

    /// Runs until the process is to end and all tracked tasks have.
    ///
    /// Keeps the service manager's watchdog content from a task of its own, so that a runtime whose workers
    /// hang is noticed.
    pub async fn run(mut self) -> Outcome {
        let mut helpers = JoinSet::new();
        if let Some(interval) = systemd::watchdog_interval() {
            helpers.spawn(tell_watchdog(interval));
        }

        loop {
            tokio::select! {
                () = self.soft.cancelled() => break,
                name = self.signals.ending() => {
                    info!(signal = name, "stopping");
                    break;
                }
                _ = self.hangup.recv() => {
                    debug!(signal = "SIGHUP", "asked to reload");
                    self.hangups.send_modify(|count| *count += 1);
                }
            }
        }
        systemd::stopping(self.grace + HARD_LIMIT);
        self.soft.cancel();
        self.tracker.close();
        self.drain().await;

        if self.failed.load(Ordering::Acquire) { Outcome::Failed } else { Outcome::Asked }
    }

    /// Waits for the tracked tasks: politely, then not.
    async fn drain(&mut self) {
        tokio::select! {
            () = self.tracker.wait() => return,
            name = self.signals.ending() => warn!(signal = name, tasks = self.tracker.len(), "stopping at once"),
            () = tokio::time::sleep(self.grace) => {
                warn!(tasks = self.tracker.len(), grace_s = self.grace.as_secs(), "grace time is over");
            }
        }
        self.hard.cancel();
        if tokio::time::timeout(HARD_LIMIT, self.tracker.wait()).await.is_err() {
            error!(tasks = self.tracker.len(), "tasks did not end");
        }
    }
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifecycle")
            .field("stopping", &self.soft.is_cancelled())
            .field("tasks", &self.tracker.len())
            .finish_non_exhaustive()
    }
}

impl Signals {
    /// Waits for a signal that asks to end and returns its name.
    async fn ending(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Lives as long as a critical task, whichever way that ends.
struct Critical {
    name: &'static str,
    soft: CancellationToken,
    failed: Arc<AtomicBool>,
}

impl Drop for Critical {
    fn drop(&mut self) {
        if self.soft.is_cancelled() && !std::thread::panicking() {
            return;
        }
        error!(task = self.name, "a task that the process cannot do without has ended");
        self.failed.store(true, Ordering::Release);
        self.soft.cancel();
    }
}

async fn tell_watchdog(interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        systemd::watchdog();
    }
}
