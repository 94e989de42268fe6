//! When a backend counts as down, and when to look again. Pure.

use std::time::Duration;

use crate::status::BackendState;

/// Follows the outcomes of one backend's probes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    phase: Phase,
    /// Failed probes in a row.
    failures: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Unknown,
    Up,
    Down(Fault),
}

/// How a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No connection.
    Unreachable,
    /// A connection, but no proper answer.
    Misbehaves,
}

/// The times and counts that the tracker follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HealthRules {
    /// Failures in a row after which a backend that was up counts as down.
    pub(crate) failures: u32,
    /// Time between probes that go well, and the longest time between those that fail.
    pub(crate) interval: Duration,
    /// Time from the first failure to the next probe; doubles.
    pub(crate) retry_delay: Duration,
    /// Whether a failed probe costs next to nothing: a refusal on this machine.
    pub(crate) cheap: bool,
}

/// A refused connection on loopback costs microseconds, so a server that comes back is noticed within this.
const CHEAP_DELAY: Duration = Duration::from_secs(2);

impl Health {
    /// Notes a probe that went well.
    pub(crate) fn succeeded(&mut self) {
        *self = Self { phase: Phase::Up, failures: 0 };
    }

    /// Notes a probe that failed. A backend that was never up counts as down at once.
    pub(crate) fn failed(&mut self, fault: Fault, rules: &HealthRules) {
        self.failures = self.failures.saturating_add(1);
        if self.phase != Phase::Up || self.failures >= rules.failures {
            self.phase = Phase::Down(fault);
        }
    }

    pub(crate) fn state(&self) -> BackendState {
        match self.phase {
            Phase::Unknown => BackendState::Connecting,
            Phase::Up => BackendState::Connected,
            Phase::Down(Fault::Unreachable) => BackendState::Disconnected,
            Phase::Down(Fault::Misbehaves) => BackendState::Error,
        }
    }

    /// Tells whether the last probe failed: another backend is the better choice then.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Returns the time to the next probe.
    pub(crate) fn next_probe(&self, rules: &HealthRules) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else { return rules.interval };
        let delay = rules.retry_delay.saturating_mul(2u32.saturating_pow(doublings)).min(rules.interval);
        if rules.cheap { delay.min(CHEAP_DELAY) } else { delay }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: HealthRules = HealthRules {
        failures: 3,
        interval: Duration::from_secs(30),
        retry_delay: Duration::from_secs(2),
        cheap: false,
    };

    #[test]
    fn a_backend_that_was_up_is_down_after_enough_failures() {
        let mut health = Health::default();
        assert_eq!(health.state(), BackendState::Connecting);
        health.succeeded();
        for expected in [BackendState::Connected, BackendState::Connected, BackendState::Disconnected] {
            health.failed(Fault::Unreachable, &RULES);
            assert_eq!(health.state(), expected);
            assert!(health.is_failing());
        }
        health.succeeded();
        assert_eq!(health.state(), BackendState::Connected);
        assert!(!health.is_failing());
    }

    #[test]
    fn a_backend_that_never_was_up_is_down_at_once() {
        let mut health = Health::default();
        health.failed(Fault::Misbehaves, &RULES);
        assert_eq!(health.state(), BackendState::Error);
    }

    #[test]
    fn delays_double_up_to_the_interval() {
        let mut health = Health::default();
        assert_eq!(health.next_probe(&RULES), RULES.interval);
        let delays: Vec<u64> = (0..40)
            .map(|_| {
                health.failed(Fault::Unreachable, &RULES);
                health.next_probe(&RULES).as_secs()
            })
            .collect();
        assert_eq!(delays[..6], [2, 4, 8, 16, 30, 30]);
        assert_eq!(delays[39], 30);
    }

    #[test]
    fn a_refusal_on_this_machine_is_tried_often() {
        let mut health = Health::default();
        for _ in 0..9 {
            health.failed(Fault::Unreachable, &RULES);
        }
        let cheap = HealthRules { cheap: true, ..RULES };
        assert_eq!(health.next_probe(&cheap), CHEAP_DELAY);
    }
}
