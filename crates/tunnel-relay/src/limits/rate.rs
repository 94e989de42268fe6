//! Requests a minute, by key: governor's algorithm over a store that cannot grow for ever.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::bounded::Bounded;

/// Keys that one limit remembers at most, some 10 MB. Beyond, those that were not used for longest start over.
const MAX_KEYS: usize = 100_000;
/// Parts of that with a lock each: while one is searched for keys that can be forgotten, requests go on with the others.
const SHARDS: usize = 16;

// draft-ietf-httpapi-ratelimit-headers-10.
pub(crate) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(crate) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How many a minute, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) per_minute: NonZeroU32,
    pub(super) burst: NonZeroU32,
}

impl Terms {
    /// `None`: no limit.
    pub(super) fn of(per_minute: Option<NonZeroU32>, burst: Option<NonZeroU32>) -> Option<Self> {
        let per_minute = per_minute?;
        Some(Self { per_minute, burst: burst.unwrap_or(per_minute) })
    }

    fn quota(self) -> Quota {
        let between = Duration::from_secs(60) / self.per_minute.get();
        // Cannot fail: a minute by any number that the settings take is more than a nanosecond.
        let quota = Quota::with_period(between).unwrap_or(Quota::per_minute(self.per_minute));
        quota.allow_burst(self.burst)
    }
}

/// One limit of requests, for any number of keys.
pub(super) struct Rate<K: Eq + Hash + Clone, C: Clock = MonotonicClock> {
    terms: Terms,
    limiter: RateLimiter<K, Store<K>, C, StateInformationMiddleware>,
    /// `RateLimit-Policy`, the same for all.
    policy: HeaderValue,
    /// What the limit is called in headers.
    name: &'static str,
}

/// A key that has to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wait(pub(super) Duration);

impl<K: Eq + Hash + Clone> Rate<K> {
    pub(super) fn new(name: &'static str, terms: Terms) -> Self {
        Self::with_clock(name, terms, MonotonicClock)
    }
}

impl<K: Eq + Hash + Clone, C: Clock> Rate<K, C> {
    fn with_clock(name: &'static str, terms: Terms, clock: C) -> Self {
        let policy = format!("\"{name}\";q={};w=60", terms.per_minute);
        Self {
            terms,
            limiter: RateLimiter::new(terms.quota(), Store::new(MAX_KEYS), clock),
            policy: HeaderValue::try_from(policy).expect("a word and digits are a header value"),
            name,
        }
    }

    pub(super) fn terms(&self) -> Terms {
        self.terms
    }

    /// Counts one. Returns how many more may come at once, or how long to wait.
    pub(super) fn check(&self, key: &K) -> Result<u32, Wait> {
        match self.limiter.check_key(key) {
            Ok(state) => Ok(state.remaining_burst_capacity()),
            Err(until) => Err(Wait(until.wait_time_from(self.limiter.clock().now()))),
        }
    }

    /// Writes what is left into an answer's headers.
    pub(super) fn tell(&self, left: u32, headers: &mut HeaderMap) {
        let missing = u64::from(self.terms.burst.get().saturating_sub(left));
        let until_full = (missing * 60).div_ceil(u64::from(self.terms.per_minute.get()));
        self.write(headers, left, until_full);
    }

    /// Writes the time to wait into a refusal's headers.
    pub(super) fn tell_wait(&self, wait: &Wait, headers: &mut HeaderMap) {
        let seconds = wait.0.as_millis().div_ceil(1_000).max(1);
        self.write(headers, 0, u64::try_from(seconds).unwrap_or(u64::MAX));
    }

    fn write(&self, headers: &mut HeaderMap, left: u32, seconds: u64) {
        let state = format!("\"{}\";r={left};t={seconds}", self.name);
        headers.append(RATELIMIT_POLICY, self.policy.clone());
        headers
            .append(RATELIMIT, HeaderValue::try_from(state).expect("a word and digits are a header value"));
    }

    /// Forgets those who have all of their allowance again.
    pub(super) fn sweep(&self) {
        self.limiter.retain_recent();
    }
}

impl<K: Eq + Hash + Clone, C: Clock> std::fmt::Debug for Rate<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rate").field("name", &self.name).field("terms", &self.terms).finish_non_exhaustive()
    }
}

/// When each key will have all of its allowance again, in nanoseconds of the limiter's clock.
struct Store<K> {
    shards: [Mutex<Bounded<K, u64>>; SHARDS],
    hasher: RandomState,
}

