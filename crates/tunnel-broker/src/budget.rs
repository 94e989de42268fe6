//! How many attempts may be made beyond the first of each request. Pure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Further attempts per hundred requests of the window: servers that fail because they are overloaded get no
/// more than a fifth on top.
const PERCENT: u64 = 20;
/// Seconds of the window: long enough for the requests of a server that was lost in one moment.
const WINDOW: u64 = 10;
/// Further attempts a second that are always allowed, so that a quiet broker can move its few requests. From 50
/// requests a second on they come out of the share, of which a burst leaves as many for each second to come.
const ALWAYS: u64 = 10;

/// Counts requests and further attempts of all backends together.
///
/// A request that found no connection anywhere pays nothing for looking further: nothing was sent, so there is
/// no work that could multiply, and the backend is ejected by the first of them.
#[derive(Debug)]
pub(crate) struct Budget {
    origin: Instant,
    requests: Ring,
    extras: Ring,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { origin: now, requests: Ring::default(), extras: Ring::default() }
    }

    /// Notes a request.
    pub(crate) fn request(&self, now: Instant) {
        self.requests.add(self.second(now));
    }

    /// Takes one further attempt; false when there is none left.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let second = self.second(now);
        let allowed = self.requests.sum(second) * PERCENT / 100;
        let taken = self.extras.sum(second);
        let first = self.extras.count(second) < ALWAYS;
        let takes = if allowed < ALWAYS * WINDOW {
            first || taken < allowed
        } else {
            let kept_back = if first { 0 } else { self.kept_back(second) };
            taken + kept_back < allowed
        };
        if takes {
            self.extras.add(second);
        }
        takes
    }

    /// Returns how many must be left now for each of the coming seconds to have its [`ALWAYS`], in so far as what falls
    /// out of the window until then is not enough.
    fn kept_back(&self, second: u64) -> u64 {
        let (mut freed, mut most) = (0, 0);
        for ahead in 1..WINDOW {
            freed += self.extras.count((second + ahead).saturating_sub(WINDOW));
            most = most.max((ALWAYS * ahead).saturating_sub(freed));
        }
        most
    }

    /// From 1 on, so that no time is that of an untouched slot.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_secs() + 1
    }
}

/// Counts by the second. Each slot holds its second in the upper half and the count in the lower: one word, so
/// that noting a request takes no lock.
#[derive(Debug, Default)]
struct Ring([AtomicU64; WINDOW as usize]);

impl Ring {
    fn add(&self, second: u64) {
        let slot = &self.0[(second % WINDOW) as usize];
        let before = slot.load(Ordering::Relaxed);
        if before >> 32 == second {
            slot.fetch_add(1, Ordering::Relaxed);
        } else {
            // Whoever is first begins the second; whoever loses that race counts in it.
            let begun = slot.compare_exchange(before, second << 32 | 1, Ordering::Relaxed, Ordering::Relaxed);
            if begun.is_err() {
                slot.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn count(&self, second: u64) -> u64 {
        let slot = self.0[(second % WINDOW) as usize].load(Ordering::Relaxed);
        if slot >> 32 == second { slot & u64::from(u32::MAX) } else { 0 }
    }

    fn sum(&self, second: u64) -> u64 {
        (second.saturating_sub(WINDOW - 1)..=second).map(|second| self.count(second)).sum()
    }
}

/// How long a request waits before it asks again for an attempt that it was not given.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends `rate` requests a second, each of which wants `each` further attempts; returns how many those got.
    fn flood(rate: u64, seconds: u64, each: u64) -> (u64, u64) {
        let start = Instant::now();
        let budget = Budget::new(start);
        let mut extras = 0;
        for n in 0..rate * seconds {
            let now = start + Duration::from_millis(n * 1000 / rate);
            budget.request(now);
            extras += (0..each).filter(|_| budget.take(now)).count() as u64;
        }
        (rate * seconds, extras)
    }

    #[test]
    fn a_fifth_is_allowed_at_any_rate_that_matters() {
        for rate in [50, 200, 1000] {
            let (requests, extras) = flood(rate, 60, 5);
            assert!(extras * 100 <= requests * 20, "{extras} of {requests}");
            assert!(extras * 100 >= requests * 19, "{extras} of {requests}: it is to be used");
        }
    }

    #[test]
    fn ten_a_second_are_always_allowed() {
        let (_, extras) = flood(1, 60, 50);
        assert_eq!(extras, 600);
        let (requests, extras) = flood(5, 60, 1);
        assert_eq!(extras, requests, "each of a few requests can move");
    }

    #[test]
    fn a_burst_leaves_something_for_the_next_seconds() {
        for rate in [50, 100, 300] {
            let start = Instant::now();
            let budget = Budget::new(start);
            let mut taken = [0; 40];
            for n in 0..rate * 40 {
                let now = start + Duration::from_millis(n * 1000 / rate);
                budget.request(now);
                let second = (n / rate) as usize;
                if second >= 12 {
                    taken[second] += (0..rate).filter(|_| budget.take(now)).count() as u64;
                }
            }
            let (least, most) = (taken[12..].iter().min().unwrap(), taken[12..].iter().max().unwrap());
            assert!(*least >= ALWAYS, "{rate}: {taken:?}");
            assert!(
                *most >= rate * WINDOW / 5 - ALWAYS * (WINDOW - 1),
                "{rate}: a burst gets the rest: {taken:?}"
            );
        }
    }

    #[test]
    fn what_was_not_used_is_forgotten() {
        let start = Instant::now();
        let budget = Budget::new(start);
        (0..10_000).for_each(|_| budget.request(start));
        let late = start + Duration::from_secs(WINDOW);
        assert_eq!((0..100).filter(|_| budget.take(late)).count() as u64, ALWAYS);
    }

    proptest! {
        /// However requests and wishes come: in any window there are no more further attempts than a fifth of
        /// its requests, or ten for each second.
        #[test]
        fn attempts_are_bounded(steps in prop::collection::vec((0u64..1_500, 0u64..80, 0u64..80), 1..120)) {
            let start = Instant::now();
            let budget = Budget::new(start);
            let mut now = start;
            let (mut requests, mut taken) = (vec![0u64; 200], vec![0u64; 200]);
            for (ms, n_requests, wishes) in steps {
                now += Duration::from_millis(ms);
                let second = (now - start).as_secs() as usize;
                for _ in 0..n_requests {
                    budget.request(now);
                }
                requests[second] += n_requests;
                let window = second.saturating_sub(WINDOW as usize - 1)..=second;
                for _ in 0..wishes {
                    if budget.take(now) {
                        taken[second] += 1;
                        let requests: u64 = requests[window.clone()].iter().sum();
                        let taken_all: u64 = taken[window.clone()].iter().sum();
                        prop_assert!(taken_all <= requests * PERCENT / 100 || taken[second] <= ALWAYS);
                    } else {
                        prop_assert!(taken[second] >= ALWAYS || requests[window.clone()].iter().sum::<u64>() > 0);
                    }
                }
            }
        }
    }
}
