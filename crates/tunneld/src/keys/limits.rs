//! How much may be asked with one key. Pure.

use std::time::Duration;

use tokio::time::Instant;
use tunnel_api::KeyLimits;

/// What one key has used of its limits.
#[derive(Debug)]
pub(super) struct Limiter {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    most_running: Option<u32>,
    running: u32,
}

/// What one request has cost so far.
#[derive(Debug, Default)]
pub(super) struct Spent(u64);

impl Spent {
    /// Tells whether a count is more than what the key was charged with.
    pub(super) fn is_news(&self, tokens: u64) -> bool {
        tokens > self.0
    }
}

/// Which limit a request would break, and when the same request may do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    pub(crate) limit: Limit,
    pub(crate) retry_after: Duration,
}

/// One of a key's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    RequestsPerMinute(u32),
    TokensPerMinute(u32),
    Concurrent(u32),
}

impl Limiter {
    /// When a request that runs ends cannot be known: clients that heed it come again soon.
    const ENDS_SOON: Duration = Duration::from_secs(1);

    pub(super) fn new(limits: &KeyLimits, now: Instant) -> Self {
        let bucket = |limit: Option<std::num::NonZeroU32>| limit.map(|limit| Bucket::full(limit.get(), now));
        Self {
            requests: bucket(limits.requests_per_minute),
            tokens: bucket(limits.tokens_per_minute),
            most_running: limits.concurrent.map(std::num::NonZeroU32::get),
            running: 0,
        }
    }

