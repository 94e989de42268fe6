//! When a model that is kept in memory is loaded. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// What is seen of one model that is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is in memory.
    Loaded,
    /// It is not, and its backend has nothing to do.
    Absent,
    /// Its backend is at work: to load a model would be in the way.
    Busy,
    /// No backend that is up has it.
    Nowhere,
}

/// When each model was tried, and when it may be tried again.
#[derive(Debug, Default)]
pub(super) struct Plan {
    entries: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// No sooner is it loaded.
    next: Instant,
    /// Wait after the next attempt.
    wait: Duration,
    /// Since when it has been in memory without a break.
    loaded_since: Option<Instant>,
    /// Whether it has left the memory since it was last there for long.
    lost_lately: bool,
}

impl Plan {
    /// Wait after a failure, and after a model was lost again soon. Doubles with each, up to [`Self::LONGEST_WAIT`]: a
    /// model that does not fit, or that drives out another one which is kept, must not be loaded all the time.
    const FIRST_WAIT: Duration = Duration::from_secs(10);
    const LONGEST_WAIT: Duration = Duration::from_secs(600);
    /// In memory for so long, a model starts over with the first wait.
    const SETTLED: Duration = Duration::from_secs(300);
    /// How often a server is told that a model which it has in memory is to stay there.
    pub(super) const RENEWAL: Duration = Duration::from_secs(600);
    /// How long a server keeps a model after each time: it leaves by itself when nobody says so any more.
    pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(1800);

    /// Tells whether the model is to be loaded now; if not, when to look again.
    pub(super) fn judge(&mut self, model: &str, seen: Seen, now: Instant) -> Result<(), Option<Instant>> {
        let entry = self.entries.entry(model.to_owned()).or_insert_with(|| Entry {
            next: now,
            wait: Self::FIRST_WAIT,
            loaded_since: None,
            lost_lately: false,
        });
        match seen {
            Seen::Loaded => {
                let since = *entry.loaded_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= Self::SETTLED {
                    entry.wait = Self::FIRST_WAIT;
                    entry.lost_lately = false;
                }
            }
            Seen::Absent | Seen::Busy | Seen::Nowhere => {
                // What was in memory does not wait for the time at which its stay would have been prolonged.
                if entry.loaded_since.take().is_some() {
                    entry.next = now;
                    if std::mem::replace(&mut entry.lost_lately, true) {
                        entry.back_off(now);
                    }
                }
            }
        }
        match seen {
            // To renew what is in memory is not in the way of what its backend works on: that may be another model.
            Seen::Loaded | Seen::Absent if entry.next <= now => Ok(()),
            Seen::Loaded | Seen::Absent => Err(Some(entry.next)),
            // Requests come and go without a word to us.
            Seen::Busy => Err(Some(now + Self::FIRST_WAIT / 2)),
            Seen::Nowhere => Err(None),
        }
    }

    /// Notes that it was tried, and whether it is in memory by that.
    pub(super) fn tried(&mut self, model: &str, loaded: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(model) else { return };
        if loaded {
            entry.loaded_since.get_or_insert(now);
            entry.next = now + Self::RENEWAL;
        } else {
            entry.back_off(now);
        }
    }

    /// Forgets what is not to be kept any more.
    pub(super) fn retain(&mut self, models: &[String]) {
        self.entries.retain(|model, _| models.contains(model));
    }
}

impl Entry {
    fn back_off(&mut self, now: Instant) {
        self.next = now + self.wait;
        self.wait = (self.wait * 2).min(Plan::LONGEST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_model_is_loaded_at_once_and_failures_back_off() {
        let (mut plan, mut now) = (Plan::default(), Instant::now());
        assert_eq!(plan.judge("m", Seen::Nowhere, now), Err(None));
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(plan.judge("m", Seen::Absent, now), Ok(()));
            plan.tried("m", false, now);
            let Err(Some(next)) = plan.judge("m", Seen::Absent, now) else { panic!("no wait") };
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600]);
    }

    #[test]
    fn a_model_that_stays_is_renewed_and_one_that_left_is_loaded_again() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        assert_eq!(plan.judge("m", Seen::Absent, start), Ok(()));
        plan.tried("m", true, start);
        assert_eq!(plan.judge("m", Seen::Loaded, start + 30 * S), Err(Some(start + Plan::RENEWAL)));
        assert_eq!(plan.judge("m", Seen::Loaded, start + Plan::RENEWAL), Ok(()), "its stay is prolonged");
        plan.tried("m", true, start + Plan::RENEWAL);
        let gone = start + Plan::RENEWAL + 60 * S;
        assert_eq!(plan.judge("m", Seen::Absent, gone), Ok(()), "no reason to wait");
        plan.tried("m", true, gone);
        assert_eq!(plan.judge("m", Seen::Absent, gone + S), Err(Some(gone + 11 * S)), "again so soon");
    }

    #[test]
    fn two_that_drive_each_other_out_are_not_loaded_all_the_time() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let (mut now, mut n_loads) = (start, 0);
        while now < start + 3600 * S {
            for model in ["a", "b"] {
                // Whichever is loaded drives out the other one before the next probe.
                if plan.judge(model, Seen::Absent, now).is_ok() {
                    plan.tried(model, true, now);
                    n_loads += 1;
                }
            }
            now += 30 * S;
        }
        assert!(n_loads <= 26, "{n_loads} in an hour");
        assert!(n_loads >= 8, "{n_loads}: it goes on trying");
    }

    #[test]
    fn nothing_is_loaded_while_the_backend_works() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        assert_eq!(plan.judge("m", Seen::Busy, now), Err(Some(now + 5 * S)));
        assert_eq!(plan.judge("m", Seen::Absent, now + 5 * S), Ok(()));
    }
}
