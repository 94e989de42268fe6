//! When to renew a token: pure, with time and randomness passed in.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::credentials::Lease;

/// The times at which one token is renewed.
///
/// Its life is judged by the wall clock, which goes on while the machine sleeps; waits after failures by the
/// monotonic one, which nobody sets.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    /// Where in the jitter this token's time lies, -1 to 1: drawn once, or each look would move it.
    jitter: f64,
    failures: u32,
    not_before: Option<Instant>,
    over: bool,
}

impl Schedule {
    /// How much of a token's life passes before it is renewed.
    const SHARE: f64 = 0.8;
    /// How far that is spread to both sides, so that those who logged in together do not come together.
    const SPREAD: f64 = 0.1;
    /// Longest time between two looks at the clock: a machine that wakes up is late by no more.
    pub(super) const CHECK: Duration = Duration::from_secs(60);
    /// Shortest time between two attempts after a failure, whatever the clocks and the server say.
    pub(super) const MIN_WAIT: Duration = Duration::from_secs(30);
    /// A token that lives shorter than this is taken for a fault of its server.
    const SHORTEST_LIFE: Duration = Duration::from_secs(4);
    /// A token that was issued later than this from now, in seconds, was issued before the clock was set back: nothing is
    /// known of its age.
    const SET_BACK: i64 = 30;
    /// Waits double up to this.
    const MAX_WAIT: Duration = Duration::from_secs(300);
    /// Longest wait that the server can ask for.
    const MAX_ASKED: Duration = Duration::from_secs(3600);

    pub(super) fn new(rng: &mut impl Rng) -> Self {
        Self { jitter: rng.random_range(-1.0..=1.0), failures: 0, not_before: None, over: false }
    }

    /// Returns how long to wait before the next look; zero when it is time to renew, `None` when it never will be.
    pub(super) fn wait(&self, lease: Option<Lease>, clock: i64, now: Instant) -> Option<Duration> {
        let lease = lease.filter(|_| !self.over)?;
        let is_set_back = lease.issued_at.saturating_sub(clock) > Self::SET_BACK;
        let due = if is_set_back { clock } else { self.due(lease) };
        let left = u64::try_from(due.saturating_sub(clock)).unwrap_or(0);
        let held_off = self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        Some(Duration::from_secs(left).max(held_off).min(Self::CHECK))
    }

    /// The second at which a token is to be renewed.
    fn due(&self, lease: Lease) -> i64 {
        let life = lease.expires_at.saturating_sub(lease.issued_at).max(0);
        let share = Self::SHARE + Self::SPREAD * self.jitter;
        // Exact to the second for any life below millions of years.
        lease.issued_at.saturating_add((life as f64 * share) as i64)
    }

    /// Notes an attempt that failed at `now`; the server may have asked to wait for `asked`.
    pub(super) fn failed(&mut self, asked: Option<Duration>, now: Instant, rng: &mut impl Rng) {
        let doubled = Self::MIN_WAIT.saturating_mul(1 << self.failures.min(8)).min(Self::MAX_WAIT);
        self.failures = self.failures.saturating_add(1);
        let wait = doubled.max(asked.unwrap_or_default().min(Self::MAX_ASKED));
        self.not_before = Some(now + wait.mul_f64(rng.random_range(1.0..=1.25)));
    }

    /// Notes that the token was renewed at `now`: another one begins its life.
    ///
    /// One that lives shorter than [`Schedule::MIN_WAIT`] is renewed in time all the same, since its server wants it
    /// so; one that is over as soon as it is issued, which is a fault, is not renewed in a loop.
    pub(super) fn renewed(&mut self, lease: Option<Lease>, now: Instant, rng: &mut impl Rng) {
        let life = lease.map_or(0, |lease| lease.expires_at.saturating_sub(lease.issued_at));
        let life = Duration::from_secs(u64::try_from(life).unwrap_or(0));
        let floor = if life < Self::SHORTEST_LIFE { Self::MIN_WAIT } else { Self::MIN_WAIT.min(life / 2) };
        *self = Self { not_before: Some(now + floor), ..Self::new(rng) };
    }

    /// The server will not renew this one any more.
    pub(super) fn give_up(&mut self) {
        self.over = true;
    }

