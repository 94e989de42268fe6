//! How often a provider is asked whether the person is done: pure.

use std::time::Duration;

/// The waits between two questions.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    interval: Duration,
    /// Questions without an answer, since the last one that had one.
    failures: u32,
    /// What the provider asked for when it failed.
    asked: Duration,
}

impl Pace {
    /// RFC 8628 §3.2: where the provider says nothing.
    const USUAL: Duration = Duration::from_secs(5);
    /// RFC 8628 §3.5: how much slower after each `slow_down`.
    const STEP: Duration = Duration::from_secs(5);
    /// Longest wait: a person who is done looks at the terminal.
    const MAX: Duration = Duration::from_secs(60);

    pub(super) fn new(interval_s: Option<u64>) -> Self {
        let interval = interval_s.map_or(Self::USUAL, Duration::from_secs);
        let interval = interval.clamp(Duration::from_secs(1), Self::MAX);
        Self { interval, failures: 0, asked: Duration::ZERO }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// How long to wait before the next question.
    pub(super) fn wait(&self) -> Duration {
        let doubled = self.interval.saturating_mul(1 << self.failures.min(8));
        doubled.max(self.asked).min(Self::MAX)
    }

    /// The provider answered that the person is not done.
    pub(super) fn heard(&mut self) {
        (self.failures, self.asked) = (0, Duration::ZERO);
    }

    /// The provider wants to be asked less often, from now on.
    pub(super) fn slow_down(&mut self) {
        self.heard();
        self.interval = self.interval.saturating_add(Self::STEP).min(Self::MAX);
    }

    /// The provider could not answer; it may have asked to wait for `asked`.
    pub(super) fn failed(&mut self, asked: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        self.asked = asked.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_s(pace: &Pace) -> u64 {
        pace.wait().as_secs()
    }

    #[test]
    fn provider_says_how_often_it_is_asked() {
        assert_eq!([None, Some(0), Some(2), Some(999)].map(|said| wait_s(&Pace::new(said))), [5, 1, 2, 60]);
        let mut pace = Pace::new(None);
        pace.slow_down();
        pace.heard();
        assert_eq!(wait_s(&pace), 10, "for good");
    }

    #[test]
    fn failures_make_it_rare_until_an_answer_comes() {
        let mut pace = Pace::new(Some(5));
        let waits = [(); 5].map(|()| {
            pace.failed(None);
            wait_s(&pace)
        });
        assert_eq!(waits, [10, 20, 40, 60, 60]);
        pace.failed(Some(Duration::from_secs(9_999)));
        assert_eq!(wait_s(&pace), 60);
        pace.heard();
        assert_eq!(wait_s(&pace), 5);
        pace.failed(Some(Duration::from_secs(30)));
        assert_eq!(wait_s(&pace), 30);
    }
}
