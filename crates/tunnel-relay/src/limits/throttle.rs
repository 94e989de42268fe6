//! Bytes a second of one tenant in one direction: its streams wait their turn for a bucket that they share.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What may come at once after a pause, as time: little enough that a second is a second, enough that a stream of
/// tokens is not held up.
const BURST: Duration = Duration::from_millis(100);

/// Longest nap before the rate is looked at anew: a reload may have changed it.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// The bucket of a tenant and the queue before it.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Bytes a second; 0: not limited (any more).
    rate: AtomicU32,
    bucket: Mutex<Bucket>,
    /// Who holds it is next; the rest waits in the order of its coming, one piece each, which shares the bytes out
    /// evenly. Whoever hangs up leaves the queue and has taken nothing.
    turn: Arc<Semaphore>,
}

impl Throttle {
    pub(super) fn new(rate: Option<NonZeroU32>, now: Instant) -> Self {
        Self {
            rate: AtomicU32::new(rate.map_or(0, NonZeroU32::get)),
            bucket: Mutex::new(Bucket::new(now)),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Sets the rate for all that wait, too.
    pub(super) fn set_rate(&self, rate: Option<NonZeroU32>) {
        self.rate.store(rate.map_or(0, NonZeroU32::get), Ordering::Relaxed);
    }

    /// Takes bytes at once if nobody waits and there are some. Otherwise: [`Self::take`].
    pub(crate) fn try_take(&self, n_bytes: usize) -> bool {
        let Ok(_turn) = self.turn.try_acquire() else { return false };
        self.take_or_wait(n_bytes).is_none()
    }

    /// Waits for its turn and until the bucket has paid what was taken before, then takes.
    pub(crate) async fn take(self: Arc<Self>, n_bytes: usize) {
        let _turn = self.wait_turn().await;
        while let Some(wait) = self.take_or_wait(n_bytes) {
            tokio::time::sleep(wait.min(LONGEST_NAP)).await;
        }
    }

    async fn wait_turn(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed; without a turn there would be no order, and still a limit.
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    fn take_or_wait(&self, n_bytes: usize) -> Option<Duration> {
        let rate = NonZeroU32::new(self.rate.load(Ordering::Relaxed))?;
        self.lock().take(n_bytes, rate, Instant::now()).err()
    }

    /// Tells whether forgetting it would give nobody an advantage.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        NonZeroU32::new(self.rate.load(Ordering::Relaxed)).is_none_or(|rate| self.lock().is_full(rate, now))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that may go now. Less than none: what went is still being paid.
#[derive(Debug)]
struct Bucket {
    level: f64,
    /// When the level was as it says.
    at: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        // The first look fills it.
        Self { level: f64::INFINITY, at: now }
    }

    /// A piece goes whole as soon as nothing is owed: pieces are at most what one read of a socket brings, and cutting
    /// them would cost more than it evens out.
    fn take(&mut self, n_bytes: usize, rate: NonZeroU32, now: Instant) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.level < 0.0 {
            return Err(
                Duration::from_secs_f64(-self.level / f64::from(rate.get())).max(Duration::from_millis(1))
            );
        }
        self.level -= n_bytes as f64;
        Ok(())
    }

    fn is_full(&mut self, rate: NonZeroU32, now: Instant) -> bool {
        self.fill(rate, now);
        self.level >= most(rate)
    }

    fn fill(&mut self, rate: NonZeroU32, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * f64::from(rate.get())).min(most(rate));
        self.at = now;
    }
}

fn most(rate: NonZeroU32) -> f64 {
    BURST.as_secs_f64() * f64::from(rate.get())
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const RATE: NonZeroU32 = NonZeroU32::new(100_000).unwrap();

    #[test]
    fn over_time_as_many_bytes_go_as_the_rate_says() {
        let start = Instant::now();
        for piece in [100, 1_500, 16_384, 65_536] {
            let mut bucket = Bucket::new(start);
            let (mut now, mut sent) = (start, 0);
            while now < start + Duration::from_secs(20) {
                match bucket.take(piece, RATE, now) {
                    Ok(()) => sent += piece,
                    Err(wait) => now += wait,
                }
            }
            let expected = 20 * 100_000;
            assert!(sent >= expected && sent <= expected + 10_000 + 2 * piece, "{piece}: {sent}");
        }
    }

    #[test]
    fn a_pause_saves_up_a_burst_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        bucket.take(200_000, RATE, start).unwrap();
        assert_eq!(bucket.take(1, RATE, start), Err(Duration::from_millis(1_900)));
        assert!(!bucket.is_full(RATE, start + Duration::from_millis(1_999)));
        assert!(bucket.is_full(RATE, start + Duration::from_secs(3_600)));
        bucket.take(10_001, RATE, start + Duration::from_secs(3_600)).unwrap();
        assert!(bucket.take(1, RATE, start + Duration::from_secs(3_600)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn streams_share_evenly_and_one_that_hangs_up_takes_nothing() {
        let throttle = Arc::new(Throttle::new(Some(RATE), Instant::now()));
        let mut streams = JoinSet::new();
        for _ in 0..4 {
            let throttle = Arc::clone(&throttle);
            streams.spawn(async move {
                let (mut sent, end) = (0, Instant::now() + Duration::from_secs(10));
                while Instant::now() < end {
                    Arc::clone(&throttle).take(10_000).await;
                    sent += 10_000;
                }
                sent
            });
        }
        // Comes and goes all the time while the others wait.
        let impatient = Arc::clone(&throttle);
        streams.spawn(async move {
            for _ in 0..100 {
                let taken =
                    tokio::time::timeout(Duration::from_millis(10), Arc::clone(&impatient).take(1_000_000));
                assert!(taken.await.is_err());
            }
            250_000
        });
        let sent = streams.join_all().await;
        assert!(sent.iter().all(|sent| (240_000..=290_000).contains(sent)), "{sent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_rate_holds_for_those_who_wait() {
        let slow = NonZeroU32::new(1_024);
        let throttle = Arc::new(Throttle::new(slow, Instant::now()));
        assert!(throttle.try_take(1_024_000));
        assert!(!throttle.try_take(1));
        let start = Instant::now();
        let waiting = Arc::clone(&throttle).take(1);
        let change = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            throttle.set_rate(None);
        };
        tokio::join!(waiting, change);
        assert!(start.elapsed() <= Duration::from_secs(4), "{:?}", start.elapsed());
        assert!(throttle.is_full(Instant::now()) && throttle.try_take(usize::MAX / 2));
    }
}