    /// Tells whether an attempt has failed since the token was there.
    pub(super) fn has_failed(&self) -> bool {
        self.over || self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const HOUR: Lease = Lease { issued_at: 10_000, expires_at: 13_600 };

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    fn exact(jitter: f64) -> Schedule {
        Schedule { jitter, failures: 0, not_before: None, over: false }
    }

    fn is_due(schedule: &Schedule, clock: i64, now: Instant) -> bool {
        schedule.wait(Some(HOUR), clock, now) == Some(Duration::ZERO)
    }

    #[test]
    fn token_is_renewed_at_four_fifths_of_its_life() {
        let (schedule, now) = (exact(0.0), Instant::now());
        assert!(!is_due(&schedule, 12_879, now));
        assert!(is_due(&schedule, 12_880, now));
        assert!(is_due(&schedule, 99_999, now), "also when it is over");
        assert_eq!((exact(-1.0).due(HOUR), exact(1.0).due(HOUR)), (12_520, 13_240));
        assert_eq!(schedule.wait(None, 12_880, now), None);
    }

    #[test]
    fn jitter_is_drawn_once_and_spreads_over_its_range() {
        let mut rng = rng();
        let all: Vec<i64> = (0..1000).map(|_| Schedule::new(&mut rng).due(HOUR)).collect();
        assert!(all.iter().all(|due| (12_520..=13_240).contains(due)));
        assert!(all.iter().any(|due| *due < 12_560) && all.iter().any(|due| *due > 13_200));
    }

    #[test]
    fn clock_is_looked_at_each_minute_and_in_time() {
        let (schedule, now) = (exact(0.0), Instant::now());
        assert_eq!(schedule.wait(Some(HOUR), 10_000, now), Some(Schedule::CHECK));
        assert_eq!(schedule.wait(Some(HOUR), 12_870, now), Some(Duration::from_secs(10)));
        // A token without any life.
        let none = Lease { issued_at: 10_000, expires_at: 9_000 };
        assert_eq!(schedule.wait(Some(none), 10_000, now), Some(Duration::ZERO));
    }

    #[test]
    fn token_whose_age_is_unknown_since_the_clock_was_set_back_is_renewed() {
        let (mut schedule, now) = (exact(0.0), Instant::now());
        assert!(!is_due(&schedule, 9_970, now), "clocks are adjusted all the time");
        assert!(is_due(&schedule, 9_969, now) && is_due(&schedule, i64::MIN, now));
        schedule.failed(None, now, &mut rng());
        assert!(!is_due(&schedule, i64::MIN, now));
    }

    #[test]
    fn failures_are_never_closer_than_half_a_minute() {
        let (mut schedule, mut rng) = (exact(0.0), rng());
        let (start, mut now, mut attempts) = (Instant::now(), Instant::now(), Vec::new());
        while now < start + Duration::from_secs(3600) {
            if is_due(&schedule, 13_000, now) {
                attempts.push(now);
                schedule.failed(None, now, &mut rng);
            }
            now += Duration::from_secs(1);
        }
        let gaps: Vec<u64> = attempts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert!(gaps.iter().all(|gap| (30..=376).contains(gap)), "{gaps:?}");
        assert!(gaps[0] < 40 && gaps.last().unwrap() >= &300, "{gaps:?}");
        assert!(schedule.has_failed());
    }

    #[test]
    fn server_that_asks_for_a_wait_gets_it_within_reason() {
        let now = Instant::now();
        let after = |asked: u64| {
            let mut schedule = exact(0.0);
            schedule.failed(Some(Duration::from_secs(asked)), now, &mut rng());
            schedule.not_before.unwrap() - now
        };
        assert!((120..=150).contains(&after(120).as_secs()));
        assert!((30..=38).contains(&after(1).as_secs()));
        assert!((3600..=4500).contains(&after(u64::MAX).as_secs()));
    }

    #[test]
    fn renewed_token_that_is_due_at_once_is_not_renewed_in_a_loop() {
        let (mut schedule, now, mut rng) = (exact(0.0), Instant::now(), rng());
        schedule.failed(None, now, &mut rng);
        let none = Lease { issued_at: 99_999, expires_at: 99_999 };
        schedule.renewed(Some(none), now, &mut rng);
        assert!(!is_due(&schedule, 99_999, now) && !schedule.has_failed());
        assert!(is_due(&schedule, 99_999, now + Schedule::MIN_WAIT));
        schedule.give_up();
        assert_eq!(schedule.wait(Some(HOUR), 99_999, now + Schedule::CHECK), None);
    }

    #[test]
    fn token_that_lives_for_seconds_is_renewed_before_it_ends() {
        let (mut rng, mut now, mut clock) = (rng(), Instant::now(), 10_000);
        let mut schedule = Schedule::new(&mut rng);
        let lease = |clock| Lease { issued_at: clock, expires_at: clock + 10 };
        let (mut current, mut renewals) = (lease(clock), 0);
        for _ in 0..100 {
            if schedule.wait(Some(current), clock, now) == Some(Duration::ZERO) {
                assert!(clock < current.expires_at, "it has lapsed");
                current = lease(clock);
                schedule.renewed(Some(current), now, &mut rng);
                renewals += 1;
            }
            (now, clock) = (now + Duration::from_secs(1), clock + 1);
        }
        assert!((10..=17).contains(&renewals), "{renewals}");
    }
}
