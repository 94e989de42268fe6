//! Makes few wakes out of many events: pure, with time passed in.

use std::time::{Duration, Instant};

use super::Cause;

/// Lets the first event through at once and gathers those that follow.
///
/// A network that comes up does so in a dozen events over a second or two: the link, an address, routes, the other
/// address family. The first may already be enough to dial with, the last certainly is, so both make a wake.
#[derive(Debug, Default)]
pub(super) struct Debouncer {
    waiting: Option<Cause>,
    last: Option<Instant>,
}

impl Debouncer {
    /// Shortest time between two wakes. A tunnel that is down dials once per wake, so a network that flaps makes no
    /// more than thirty dials a minute, about what the back-off allows at the start of an outage.
    pub(super) const GAP: Duration = Duration::from_secs(2);

    /// Notes an event. Of those that are gathered the most telling counts.
    pub(super) fn note(&mut self, cause: Cause) {
        let rank = |cause: Cause| match cause {
            Cause::Network => 0,
            // The one that can change a relay's answer, so it is not to be covered by the network's.
            Cause::Clock => 2,
            Cause::Resume => 1,
        };
        self.waiting = Some(match self.waiting {
            Some(waiting) if rank(waiting) >= rank(cause) => waiting,
            Some(_) | None => cause,
        });
    }

    /// Returns when [`Self::take`] has something again; `None` while nothing waits. A time that is past means now.
    pub(super) fn due(&self) -> Option<Instant> {
        // Without a wake before it, one is taken as soon as it is noted.
        self.waiting.and(self.last).map(|last| last + Self::GAP)
    }

    /// Takes the wake that is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<Cause> {
        if self.last.is_some_and(|last| now < last + Self::GAP) {
            return None;
        }
        let cause = self.waiting.take()?;
        self.last = Some(now);
        Some(cause)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cause() -> impl Strategy<Value = Cause> {
        prop_oneof![Just(Cause::Network), Just(Cause::Resume), Just(Cause::Clock)]
    }

    proptest! {
        #[test]
        fn wakes_keep_their_distance_and_none_is_lost(
            events in proptest::collection::vec((0..5000u64, cause()), 1..200),
        ) {
            let start = Instant::now();
            let (mut debouncer, mut now, mut wakes) = (Debouncer::default(), start, Vec::new());
            let mut last_event = start;
            for (pause_ms, cause) in events {
                let next = now + Duration::from_millis(pause_ms);
                // As the task does: it sleeps until due, or until the next event.
                while let Some(due) = debouncer.due().filter(|due| *due <= next) {
                    now = now.max(due);
                    wakes.extend(debouncer.take(now).map(|_| now));
                }
                now = next;
                last_event = now;
                debouncer.note(cause);
                wakes.extend(debouncer.take(now).map(|_| now));
            }
            if let Some(due) = debouncer.due() {
                wakes.extend(debouncer.take(due).map(|_| due));
            }
            prop_assert!(wakes.windows(2).all(|pair| pair[1] - pair[0] >= Debouncer::GAP));
            let last = *wakes.last().unwrap();
            prop_assert!(last >= last_event && last - last_event <= Debouncer::GAP, "the last event has its wake");
            prop_assert_eq!(debouncer.due(), None);
        }
    }

    #[test]
    fn set_clock_is_not_covered_by_the_network() {
        let (mut debouncer, now) = (Debouncer::default(), Instant::now());
        debouncer.note(Cause::Network);
        assert_eq!(debouncer.take(now), Some(Cause::Network));
        for cause in [Cause::Network, Cause::Clock, Cause::Resume, Cause::Network] {
            debouncer.note(cause);
        }
        assert_eq!(debouncer.take(now + Debouncer::GAP), Some(Cause::Clock));
    }
}
