//! Whether a caller sends its body fast enough.

use std::time::Duration;

use tokio::time::Instant;

/// The time over which it is judged. Only time counts in which the desktop was ready for more.
pub(super) const WINDOW: Duration = Duration::from_secs(5);

/// Counts what came while it was waited for.
#[derive(Debug)]
pub(super) struct Pace {
    least_per_second: u64,
    /// Bytes of this window.
    n_bytes: u64,
    /// Time of this window in which the caller was waited for.
    waited: Duration,
    waiting_since: Option<Instant>,
}

/// Too little has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooSlow;

impl Pace {
    /// `least_per_second`: 0 takes any time.
    pub(super) fn new(least_per_second: u64) -> Self {
        Self { least_per_second, n_bytes: 0, waited: Duration::ZERO, waiting_since: None }
    }

    /// Notes that nothing is there yet. Returns when to judge, should nothing come until then; `None`: never.
    pub(super) fn waiting(&mut self, now: Instant) -> Option<Instant> {
        let since = *self.waiting_since.get_or_insert(now);
        (self.least_per_second > 0).then(|| since + WINDOW.saturating_sub(self.waited))
    }

    /// Notes that bytes came.
    pub(super) fn came(&mut self, n_bytes: usize, now: Instant) -> Result<(), TooSlow> {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.n_bytes += n_bytes as u64;
        self.judge()
    }

    /// Judges while still waiting.
    pub(super) fn overdue(&mut self, now: Instant) -> Result<(), TooSlow> {
        if let Some(since) = self.waiting_since.replace(now) {
            self.waited += now.saturating_duration_since(since);
        }
        self.judge()
    }

    fn judge(&mut self) -> Result<(), TooSlow> {
        if self.waited < WINDOW {
            return Ok(());
        }
        // A wait may have been longer than the window.
        let least = self.waited.as_secs_f64() * self.least_per_second as f64;
        let enough = self.n_bytes as f64 >= least;
        (self.n_bytes, self.waited) = (0, Duration::ZERO);
        if enough { Ok(()) } else { Err(TooSlow) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `n_bytes` every `every`, and returns after how many it was found too slow.
    fn dribble(n_bytes: usize, every: Duration) -> Option<u32> {
        let mut pace = Pace::new(256);
        let mut now = Instant::now();
        (1..200).find(|_| {
            let judged_at = pace.waiting(now).unwrap();
            now += every;
            if judged_at < now && pace.overdue(judged_at).is_err() {
                return true;
            }
            pace.came(n_bytes, now).is_err()
        })
    }

    #[test]
    fn a_body_that_dribbles_is_found_out_within_the_window() {
        assert_eq!(dribble(1, Duration::from_secs(1)), Some(5));
        assert_eq!(dribble(255, Duration::from_secs(1)), Some(5));
        assert_eq!(dribble(256, Duration::from_secs(1)), None);
        assert_eq!(dribble(26, Duration::from_millis(100)), None);
    }

    #[test]
    fn one_that_stops_is_found_out_too_and_time_in_which_nobody_waits_is_free() {
        let mut pace = Pace::new(256);
        let start = Instant::now();
        let at = pace.waiting(start).unwrap();
        assert_eq!(at, start + WINDOW);
        pace.came(64 * 1024, start + Duration::from_secs(1)).unwrap();
        // The desktop is busy for an hour.
        let later = start + Duration::from_secs(3_600);
        let at = pace.waiting(later).unwrap();
        assert_eq!(at, later + Duration::from_secs(4));
        assert_eq!(pace.overdue(at), Ok(()), "it sent plenty in these five seconds");
        let at = pace.waiting(at).unwrap();
        assert_eq!(pace.overdue(at), Err(TooSlow));
    }

    #[test]
    fn without_a_limit_nobody_is_judged() {
        let mut pace = Pace::new(0);
        let start = Instant::now();
        assert_eq!(pace.waiting(start), None);
        assert_eq!(pace.came(0, start + Duration::from_secs(3_600)), Ok(()));
    }
}
