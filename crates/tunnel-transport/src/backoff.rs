//! How long to wait before the next dial: pure, with time and randomness passed in.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

/// Waits between dials: full jitter, doubling from [`Backoff::BASE`] to a cap that grows with the outage.
///
/// An outage begins with the first loss and ends only when a link has stayed up for
/// [`Backoff::PROVEN`]: a relay that accepts and drops must not be hammered. There is no last attempt.
#[derive(Debug, Default, Clone)]
pub struct Backoff {
    attempts: u32,
    outage_since: Option<Instant>,
    up_since: Option<Instant>,
}

impl Backoff {
    /// Upper bound of the first wait of an outage.
    pub const BASE: Duration = Duration::from_millis(250);
    /// How long a link must stay up before its loss counts as a new outage.
    pub const PROVEN: Duration = Duration::from_secs(10);
    /// Upper bound of a wait by the age of the outage; [`Backoff::LAST_CAP`] after the last row.
    const CAPS: [(Duration, Duration); 2] = [
        (Duration::from_secs(60), Duration::from_secs(2)),
        (Duration::from_secs(600), Duration::from_secs(5)),
    ];
    const LAST_CAP: Duration = Duration::from_secs(30);

    /// Notes that a link came up at `now`.
    pub fn up(&mut self, now: Instant) {
        self.up_since = Some(now);
    }

    /// Notes that the link was lost at `now` and returns the wait before the first new attempt.
    ///
    /// Zero when the link had proven itself; a wait like any other in the same outage when it had not.
    pub fn lost(&mut self, now: Instant, rng: &mut impl Rng) -> Duration {
        let up_since = self.up_since.take();
        if up_since.is_some_and(|up| now.saturating_duration_since(up) >= Self::PROVEN) {
            *self = Self { outage_since: Some(now), ..Self::default() };
            return Duration::ZERO;
        }
        self.next(now, rng)
    }

    /// Returns the wait after an attempt that failed at `now`: between zero and the bound, evenly.
    pub fn next(&mut self, now: Instant, rng: &mut impl Rng) -> Duration {
        let bound = self.bound(now);
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(rng.random_range(0.0..=1.0))
    }

    /// Returns the wait when the relay asked for `after`: never less, with up to [`Backoff::BASE`] of jitter so
    /// that those who were told the same time do not come at the same time.
    pub fn asked(&mut self, after: Duration, now: Instant, rng: &mut impl Rng) -> Duration {
        self.outage_since.get_or_insert(now);
        self.attempts = self.attempts.saturating_add(1);
        after + Self::BASE.mul_f64(rng.random_range(0.0..=1.0))
    }

    fn bound(&mut self, now: Instant) -> Duration {
        let since = *self.outage_since.get_or_insert(now);
        let outage = now.saturating_duration_since(since);
        let cap =
            Self::CAPS.iter().find(|(until, _)| outage < *until).map_or(Self::LAST_CAP, |(_, cap)| *cap);
        // 2^16 × 250 ms is hours, beyond each cap.
        let doubled = Self::BASE.saturating_mul(1 << self.attempts.min(16));
        doubled.min(cap)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn bounds_double_from_the_base_to_the_cap_of_the_first_minute() {
        let (mut backoff, now, mut rng) = (Backoff::default(), Instant::now(), rng());
        for bound_ms in [250, 500, 1000, 2000, 2000, 2000] {
            assert_eq!(backoff.bound(now), Duration::from_millis(bound_ms));
            backoff.next(now, &mut rng);
        }
    }

    #[test]
    fn cap_grows_with_the_outage_and_never_ends() {
        let (mut backoff, start, mut rng) = (Backoff::default(), Instant::now(), rng());
        for _ in 0..20 {
            backoff.next(start, &mut rng);
        }
        assert_eq!(backoff.bound(start + secs(59)), secs(2));
        assert_eq!(backoff.bound(start + secs(60)), secs(5));
        assert_eq!(backoff.bound(start + secs(599)), secs(5));
        assert_eq!(backoff.bound(start + secs(600)), secs(30));
        assert_eq!(backoff.bound(start + secs(365 * 86_400)), secs(30));
    }

    #[test]
    fn jitter_is_full_and_stays_within_the_bound() {
        let (now, mut rng) = (Instant::now(), rng());
        let waits: Vec<Duration> = (0..2000).map(|_| Backoff::default().next(now, &mut rng)).collect();
        assert!(waits.iter().all(|wait| *wait <= Backoff::BASE));
        assert!(waits.iter().any(|wait| *wait < Duration::from_millis(10)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_millis(240)));
    }

    #[test]
    fn proven_link_is_dialled_again_at_once_and_starts_over() {
        let (mut backoff, start, mut rng) = (Backoff::default(), Instant::now(), rng());
        for _ in 0..10 {
            backoff.next(start, &mut rng);
        }
        backoff.up(start + secs(30));
        assert_eq!(backoff.lost(start + secs(40), &mut rng), Duration::ZERO);
        assert_eq!(backoff.bound(start + secs(40)), Backoff::BASE);
    }

    #[test]
    fn link_that_stays_up_less_than_ten_seconds_does_not_end_the_outage() {
        let (mut backoff, start, mut rng) = (Backoff::default(), Instant::now(), rng());
        for _ in 0..10 {
            backoff.next(start, &mut rng);
        }
        backoff.up(start + secs(50));
        backoff.lost(start + secs(50) + Duration::from_millis(9_999), &mut rng);
        assert_eq!(backoff.attempts, 11);
        assert_eq!(backoff.bound(start + secs(61)), secs(5), "the outage is as old as its first loss");
    }

    #[test]
    fn relay_that_accepts_and_drops_is_not_hammered() {
        let (mut backoff, start, mut rng) = (Backoff::default(), Instant::now(), rng());
        let (mut now, mut dials) = (start, 0);
        while now < start + secs(60) {
            backoff.up(now);
            now += Duration::from_millis(1);
            now += backoff.lost(now, &mut rng);
            dials += 1;
        }
        assert!(dials < 100, "{dials} dials in a minute");
    }

    #[test]
    fn wait_that_the_relay_asked_for_is_never_cut_short() {
        let (mut backoff, now, mut rng) = (Backoff::default(), Instant::now(), rng());
        for _ in 0..200 {
            let wait = backoff.asked(secs(7), now, &mut rng);
            assert!((secs(7)..=secs(7) + Backoff::BASE).contains(&wait), "{wait:?}");
        }
    }
}
