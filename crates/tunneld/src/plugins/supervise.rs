//! When a program that has ended is started again. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Wait before the first new start; doubles with each that fails.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait. A program is never given up: what it lacks may come.
const LAST: Duration = Duration::from_secs(60);
/// A program that was ready for so long has proven itself, and its next end is a new trouble.
const PROVEN: Duration = Duration::from_secs(60);
/// Share of a wait that chance may take off it, so that programs that fell together do not start together.
const SPREAD: f64 = 0.25;

/// Follows the lives of one program.
#[derive(Debug, Default)]
pub(super) struct Supervision {
    /// Lives in a row that ended before they had proven themselves.
    failures: u32,
    ready_since: Option<Instant>,
    was_ever_ready: bool,
}

impl Supervision {
    /// Notes that the program answers.
    pub(super) fn ready(&mut self, now: Instant) {
        self.ready_since = Some(now);
        self.was_ever_ready = true;
    }

    /// Notes that it has ended, or was ended for not answering. Returns how long to wait before the next start.
    ///
    /// `chance` is between 0 and 1.
    pub(super) fn ended(&mut self, now: Instant, chance: f64) -> Duration {
        if self.ready_since.take().is_some_and(|since| now.duration_since(since) >= PROVEN) {
            self.failures = 0;
        }
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(1.0 - SPREAD * chance)
    }

    /// Lives in a row that ended too soon.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Tells whether a person should look: it fell more than once, or has never been up. A single crash mends itself.
    pub(super) fn needs_a_person(&self) -> bool {
        self.failures > 1 || (self.failures > 0 && !self.was_ever_ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_never_end() {
        let (mut supervision, now) = (Supervision::default(), Instant::now());
        let waits: Vec<u128> = (0..40).map(|_| supervision.ended(now, 0.0).as_millis()).collect();
        assert_eq!(waits[..9], [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!((waits[39], supervision.failures()), (60_000, 40));
    }

    #[test]
    fn only_a_long_life_is_proof() {
        let (mut supervision, start) = (Supervision::default(), Instant::now());
        for _ in 0..5 {
            supervision.ended(start, 0.0);
        }
        supervision.ready(start);
        let soon = start + PROVEN - Duration::from_millis(1);
        assert_eq!(supervision.ended(soon, 0.0), Duration::from_secs(16));
        supervision.ready(soon);
        assert_eq!(supervision.ended(soon + PROVEN, 0.0), FIRST);
        // That it was ready once does not count for the next life.
        assert_eq!(supervision.ended(soon + 9 * PROVEN, 0.0), 2 * FIRST);
    }

    #[test]
    fn chance_shortens_a_wait_by_a_quarter_at_most() {
        let (mut supervision, now) = (Supervision::default(), Instant::now());
        assert_eq!(supervision.ended(now, 1.0), FIRST.mul_f64(0.75));
        assert_eq!(supervision.ended(now, 0.5), (2 * FIRST).mul_f64(0.875));
    }

    #[test]
    fn single_crash_needs_nobody_and_a_program_that_never_was_up_does() {
        let (mut supervision, now) = (Supervision::default(), Instant::now());
        assert!(!supervision.needs_a_person());
        supervision.ended(now, 0.0);
        assert!(supervision.needs_a_person());
        supervision.ready(now);
        supervision.ended(now + PROVEN, 0.0);
        assert!(!supervision.needs_a_person());
        supervision.ended(now + PROVEN, 0.0);
        assert!(supervision.needs_a_person());
    }
}
