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

/// How often within the manager's limit the process is asked whether it serves: one answer may fail to come.
const ASKED_WITHIN_LIMIT: u32 = 3;

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
        self.critical_tasks().spawn(name, self.soft(), task)
    }

    /// Returns what spawns such tasks later on, for a part that starts and ends them while the process runs.
    pub fn critical_tasks(&self) -> CriticalTasks {
        CriticalTasks { tracker: self.tracker.clone(), soft: self.soft(), failed: Arc::clone(&self.failed) }
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
    pub async fn run(self) -> Outcome {
        self.run_while(|| std::future::ready(true)).await
    }

    /// The same, and the watchdog is told only when `serves` says so.
    ///
    /// It is asked three times within the manager's limit, and each answer must come within a third of it: a
    /// process whose `serves` is false or silent for that long is killed and started anew. Once the process
    /// is on its way out it is not asked any more.
    pub async fn run_while<S, F>(mut self, serves: S) -> Outcome
    where
        S: Fn() -> F + Send + 'static,
        F: Future<Output = bool> + Send + 'static,
    {
        let mut helpers = JoinSet::new();
        if let Some(limit) = systemd::watchdog_limit() {
            helpers.spawn(tell_watchdog(limit / ASKED_WITHIN_LIMIT, serves, self.soft()));
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

/// Spawns tasks that the process cannot do without, for as long as it needs each. Clones share everything.
#[derive(Clone, Debug)]
pub struct CriticalTasks {
    tracker: TaskTracker,
    soft: CancellationToken,
    failed: Arc<AtomicBool>,
}

impl CriticalTasks {
    /// Makes one for parts that run without a [`Lifecycle`], as in a test.
    pub fn new(tracker: TaskTracker, soft: CancellationToken) -> Self {
        Self { tracker, soft, failed: Arc::default() }
    }

    /// Returns where the tasks run, for helpers of theirs.
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Spawns a task that may end once `dismissed` is cancelled, a child of [`Lifecycle::soft`].
    ///
    /// Should it end before, or panic at any time, the process begins its orderly end as a failure.
    pub fn spawn<F>(&self, name: &'static str, dismissed: CancellationToken, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(self.guarded(name, dismissed, task))
    }

    /// Returns `task` as such a task without spawning it, for one that ends after those of the tracker.
    ///
    /// To be dropped, it counts as ended: cancel `dismissed` before.
    pub fn guarded<F>(
        &self,
        name: &'static str,
        dismissed: CancellationToken,
        task: F,
    ) -> impl Future<Output = ()> + Send + use<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (soft, failed) = (self.soft.clone(), Arc::clone(&self.failed));
        let guard = Critical { name, dismissed, soft, failed };
        async move {
            let _guard = guard;
            task.await;
        }
    }
}

/// Lives as long as a critical task, whichever way that ends.
struct Critical {
    name: &'static str,
    dismissed: CancellationToken,
    soft: CancellationToken,
    failed: Arc<AtomicBool>,
}

impl Drop for Critical {
    fn drop(&mut self) {
        if self.dismissed.is_cancelled() && !std::thread::panicking() {
            return;
        }
        error!(task = self.name, "a task that the process cannot do without has ended");
        self.failed.store(true, Ordering::Release);
        self.soft.cancel();
    }
}

async fn tell_watchdog<F>(interval: Duration, serves: impl Fn() -> F, soft: CancellationToken)
where
    F: Future<Output = bool>,
{
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        if soft.is_cancelled() || tokio::time::timeout(interval, serves()).await == Ok(true) {
            systemd::watchdog();
        } else {
            error!("the process does not serve, the watchdog is not told");
        }
    }
}
