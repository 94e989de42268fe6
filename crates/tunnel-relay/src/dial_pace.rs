//! How fast new sessions are opened: when a relay comes back, all its desktops come at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two new sessions: 150 a second. A dial costs a signature, two tasks and some answers; at this rate it
/// takes a tenth of a core, and a thousand desktops are back within seven seconds.
const STEP: Duration = Duration::from_micros(6_667);
/// So many dials may come at once without waiting.
const BURST: u32 = 20;
/// A dial waits here for so long; one that would have to wait longer is told when to come back. Shorter than what any
/// desktop waits for an answer.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Nobody is sent away for longer.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// Spreads dials over time.
#[derive(Debug)]
pub(crate) struct DialPace {
    pace: Mutex<Pace>,
}

/// When a dial is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    In(Duration),
    /// Not now: the queue is full until then.
    ComeBack(Duration),
}

/// Pure, with the time as an argument.
#[derive(Debug)]
struct Pace {
    /// When the next place in the queue is due.
    next: Instant,
    /// Until when places are promised to those who were sent away.
    promised: Instant,
}

impl Default for DialPace {
    fn default() -> Self {
        let now = Instant::now();
        Self { pace: Mutex::new(Pace { next: now, promised: now }) }
    }
}

impl DialPace {
    /// Waits for the turn of a new dial; fails with the time after which it may come again.
    pub(crate) async fn turn(&self) -> Result<(), Duration> {
        let turn = self.pace.lock().unwrap_or_else(PoisonError::into_inner).turn(Instant::now());
        match turn {
            Turn::In(wait) => {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Ok(())
            }
            Turn::ComeBack(after) => Err(after),
        }
    }
}

impl Pace {
    fn turn(&mut self, now: Instant) -> Turn {
        let due = self.next.max(now);
        let wait = due.duration_since(now).saturating_sub(STEP * BURST);
        if wait <= WAIT_MAX {
            self.next = due + STEP;
            return Turn::In(wait);
        }
        self.promised = self.promised.max(due).min(now + AWAY_MAX) + STEP;
        // A little early: who comes too early waits here, and nothing waits for who comes late.
        let after = self.promised.duration_since(now).saturating_sub(WAIT_MAX / 2);
        Turn::ComeBack(after.max(Duration::from_secs(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;

    #[test]
    fn a_few_dials_do_not_wait() {
        let now = Instant::now();
        let mut pace = Pace { next: now, promised: now };
        for _ in 0..=BURST {
            assert_eq!(pace.turn(now), Turn::In(Duration::ZERO));
        }
        assert_ne!(pace.turn(now), Turn::In(Duration::ZERO));
    }

    #[test]
    fn a_thousand_dials_at_once_are_taken_evenly_and_soon() {
        let start = Instant::now();
        let mut pace = Pace { next: start, promised: start };
        let mut dials: BinaryHeap<Reverse<Instant>> = (0..1000).map(|_| Reverse(start)).collect();
        let (mut taken, mut n_refused) = (Vec::new(), 0);
        while let Some(Reverse(now)) = dials.pop() {
            match pace.turn(now) {
                Turn::In(wait) => taken.push(now + wait),
                Turn::ComeBack(after) => {
                    n_refused += 1;
                    // `Retry-After` is in whole seconds.
                    dials.push(Reverse(now + Duration::from_secs(after.as_secs_f64().ceil() as u64)));
                }
            }
        }
        taken.sort_unstable();
        let last = *taken.last().unwrap() - start;
        assert!(last < Duration::from_secs(8), "{last:?}");
        let peak = taken.iter().map(|from| {
            taken.iter().filter(|at| **at >= *from && **at < *from + Duration::from_secs(1)).count()
        });
        let peak = peak.max().unwrap();
        assert!(peak <= 200, "{peak} in a second");
        assert!(n_refused < 1500, "{n_refused} were sent away");
    }

    #[test]
    fn nobody_is_sent_away_for_long() {
        let now = Instant::now();
        let mut pace = Pace { next: now, promised: now };
        for _ in 0..100_000 {
            if let Turn::ComeBack(after) = pace.turn(now) {
                assert!(after <= AWAY_MAX + STEP, "{after:?}");
            }
        }
    }
}