    /// Takes a request in, or says why not. What is refused uses up nothing.
    ///
    /// With tokens it is let in while there are more than what runs has set aside: what a request will cost is not known, so
    /// each holds a share of a minute's worth while it runs, and no more than [`Bucket::SHARES`] run at once. What they take
    /// beyond the limit is owed, and the next ones wait until that is made good.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), OverLimit> {
        let over = |limit, retry_after| Err(OverLimit { limit, retry_after });
        if let Some(most) = self.most_running.filter(|most| self.running >= *most) {
            return over(Limit::Concurrent(most), Self::ENDS_SOON);
        }
        if let Some(tokens) = &mut self.tokens {
            tokens.refill(now);
            let limit = Limit::TokensPerMinute(tokens.per_minute);
            if tokens.level <= 0.0 {
                // A whole token, so that the one who waited as told is let in.
                return over(limit, tokens.time_until(1.0));
            }
            if tokens.level <= tokens.share() * f64::from(self.running) {
                return over(limit, Self::ENDS_SOON);
            }
        }
        if let Some(requests) = &mut self.requests {
            requests.refill(now);
            if requests.level < 1.0 {
                return over(Limit::RequestsPerMinute(requests.per_minute), requests.time_until(1.0));
            }
            requests.level -= 1.0;
        }
        self.running += 1;
        Ok(())
    }

    /// Charges the key with what a request has cost: `tokens` in all. A request is charged no more than
    /// [`Bucket::MOST_CHARGED`], whatever a server says it counted.
    pub(super) fn charge(&mut self, spent: &mut Spent, tokens: u64, now: Instant) {
        if let Some(bucket) = &mut self.tokens {
            bucket.refill(now);
            let tokens = tokens.min(u64::from(bucket.per_minute) * Bucket::MOST_CHARGED);
            bucket.level -= tokens.saturating_sub(spent.0) as f64;
            spent.0 = spent.0.max(tokens);
        }
    }

    /// Tells whether tokens are limited.
    pub(super) fn counts_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Notes that a request that was taken in has ended.
    pub(super) fn leave(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

/// A minute's worth, which fills evenly.
#[derive(Debug)]
struct Bucket {
    per_minute: u32,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// Minutes' worth that one request can be charged with: an hour's.
    const MOST_CHARGED: u64 = 60;
    /// Requests that may run at once.
    const SHARES: u32 = 16;

    fn full(per_minute: u32, now: Instant) -> Self {
        Self { per_minute, level: f64::from(per_minute), at: now }
    }

    /// What a request holds while it runs.
    fn share(&self) -> f64 {
        f64::from(self.per_minute) / f64::from(Self::SHARES)
    }

    fn refill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second();
        self.level = (self.level + gained).min(f64::from(self.per_minute));
        self.at = now.max(self.at);
    }

    fn time_until(&self, level: f64) -> Duration {
        // Rounded up to whole seconds, as the header has them.
        let seconds = ((level - self.level).max(0.0) / self.per_second()).ceil().max(1.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    fn per_second(&self) -> f64 {
        f64::from(self.per_minute) / 60.0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn limiter(requests: u32, tokens: u32, concurrent: u32, now: Instant) -> Limiter {
        let limits = KeyLimits {
            requests_per_minute: NonZeroU32::new(requests),
            tokens_per_minute: NonZeroU32::new(tokens),
            concurrent: NonZeroU32::new(concurrent),
        };
        Limiter::new(&limits, now)
    }

    /// A request that was let in ends, and has cost this much.
    fn cost(limiter: &mut Limiter, tokens: u64, now: Instant) {
        let mut spent = Spent::default();
        limiter.charge(&mut spent, tokens, now);
        limiter.leave();
    }

    #[test]
    fn requests_of_a_minute_may_come_at_once_and_then_evenly() {
        let start = Instant::now();
        let mut limiter = limiter(6, 0, 0, start);
        for _ in 0..6 {
            assert_eq!(limiter.admit(start), Ok(()));
        }
        let retry_after = Duration::from_secs(10);
        assert_eq!(limiter.admit(start), Err(OverLimit { limit: Limit::RequestsPerMinute(6), retry_after }));
        assert_eq!(limiter.admit(start + retry_after), Ok(()));
        assert!(limiter.admit(start + retry_after).is_err());
    }

    #[test]
    fn request_is_let_in_while_tokens_are_left_and_what_is_owed_is_waited_for() {
        let start = Instant::now();
        let mut limiter = limiter(0, 60, 0, start);
        assert_eq!(limiter.admit(start), Ok(()));
        cost(&mut limiter, 59, start);
        assert_eq!(limiter.admit(start), Ok(()), "one is left");
        cost(&mut limiter, 100, start);
        let over = limiter.admit(start).unwrap_err();
        assert_eq!(
            over,
            OverLimit { limit: Limit::TokensPerMinute(60), retry_after: Duration::from_secs(100) }
        );
        assert_eq!(limiter.admit(start + over.retry_after), Ok(()));
    }

    #[test]
    fn absurd_count_locks_a_key_for_an_hour_and_no_longer() {
        let start = Instant::now();
        let mut limiter = limiter(0, 60, 0, start);
        assert_eq!(limiter.admit(start), Ok(()));
        cost(&mut limiter, u64::MAX, start);
        let over = limiter.admit(start).unwrap_err();
        // The minute's worth that there was is gone first.
        assert_eq!(over.retry_after, Duration::from_secs(3541));
        assert_eq!(limiter.admit(start + over.retry_after), Ok(()));
    }

    #[test]
    fn no_more_run_at_once_than_have_tokens_set_aside() {
        let start = Instant::now();
        let mut limiter = limiter(0, 1600, 0, start);
        let admitted = (0..500).filter(|_| limiter.admit(start).is_ok()).count();
        assert_eq!(admitted, Bucket::SHARES as usize);
        let over = limiter.admit(start).unwrap_err();
        assert_eq!((over.limit, over.retry_after), (Limit::TokensPerMinute(1600), Limiter::ENDS_SOON));
        // One that was cheap leaves its room to the next one.
        cost(&mut limiter, 10, start);
        assert_eq!(limiter.admit(start), Ok(()));
        assert!(limiter.admit(start).is_err());
    }

    #[test]
    fn as_many_run_at_once_as_may_and_a_refused_one_costs_nothing() {
        let start = Instant::now();
        let mut limiter = limiter(3, 0, 1, start);
        assert_eq!(limiter.admit(start), Ok(()));
        for _ in 0..10 {
            assert_eq!(limiter.admit(start).unwrap_err().limit, Limit::Concurrent(1));
        }
        limiter.leave();
        assert_eq!(limiter.admit(start), Ok(()));
        limiter.leave();
        assert_eq!(limiter.admit(start), Ok(()));
    }

    #[test]
    fn no_limit_is_none() {
        let start = Instant::now();
        let mut limiter = limiter(0, 0, 0, start);
        cost(&mut limiter, u64::MAX, start);
        assert!((0..10_000).all(|_| limiter.admit(start).is_ok()) && !limiter.counts_tokens());
    }

    proptest! {
        #[test]
        fn never_more_than_a_minutes_worth_and_what_flows_in(
            per_minute in 1_u32..200,
            steps in proptest::collection::vec(0_u64..5_000, 1..300),
        ) {
            let start = Instant::now();
            let (mut limiter, mut now, mut admitted) = (limiter(per_minute, 0, 0, start), start, 0_u32);
            for step in steps {
                now += Duration::from_millis(step);
                admitted += u32::from(limiter.admit(now).is_ok());
            }
            let flowed = (now - start).as_secs_f64() * f64::from(per_minute) / 60.0;
            prop_assert!(f64::from(admitted) <= f64::from(per_minute) + flowed + 1e-6);
        }

        #[test]
        fn who_waits_as_told_is_let_in(
            requests in 1_u32..100,
            tokens in 1_u32..10_000,
            costs in proptest::collection::vec(0_u64..20_000, 1..50),
        ) {
            let mut now = Instant::now();
            let mut limiter = limiter(requests, tokens, 0, now);
            for price in costs {
                // Each limit is told when it is reached: at most both, one after the other.
                let refused = (0..3).take_while(|_| match limiter.admit(now) {
                    Ok(()) => false,
                    Err(over) => { now += over.retry_after; true }
                }).count();
                prop_assert!(refused <= 2, "refused {refused} times");
                cost(&mut limiter, price, now);
            }
        }

        #[test]
        fn what_runs_beside_each_other_takes_no_more_than_sixteen_requests_beyond_the_limit(
            per_minute in 1_u32..100_000,
            dearest in 1_u64..200_000,
            steps in proptest::collection::vec((0_u64..5_000, 0..3_u8, 0.0..1.0_f64), 1..400),
        ) {
            let start = Instant::now();
            let (mut limiter, mut now) = (limiter(0, per_minute, 0, start), start);
            let (mut running, mut taken) = (std::collections::VecDeque::new(), 0_u64);
            let dearest = dearest.min(u64::from(per_minute) * Bucket::MOST_CHARGED);
            for (step, kind, part) in steps {
                now += Duration::from_millis(step);
                match kind {
                    // A burst.
                    0 => while limiter.admit(now).is_ok() { running.push_back(Spent::default()); },
                    // One that runs has cost this much so far, or in all.
                    kind => if let Some(mut spent) = running.pop_front() {
                        let before = spent.0;
                        limiter.charge(&mut spent, (dearest as f64 * part) as u64, now);
                        taken += spent.0 - before;
                        if kind == 1 { running.push_back(spent) } else { limiter.leave() }
                    }
                }
                prop_assert!(running.len() <= Bucket::SHARES as usize);
                let flowed = (now - start).as_secs_f64() * f64::from(per_minute) / 60.0;
                let most = f64::from(per_minute) + flowed + (u64::from(Bucket::SHARES) * dearest) as f64;
                prop_assert!(taken as f64 <= most + 1e-3, "{taken} > {most}");
            }
        }
    }
}
