use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::breaker::{Breaker, Event, Position, SAMPLE};

/// How the recent requests of one backend went, and the breaker that follows them.
///
/// While all goes well a success is counted with two atomic additions. The breaker, which is behind a lock, is
/// asked and told only from the first failure on until that is made good.
#[derive(Debug)]
pub(crate) struct Outcomes {
    succeeded: AtomicU32,
    failed: AtomicU32,
    /// Successes that the breaker has not been told of.
    untold: AtomicU32,
    /// Whether the breaker is closed and nothing is about to change that.
    calm: AtomicBool,
    breaker: Mutex<Breaker>,
}

/// Failed share, 0 to 1, from which on a backend counts as degraded.
const HIGH_RATE: f64 = 0.1;
/// Failures below which the share says nothing.
const FEW_FAILURES: u32 = 3;

impl Outcomes {
    /// `longest`: the longest time that the breaker stays open.
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            succeeded: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            untold: AtomicU32::new(0),
            calm: AtomicBool::new(true),
            breaker: Mutex::new(Breaker::new(longest)),
        }
    }

    /// Notes a request that went well; true when that moved the breaker.
    pub(crate) fn succeeded(&self) -> bool {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        if self.is_calm() {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.tell(Event::Succeeded, Instant::now())
    }

    /// Notes a request that failed after the backend had got it, or may have; true when that moved the breaker.
    pub(crate) fn failed(&self) -> bool {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.tell(Event::Failed, Instant::now())
    }

    /// Notes that nothing could be sent, or that a probe found the server silent: it is ejected at once.
    pub(crate) fn unreachable(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.tell(Event::Unreachable, Instant::now());
    }

    /// Notes that a request is about to be sent.
    pub(crate) fn tried(&self) {
        if !self.is_calm() {
            self.tell(Event::Tried, Instant::now());
        }
    }

    /// Notes a probe that went well; true when that brought the backend back.
    pub(crate) fn probed_well(&self) -> bool {
        !self.is_calm() && self.tell(Event::ProbedWell, Instant::now())
    }

    /// Changes the longest time that the breaker stays open.
    pub(crate) fn set_longest(&self, longest: Duration) {
        self.breaker().set_longest(longest);
    }

    pub(crate) fn position(&self, now: Instant) -> Position {
        if self.is_calm() { Position::Closed } else { self.breaker().position(now) }
    }

    /// Returns when the next request may be tried on an ejected backend; none when it is not ejected.
    pub(crate) fn next_trial(&self, now: Instant) -> Option<Instant> {
        if self.is_calm() { None } else { self.breaker().next_trial(now) }
    }

    /// Returns how much of its part of the load the backend should get, in percent: 1 to 100.
    pub(crate) fn share(&self, now: Instant) -> u32 {
        if self.is_calm() { 100 } else { self.breaker().share(now) }
    }

    /// Returns the failed share, 0 to 1; 0 when there were no requests.
    pub(crate) fn error_rate(&self) -> f64 {
        let failed = f64::from(self.failed.load(Ordering::Relaxed));
        let all = failed + f64::from(self.succeeded.load(Ordering::Relaxed));
        if all == 0.0 { 0.0 } else { failed / all }
    }

    /// Tells whether so many requests failed that someone should look.
    pub(crate) fn is_bad(&self) -> bool {
        self.failed.load(Ordering::Relaxed) >= FEW_FAILURES && self.error_rate() > HIGH_RATE
    }

    /// Halves the weight of all that happened so far. What is counted meanwhile is not lost.
    pub(crate) fn fade(&self) {
        for count in [&self.succeeded, &self.failed] {
            let half = count.load(Ordering::Relaxed).div_ceil(2);
            count.fetch_sub(half, Ordering::Relaxed);
        }
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Returns whether the breaker stands elsewhere than before.
    fn tell(&self, event: Event, now: Instant) -> bool {
        let mut breaker = self.breaker();
        let before = breaker.position(now);
        // How long ago they were is not known, so they count as a few at most.
        breaker.succeeded(self.untold.swap(0, Ordering::Relaxed).min(SAMPLE), now);
        breaker.handle(event, now, rand::random());
        self.calm.store(breaker.is_calm(now), Ordering::Relaxed);
        breaker.position(now) != before
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Changed in single assignments: sound after a panic.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn the_past_fades() {
        let outcomes = Outcomes::new(LONGEST);
        outcomes.failed();
        for _ in 0..3 {
            outcomes.succeeded();
        }
        assert_eq!(outcomes.error_rate(), 0.25);
        for _ in 0..4 {
            outcomes.fade();
        }
        assert_eq!(outcomes.error_rate(), 0.0);
    }

    #[test]
    fn successes_that_were_not_told_count_when_it_matters() {
        let outcomes = Outcomes::new(LONGEST);
        for round in 0..30 {
            for _ in 0..3 {
                outcomes.succeeded();
            }
            outcomes.failed();
            assert_eq!(outcomes.position(Instant::now()), Position::Closed, "{round}");
            assert!(!outcomes.is_calm());
            outcomes.succeeded();
            assert!(outcomes.is_calm(), "a quarter that fails, with successes between: {round}");
        }
        assert!(outcomes.is_bad());
    }

    #[test]
    fn it_is_calm_again_after_the_return() {
        let start = Instant::now();
        let outcomes = Outcomes::new(LONGEST);
        assert!(outcomes.tell(Event::Unreachable, start));
        let position = |now| outcomes.position(now);
        assert_eq!([position(start), position(start + LONGEST)], [Position::Open, Position::HalfOpen]);
        assert_eq!(outcomes.next_trial(start), Some(start + LONGEST));
        assert_eq!(outcomes.next_trial(start + LONGEST), None);
        assert_eq!(outcomes.position(start), Position::Open);
        assert!(outcomes.tell(Event::ProbedWell, start));
        assert_eq!(outcomes.position(start), Position::Returning);
        let back = start + crate::breaker::RETURN_TIME;
        assert_eq!((outcomes.position(back), outcomes.share(back)), (Position::Closed, 100));
        assert!(!outcomes.is_calm());
        assert!(!outcomes.tell(Event::Succeeded, back));
        assert!(outcomes.is_calm());
    }
}
