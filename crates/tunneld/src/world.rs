//! What happens around the daemon: the network comes, the machine wakes, somebody sets the clock.
//!
//! Each source is optional. Where none of them works the tunnel's heartbeat finds out by itself, only later.

mod clock;
mod debounce;
mod network;
mod sleep;

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use self::debounce::Debouncer;
use crate::until::until;

/// What makes the path to the relay worth another look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An address, a route or a link was gained.
    #[default]
    Network,
    /// The machine woke from sleep.
    Resume,
    /// Somebody set the clock, and times in tokens mean something else than before.
    Clock,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Resume => "resume",
            Self::Clock => "clock",
        }
    }
}

/// The newest change of the world. It is published at most once per [`Debouncer::GAP`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wake {
    /// How many there have been.
    pub(crate) count: u64,
    /// What the newest was about; nothing before the first.
    pub(crate) cause: Cause,
}

/// Causes that wait for the debouncer. One that finds no room is dropped: those before it make the same wake.
const MAX_WAITING_CAUSES: usize = 8;

/// Listens to the world on `tracker` until `soft` ends. `system_bus` is where the login manager is asked about sleep,
/// the usual place without it.
pub(crate) fn listen(
    system_bus: Option<OsString>,
    tracker: &TaskTracker,
    soft: &CancellationToken,
) -> watch::Receiver<Wake> {
    let (causes, arriving) = mpsc::channel(MAX_WAITING_CAUSES);
    spawn(tracker, soft, network::listen(causes.clone()));
    spawn(tracker, soft, sleep::listen(system_bus, causes.clone()));
    spawn(tracker, soft, clock::listen(causes));
    let (wakes, reader) = watch::channel(Wake::default());
    spawn(tracker, soft, publish(arriving, wakes));
    reader
}

fn spawn(tracker: &TaskTracker, soft: &CancellationToken, source: impl Future<Output = ()> + Send + 'static) {
    let soft = soft.clone();
    tracker.spawn(async move {
        let _stopped = soft.run_until_cancelled(source).await;
    });
}

/// Hands a cause on, to whom it may concern.
fn report(causes: &mpsc::Sender<Cause>, cause: Cause) {
    // Full: a wake is on its way already.
    let _full = causes.try_send(cause);
}

/// Watches a descriptor that does not block.
#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types that change their descriptor, and these do not"
)]
fn readiness<T: AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// Publishes wakes until no source is left. Sleeps as long as nothing happens.
async fn publish(mut causes: mpsc::Receiver<Cause>, wakes: watch::Sender<Wake>) {
    let mut debouncer = Debouncer::default();
    loop {
        let due = debouncer.due();
        tokio::select! {
            cause = causes.recv() => match cause {
                Some(cause) => {
                    debug!(cause = cause.as_str(), "the world has changed");
                    debouncer.note(cause);
                }
                None => return,
            },
            () = until(due) => {}
        }
        if let Some(cause) = debouncer.take(tokio::time::Instant::now().into_std()) {
            if cause != Cause::Network {
                info!(cause = cause.as_str(), "looking whether the tunnel still stands");
            }
            wakes.send_modify(|wake| *wake = Wake { count: wake.count + 1, cause });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn storm_becomes_one_wake_now_and_one_at_its_end() {
        let (causes, arriving) = mpsc::channel(MAX_WAITING_CAUSES);
        let (wakes, mut reader) = watch::channel(Wake::default());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(publish(arriving, wakes));
        let begun = tokio::time::Instant::now();
        report(&causes, Cause::Network);
        reader.wait_for(|wake| wake.count == 1).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "the first is not delayed");
        for _ in 0..50 {
            report(&causes, Cause::Network);
            tokio::task::yield_now().await;
        }
        reader.wait_for(|wake| wake.count == 2).await.unwrap();
        assert_eq!(begun.elapsed(), Debouncer::GAP);
        tokio::time::sleep(Debouncer::GAP * 10).await;
        assert_eq!(reader.borrow().count, 2);
    }
}
