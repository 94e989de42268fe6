//! Which warnings are shown, raised and cleared: pure, with time passed in.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tunnel_api::{Severity, Warning};

use super::timing::Timing;
use super::{Condition, Transition, Turn};

/// Remembers what holds, and since when.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// In the order in which they began.
    entries: Vec<Entry>,
    /// What an earlier run left, until it is too old to be the same: code, subject, beginning.
    former: Vec<(String, String, Timestamp)>,
    /// When that is; None before the first update.
    former_until: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    condition: Condition,
    since: Timestamp,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Holds, and is not shown before then.
    Pending(Instant),
    /// Holds and is shown.
    Shown,
    /// Does not hold any more; until then it may come back as if it had never been away.
    Leaving(Instant),
}

/// How long after a start a warning counts as the one from before the restart.
const RESTART: Duration = Duration::from_secs(120);

impl Board {
    /// Knows what an earlier run left: code, subject, beginning.
    pub(crate) fn after(former: Vec<(String, String, Timestamp)>) -> Self {
        Self { former, ..Self::default() }
    }

    /// Returns since when a new condition holds, an earlier run included.
    fn beginning(&mut self, condition: &Condition, wall: Timestamp) -> Timestamp {
        let same = |(code, subject, _): &(String, String, Timestamp)| {
            *code == condition.warning.code && *subject == condition.subject
        };
        let known = self.former.iter().position(same);
        known.map_or(wall, |at| self.former.swap_remove(at).2.min(wall))
    }

    /// Takes note of all that holds now and returns what was raised and cleared by that, and by time.
    ///
    /// To be called whenever the conditions change and at [`Self::next_change`].
    pub(crate) fn update(
        &mut self,
        conditions: Vec<Condition>,
        now: Instant,
        wall: Timestamp,
    ) -> Vec<Transition> {
        if now >= *self.former_until.get_or_insert(now + RESTART) {
            self.former.clear();
        }
        let mut transitions = Vec::new();
        let mut turn = |turn, entry: &Entry| {
            transitions.push(Transition {
                turn,
                subject: entry.condition.subject.clone(),
                warning: entry.shown(),
                at: wall,
            });
        };
        // What was over before this moment is over, even if it holds again.
        self.entries.retain(|entry| match entry.phase {
            Phase::Leaving(until) if now >= until => {
                turn(Turn::Cleared, entry);
                false
            }
            Phase::Leaving(_) | Phase::Pending(_) | Phase::Shown => true,
        });
        let mut holds = vec![false; self.entries.len()];
        for condition in conditions {
            let known = self.entries.iter().position(|entry| entry.is_about(&condition));
            match known {
                // Said twice: the first counts.
                Some(at) if holds[at] => {}
                Some(at) => {
                    self.entries[at].condition = condition;
                    holds[at] = true;
                }
                None => {
                    let delay = Timing::of(&condition.warning.code).delay;
                    let since = self.beginning(&condition, wall);
                    self.entries.push(Entry { condition, since, phase: Phase::Pending(now + delay) });
                    holds.push(true);
                }
            }
        }
        let mut holds = holds.into_iter();
        self.entries.retain_mut(|entry| {
            let (phase, told) = entry.next(holds.next().unwrap_or_default(), now);
            if let Some(told) = told {
                turn(told, entry);
            }
            phase.is_some_and(|phase| {
                entry.phase = phase;
                true
            })
        });
        transitions
    }

    /// Returns what is shown, the most severe first, and within one severity the oldest.
    pub(crate) fn shown(&self) -> Vec<Warning> {
        let shown = self.entries.iter().filter(|entry| entry.phase == Phase::Shown);
        let mut shown: Vec<Warning> = shown.map(Entry::shown).collect();
        // Stable: the order of the entries stays.
        shown.sort_by_key(|warning| match warning.severity {
            Severity::Error => 0,
            Severity::Warning => 1,
            Severity::Info | Severity::Unknown => 2,
        });
        shown
    }

    /// Returns when time alone will change something; `None` if it will not.
    pub(crate) fn next_change(&self) -> Option<Instant> {
        let changes = self.entries.iter().filter_map(|entry| match entry.phase {
            Phase::Pending(until) | Phase::Leaving(until) => Some(until),
            Phase::Shown => None,
        });
        changes.min()
    }
}

impl Entry {
    fn is_about(&self, other: &Condition) -> bool {
        self.condition.subject == other.subject && self.condition.warning.code == other.warning.code
    }

    fn shown(&self) -> Warning {
        Warning { since: Some(self.since), ..self.condition.warning.clone() }
    }

    /// Returns what it is from now on, `None` for no more, and what is told of that.
    fn next(&self, holds: bool, now: Instant) -> (Option<Phase>, Option<Turn>) {
        match (self.phase, holds) {
            (Phase::Pending(until), true) if now >= until => (Some(Phase::Shown), Some(Turn::Raised)),
            (Phase::Pending(until), true) => (Some(Phase::Pending(until)), None),
            (Phase::Pending(_), false) => (None, None),
            (Phase::Shown | Phase::Leaving(_), true) => (Some(Phase::Shown), None),
            (Phase::Shown, false) => {
                let hold_off = Timing::of(&self.condition.warning.code).hold_off;
                if hold_off.is_zero() {
                    (None, Some(Turn::Cleared))
                } else {
                    (Some(Phase::Leaving(now + hold_off)), None)
                }
            }
            (Phase::Leaving(until), false) => (Some(Phase::Leaving(until)), None),
        }
    }
}

#[cfg(test)]
mod tests;