impl<K: Eq + Hash> Store<K> {
    fn new(capacity: usize) -> Self {
        let shard = |_| Mutex::new(Bounded::new(capacity / SHARDS));
        Self { shards: std::array::from_fn(shard), hasher: RandomState::new() }
    }

    fn shard_of(&self, key: &K) -> MutexGuard<'_, Bounded<K, u64>> {
        let hash = self.hasher.hash_one(key);
        lock(&self.shards[hash as usize % SHARDS])
    }
}

fn lock<K>(shard: &Mutex<Bounded<K, u64>>) -> MutexGuard<'_, Bounded<K, u64>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash + Clone> StateStore for Store<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut states = self.shard_of(key);
        if let Some(state) = states.get(key) {
            let (outcome, next) = measure(Some(Nanos::new(*state)))?;
            *state = next.as_u64();
            return Ok(outcome);
        }
        let (outcome, next) = measure(None)?;
        states.insert(key.clone(), next.as_u64());
        Ok(outcome)
    }
}

impl<K: Eq + Hash + Clone> ShrinkableKeyedStateStore<K> for Store<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
            lock(shard).retain(|state| *state > drop_below.as_u64());
        }
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rate(per_minute: u32, burst: u32) -> (Rate<&'static str, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let terms = Terms::of(NonZeroU32::new(per_minute), NonZeroU32::new(burst)).unwrap();
        (Rate::with_clock("tenant", terms, clock.clone()), clock)
    }

    #[test]
    fn a_burst_is_let_in_and_then_as_many_as_a_minute_allows() {
        let (rate, clock) = rate(60, 3);
        let left: Vec<u32> = (0..3).map(|_| rate.check(&"a").unwrap()).collect();
        assert_eq!(left, [2, 1, 0]);
        assert_eq!(rate.check(&"a"), Err(Wait(Duration::from_secs(1))));
        assert_eq!(rate.check(&"b"), Ok(2), "another key has its own");
        clock.advance(Duration::from_millis(400));
        assert_eq!(rate.check(&"a"), Err(Wait(Duration::from_millis(600))));
        clock.advance(Duration::from_millis(600));
        assert_eq!(rate.check(&"a"), Ok(0));
        let mut let_in = 0;
        for _ in 0..600 {
            clock.advance(Duration::from_millis(100));
            let_in += u32::from(rate.check(&"a").is_ok());
        }
        assert_eq!(let_in, 60);
    }

    #[test]
    fn headers_say_what_is_left_and_when_there_is_more() {
        let (rate, _clock) = rate(30, 10);
        let mut headers = HeaderMap::new();
        rate.tell(rate.check(&"a").unwrap(), &mut headers);
        assert_eq!(headers["ratelimit-policy"], "\"tenant\";q=30;w=60");
        assert_eq!(headers["ratelimit"], "\"tenant\";r=9;t=2");
        while rate.check(&"a").is_ok() {}
        let wait = rate.check(&"a").unwrap_err();
        let mut headers = HeaderMap::new();
        rate.tell_wait(&wait, &mut headers);
        assert_eq!(headers["ratelimit"], "\"tenant\";r=0;t=2");
    }

    #[test]
    fn keys_without_number_are_bounded_and_each_is_counted() {
        let clock = FakeRelativeClock::default();
        let terms = Terms::of(NonZeroU32::new(60), NonZeroU32::new(2)).unwrap();
        let rate = Rate::with_clock("tenant", terms, clock);
        for key in 0..3 * MAX_KEYS {
            assert_eq!(rate.check(&key), Ok(1));
            if key % 1_000 == 0 {
                assert_eq!(rate.check(&key), Ok(0));
                assert!(rate.check(&key).is_err());
            }
        }
        assert!((MAX_KEYS / 2..=MAX_KEYS).contains(&rate.limiter.len()), "{}", rate.limiter.len());
    }

    #[test]
    fn who_has_all_of_the_allowance_again_is_forgotten_and_nobody_else() {
        let (rate, clock) = rate(60, 10);
        rate.check(&"once").unwrap();
        while rate.check(&"busy").is_ok() {}
        clock.advance(Duration::from_secs(5));
        rate.sweep();
        assert_eq!(rate.limiter.len(), 1);
        assert_eq!(rate.check(&"busy"), Ok(4));
        clock.advance(Duration::from_secs(60));
        rate.sweep();
        assert_eq!(rate.limiter.len(), 0);
        assert_eq!(rate.check(&"busy"), Ok(9));
    }
}
