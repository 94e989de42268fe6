//! When a backend counts as down, and when to look again. Pure.

use std::time::Duration;

use crate::status::BackendState;

/// Follows the outcomes of one backend's probes.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthTracker {
    phase: Phase,
    /// Failed probes in a row. A model that loads is no failure.
    failures: u32,
}

/// What the probes say of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first probe has not ended yet.
    #[default]
    Unknown,
    Up,
    /// It says that it loads its model.
    Warming,
    /// It does not accept our credential.
    Unauthorised,
    Down(Fault),
}

impl Phase {
    /// Returns the coarser state, in the words that each client knows: a backend that loads its model is about to
    /// be connected, and one that refuses our credential does not answer as it should.
    pub(crate) fn state(self) -> BackendState {
        match self {
            Self::Unknown | Self::Warming => BackendState::Connecting,
            Self::Up => BackendState::Connected,
            Self::Down(Fault::Unreachable) => BackendState::Disconnected,
            Self::Unauthorised | Self::Down(Fault::Misbehaves | Fault::Loading | Fault::Unauthorised) => {
                BackendState::Error
            }
        }
    }
}

/// How a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No connection.
    Unreachable,
    /// A connection, but no proper answer.
    Misbehaves,
    /// It answers that it still loads its model.
    Loading,
    /// It answers that it does not accept our credential.
    Unauthorised,
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
    /// Whether the backend is on this machine.
    pub(crate) near: bool,
}

/// A refused connection on loopback costs microseconds, so a server that comes back is noticed within this.
const CHEAP_DELAY: Duration = Duration::from_secs(2);
/// Time between probes of a backend that loads its model: requests wait for its end.
const WARMING_DELAY: Duration = Duration::from_secs(1);
/// The same for a backend on another machine.
const WARMING_DELAY_FAR: Duration = Duration::from_secs(5);

impl HealthTracker {
    /// Notes a probe that went well.
    pub(crate) fn succeeded(&mut self) {
        *self = Self { phase: Phase::Up, failures: 0 };
    }

    /// Notes a probe that failed. A backend that was never up counts as down at once.
    pub(crate) fn failed(&mut self, fault: Fault, rules: &HealthRules) {
        match fault {
            // However long it takes.
            Fault::Loading => *self = Self { phase: Phase::Warming, failures: 0 },
            // It has said so itself: asking again changes nothing.
            Fault::Unauthorised => {
                self.failures = self.failures.saturating_add(1);
                self.phase = Phase::Unauthorised;
            }
            Fault::Unreachable | Fault::Misbehaves => {
                self.failures = self.failures.saturating_add(1);
                if self.phase != Phase::Up || self.failures >= rules.failures {
                    self.phase = Phase::Down(fault);
                }
            }
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Tells whether the last probe failed: another backend is the better choice then.
    pub(crate) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Returns the time to the next probe.
    pub(crate) fn next_probe(&self, rules: &HealthRules) -> Duration {
        if self.phase == Phase::Warming {
            let delay = if rules.near { WARMING_DELAY } else { WARMING_DELAY_FAR };
            return delay.min(rules.interval);
        }
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
        near: false,
    };

    #[test]
    fn a_backend_that_was_up_is_down_after_enough_failures() {
        let mut health = HealthTracker::default();
        assert_eq!(health.phase().state(), BackendState::Connecting);
        health.succeeded();
        for expected in [BackendState::Connected, BackendState::Connected, BackendState::Disconnected] {
            health.failed(Fault::Unreachable, &RULES);
            assert_eq!(health.phase().state(), expected);
            assert!(health.is_failing());
        }
        health.succeeded();
        assert_eq!(health.phase().state(), BackendState::Connected);
        assert!(!health.is_failing());
    }

    #[test]
    fn a_backend_that_never_was_up_is_down_at_once() {
        let mut health = HealthTracker::default();
        health.failed(Fault::Misbehaves, &RULES);
        assert_eq!(health.phase().state(), BackendState::Error);
    }

    #[test]
    fn delays_double_up_to_the_interval() {
        let mut health = HealthTracker::default();
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
        let mut health = HealthTracker::default();
        for _ in 0..9 {
            health.failed(Fault::Unreachable, &RULES);
        }
        let cheap = HealthRules { cheap: true, ..RULES };
        assert_eq!(health.next_probe(&cheap), CHEAP_DELAY);
    }

    #[test]
    fn a_model_that_loads_for_minutes_is_no_failure() {
        let near = HealthRules { near: true, ..RULES };
        let mut health = HealthTracker::default();
        for _ in 0..300 {
            health.failed(Fault::Loading, &near);
            assert_eq!((health.phase(), health.is_failing()), (Phase::Warming, false));
            assert_eq!(health.phase().state(), BackendState::Connecting);
            assert_eq!(health.next_probe(&near), WARMING_DELAY);
        }
        assert_eq!(health.next_probe(&RULES), WARMING_DELAY_FAR);
        health.succeeded();
        assert_eq!(health.phase(), Phase::Up);
        health.failed(Fault::Loading, &near);
        health.failed(Fault::Unreachable, &near);
        assert_eq!(health.phase(), Phase::Down(Fault::Unreachable), "it ended while it was loading");
    }

    #[test]
    fn a_refused_credential_counts_at_once_and_is_asked_about_ever_less() {
        let mut health = HealthTracker::default();
        health.succeeded();
        for delay in [2, 4, 8] {
            health.failed(Fault::Unauthorised, &RULES);
            assert_eq!((health.phase(), health.phase().state()), (Phase::Unauthorised, BackendState::Error));
            assert_eq!(health.next_probe(&RULES).as_secs(), delay);
        }
    }
}
