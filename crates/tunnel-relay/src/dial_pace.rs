//! How fast new sessions are opened: when a relay comes back, all its desktops come at once.
//!
//! The queue has one place for each subject, so a subject that dials without pause keeps nobody else waiting, and one
//! with many desktops has them all back as fast as the relay opens sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Time between two new sessions: 150 a second. A dial costs a signature, two tasks and some answers; at this rate it
/// takes a tenth of a core, and a thousand desktops are back within seven seconds.
const STEP: Duration = Duration::from_micros(6_667);
/// So many dials may come at once without waiting.
const BURST: u32 = 20;
/// A dial waits here for so long, and as long for those of its own subject that came before; one that would have to wait
/// longer is told when to come back. Shorter than what any desktop waits for an answer.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Nobody is sent away for longer.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// Spreads dials over time.
#[derive(Debug)]
pub(crate) struct DialPace {
    pace: Mutex<Pace>,
    /// The place of each subject that has a dial waiting. As many as there are waiting dials at most, and of one subject
    /// no more wait than its tier lets dial at once.
    places: Mutex<Places>,
}

type Places = HashMap<Arc<str>, Arc<Semaphore>>;

/// A dial of a subject, first in the line of its own and then in the queue of all.
struct Place<'a> {
    places: &'a Mutex<Places>,
    subject: &'a Arc<str>,
    /// The line: one permit, which the dial has that is in the queue.
    line: Arc<Semaphore>,
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
        Self { pace: Mutex::new(Pace { next: now, promised: now }), places: Mutex::default() }
    }
}

impl DialPace {
    /// Waits for the turn of a subject's new dial; fails with the time after which it may come again.
    pub(crate) async fn turn(&self, subject: &Arc<str>) -> Result<(), Duration> {
        let place = Place::of(subject, &self.places);
        let Ok(_first) = timeout(WAIT_MAX, place.line.acquire()).await else { return Err(WAIT_MAX) };
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

impl<'a> Place<'a> {
    fn of(subject: &'a Arc<str>, places: &'a Mutex<Places>) -> Self {
        let new = || Arc::new(Semaphore::new(1));
        let line = Arc::clone(lock(places).entry(Arc::clone(subject)).or_insert_with(new));
        Self { places, subject, line }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = lock(self.places);
        // The map has one, too. Nobody joins while it is locked.
        if Arc::strong_count(&self.line) == 2 {
            places.remove(self.subject);
        }
        // A crowd that has gone leaves no table behind.
        if places.is_empty() {
            places.shrink_to_fit();
        }
    }
}

fn lock(places: &Mutex<Places>) -> MutexGuard<'_, Places> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
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

    use tokio::task::JoinSet;

    use super::*;

    /// Dials until it is let in, and tells how long that took.
    async fn dial(pace: Arc<DialPace>, subject: Arc<str>) -> Duration {
        let start = Instant::now();
        while let Err(after) = pace.turn(&subject).await {
            // `Retry-After` is in whole seconds.
            tokio::time::sleep(Duration::from_secs(after.as_secs_f64().ceil() as u64)).await;
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_that_dials_without_pause_keeps_nobody_else_waiting() {
        let pace = Arc::new(DialPace::default());
        let mut flood = JoinSet::new();
        for _ in 0..400 {
            let (pace, mallory) = (Arc::clone(&pace), Arc::<str>::from("mallory"));
            flood.spawn(async move {
                loop {
                    if pace.turn(&mallory).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        for _ in 0..100 {
            let waited = dial(Arc::clone(&pace), "alice".into()).await;
            assert!(waited <= STEP * (BURST + 2), "{waited:?}");
        }
        flood.shutdown().await;
        assert!(lock(&pace.places).is_empty(), "nobody waits, nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn all_desktops_of_one_subject_are_back_soon_and_beside_a_thousand_others() {
        for (n_others, limit_s) in [(0, 2), (1_000, 12)] {
            let pace = Arc::new(DialPace::default());
            let mut dials = JoinSet::new();
            for n in 0..n_others {
                dials.spawn(dial(Arc::clone(&pace), format!("tenant {n}").into()));
            }
            for _ in 0..256 {
                dials.spawn(dial(Arc::clone(&pace), "fleet".into()));
            }
            let last = dials.join_all().await.into_iter().max().unwrap();
            assert!(last <= Duration::from_secs(limit_s), "{last:?} beside {n_others}");
        }
    }

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
