//! Callers that do not read: who watches for them, since a body that nobody asks for cannot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
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

/// The readers of one connection.
#[derive(Debug)]
pub(crate) enum Readers {
    /// One response after the other.
    One(Arc<Reader>),
    /// Many at once; those that have ended are taken out when others come.
    Several(Mutex<Vec<Weak<Reader>>>),
}

/// How often the readers of a connection with several are looked at, as a part of the limit.
const LOOKS: u32 = 8;

impl Readers {
    pub(crate) fn one() -> Self {
        Self::One(Arc::new(Reader::new()))
    }

    pub(crate) fn several() -> Self {
        Self::Several(Mutex::default())
    }

    /// Returns the reader of the next response.
    pub(crate) fn next(&self) -> Arc<Reader> {
        match self {
            Self::One(reader) => Arc::clone(reader),
            Self::Several(readers) => {
                let reader = Arc::new(Reader::new());
                let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
                // As many as there are streams at most, and looked through only when there is no more room.
                if readers.len() == readers.capacity() {
                    readers.retain(|reader| reader.strong_count() > 0);
                }
                readers.push(Arc::downgrade(&reader));
                reader
            }
        }
    }

    /// Waits until the caller has left a response unread for as long as `limit` says, which is looked at each time.
    ///
    /// Of several responses one is enough: a caller that wants the others reads this one or resets it.
    pub(crate) async fn stalled(&self, limit: impl Fn() -> Duration) {
        match self {
            Self::One(reader) => reader.stalled(limit).await,
            Self::Several(readers) => loop {
                let limit = limit();
                tokio::time::sleep(limit / LOOKS).await;
                let now = Instant::now();
                let readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
                let overdue = |reader: &Arc<Reader>| reader.left(limit, now).is_zero();
                let stalled: Vec<_> = readers.iter().filter_map(Weak::upgrade).filter(overdue).collect();
                if !stalled.is_empty() {
                    stalled.iter().for_each(|reader| reader.stalled.store(true, Ordering::Relaxed));
                    return;
                }
            },
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

    #[tokio::test(start_paused = true)]
    async fn of_several_responses_one_that_is_not_read_is_enough() {
        let readers = Readers::several();
        let (read, unread) = (readers.next(), readers.next());
        let mut stalled = std::pin::pin!(readers.stalled(|| LIMIT));
        unread.handed_out();
        drop(readers.next());
        for _ in 0..9 {
            read.handed_out();
            assert!(tokio::time::timeout(LIMIT / 10, stalled.as_mut()).await.is_err());
            read.asked();
        }
        stalled.await;
        assert!(unread.is_stalled() && !read.is_stalled());
    }
}
