//! Callers that do not read: who watches for them, since a body that nobody asks for cannot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Whether the caller owes a read, and since when.
///
/// A response's body notes that it handed something out, and that it was asked again; the connection waits for
/// [`Reader::stalled`] and then drops the response with everything that it holds.
#[derive(Debug)]
pub(crate) struct Reader {
    epoch: Instant,
    /// When the last piece was handed out and not yet followed by a question for more, in milliseconds after `epoch`,
    /// plus one; 0: nothing is owed.
    owing_since: AtomicU64,
    stalled: AtomicBool,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { epoch: Instant::now(), owing_since: AtomicU64::new(0), stalled: AtomicBool::new(false) }
    }

    /// Notes that a piece was handed out: the next question for more shows that there is room again.
    pub(super) fn handed_out(&self) {
        let ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.owing_since.store(ms + 1, Ordering::Relaxed);
    }

    /// Notes that more was asked for, or that there is no more to ask for.
    pub(super) fn asked(&self) {
        self.owing_since.store(0, Ordering::Relaxed);
    }

    /// Tells whether the response was given up because nobody read it.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Waits until the caller has left something unread for as long as `limit` says, which is looked at each time.
    pub(crate) async fn stalled(&self, limit: impl Fn() -> Duration) {
        loop {
            let left = self.left(limit(), Instant::now());
            if left.is_zero() {
                self.stalled.store(true, Ordering::Relaxed);
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn left(&self, limit: Duration, now: Instant) -> Duration {
        match self.owing_since.load(Ordering::Relaxed) {
            0 => limit,
            ms => (self.epoch + Duration::from_millis(ms - 1) + limit).saturating_duration_since(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn only_a_caller_that_owes_a_read_runs_out_of_time() {
        let reader = Reader::new();
        let mut stalled = std::pin::pin!(reader.stalled(|| LIMIT));
        assert!(tokio::time::timeout(3 * LIMIT, stalled.as_mut()).await.is_err(), "nothing was handed out");
        for _ in 0..10 {
            reader.handed_out();
            assert!(tokio::time::timeout(LIMIT / 2, stalled.as_mut()).await.is_err());
            reader.asked();
            assert!(tokio::time::timeout(LIMIT / 2, stalled.as_mut()).await.is_err());
        }
        reader.handed_out();
        let since = Instant::now();
        stalled.await;
        assert!(
            (LIMIT..=LIMIT + Duration::from_millis(2)).contains(&since.elapsed()),
            "{:?}",
            since.elapsed()
        );
        assert!(reader.is_stalled());
    }
}
