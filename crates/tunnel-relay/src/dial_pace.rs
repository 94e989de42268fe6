//! How fast new sessions are opened: when a relay comes back, all its desktops come at once.
//!
//! The queue has a few places for each subject, so a subject that dials without pause keeps nobody else waiting, and one
//! with many desktops has them all back as fast as the relay opens sessions. A dial is charged to its subject only when
//! the queue takes it: a fleet that is sent away has not used up what it needs to come back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::error::Refusal;

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
/// Places of one subject in the queue: who dials without pause keeps the others waiting for a tenth of a second, and the few
/// desktops of a person need no line.
const PLACES: usize = 16;
/// Most dials of one subject that wait: a whole fleet.
const LINE_MAX: usize = 256;
/// Those that the line sends away come back over a time that is longer by this for each dial in it.
const APART: Duration = Duration::from_millis(20);
/// Of one subject the queue sends away one dial in so long. It was promised a place later and was charged for nothing, so a
/// subject that comes back at once must not collect promises, which keep all others away.
const AWAY_APART: Duration = Duration::from_millis(50);

/// Spreads dials over time.
#[derive(Debug)]
pub(crate) struct DialPace {
    pace: Mutex<Pace>,
    /// The line of each subject that has a dial waiting. As many as there are waiting dials at most.
    lines: Mutex<Lines>,
}

type Lines = HashMap<Arc<str>, Line>;

/// The dials of one subject that wait.
#[derive(Debug)]
struct Line {
    gates: Arc<Gates>,
    n: usize,
}

#[derive(Debug)]
struct Gates {
    /// Those who pass are in the queue.
    queue: Semaphore,
    /// The one who passes is sent away from there.
    away: Semaphore,
}

/// A dial of a subject, first in the line of its own and then in the queue of all.
struct Place<'a> {
    lines: &'a Mutex<Lines>,
    subject: &'a Arc<str>,
    gates: Arc<Gates>,
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
        Self { pace: Mutex::new(Pace { next: now, promised: now }), lines: Mutex::default() }
    }
}

impl DialPace {
    /// Waits for the turn of a subject's new dial. `charge` takes the dial from what the subject may dial, once it is
    /// certain that the queue takes it.
    ///
    /// # Errors
    ///
    /// [`Refusal::Busy`], or what `charge` says: then the dial has had no place in the queue.
    pub(crate) async fn turn(
        &self,
        subject: &Arc<str>,
        charge: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let place = Place::of(subject, &self.lines)?;
        let Ok(_queued) = timeout(WAIT_MAX, place.gates.queue.acquire()).await else {
            return Err(sent_away(place.n_in_line()));
        };
        let is_full = self.pace().is_full(Instant::now());
        let leaving = if is_full { place.gates.away.acquire().await.ok() } else { None };
        let turn = self.pace().turn(Instant::now(), charge)?;
        match turn {
            Turn::In(wait) => {
                drop(leaving);
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Ok(())
            }
            Turn::ComeBack(after) => {
                tokio::time::sleep(AWAY_APART).await;
                Err(Refusal::Busy { retry_after: after })
            }
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a dial is told for which the line of its subject is too long.
fn sent_away(n_in_line: usize) -> Refusal {
    let within = APART * u32::try_from(n_in_line).unwrap_or(u32::MAX);
    Refusal::Busy { retry_after: (WAIT_MAX + within.mul_f64(rand::random_range(0.0..=1.0))).min(AWAY_MAX) }
}

impl<'a> Place<'a> {
    /// Joins the line of a subject, unless that is too long.
    fn of(subject: &'a Arc<str>, lines: &'a Mutex<Lines>) -> Result<Self, Refusal> {
        let gates = || Gates { queue: Semaphore::new(PLACES), away: Semaphore::new(1) };
        let new = || Line { gates: Arc::new(gates()), n: 0 };
        let mut locked = lock(lines);
        let line = locked.entry(Arc::clone(subject)).or_insert_with(new);
        if line.n >= LINE_MAX {
            return Err(sent_away(line.n));
        }
        line.n += 1;
        Ok(Self { lines, subject, gates: Arc::clone(&line.gates) })
    }

    fn n_in_line(&self) -> usize {
        lock(self.lines).get(self.subject).map_or(0, |line| line.n)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = lock(self.lines);
        // Counted under the lock, so that the last one to leave knows that it is.
        if let Some(line) = lines.get_mut(self.subject) {
            line.n -= 1;
            if line.n == 0 {
                lines.remove(self.subject);
            }
        }
        // A crowd that has gone leaves no table behind.
        if lines.is_empty() {
            lines.shrink_to_fit();
        }
    }
}

fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pace {
    /// Returns when a dial is taken; nothing has changed where it cannot be charged.
    fn turn(&mut self, now: Instant, charge: impl FnOnce() -> Result<(), Refusal>) -> Result<Turn, Refusal> {
        let due = self.next.max(now);
        if !self.is_full(now) {
            charge()?;
            self.next = due + STEP;
            return Ok(Turn::In(due.duration_since(now).saturating_sub(STEP * BURST)));
        }
        self.promised = self.promised.max(due).min(now + AWAY_MAX) + STEP;
        // A little early: who comes too early waits here, and nothing waits for who comes late.
        let after = self.promised.duration_since(now).saturating_sub(WAIT_MAX / 2);
        Ok(Turn::ComeBack(after.max(Duration::from_secs(1))))
    }

    /// Tells whether a dial would have to wait for too long.
    fn is_full(&self, now: Instant) -> bool {
        self.next.saturating_duration_since(now).saturating_sub(STEP * BURST) > WAIT_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    /// Dials until it is let in, and tells how long that took.
    async fn dial(pace: Arc<DialPace>, subject: Arc<str>) -> Duration {
        let start = Instant::now();
        while let Err(refusal) = pace.turn(&subject, || Ok(())).await {
            tokio::time::sleep(refusal.retry_after().unwrap()).await;
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
                    if pace.turn(&mallory, || Ok(())).await.is_err() {
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
        assert!(lock(&pace.lines).is_empty(), "nobody waits, nothing is kept");
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

    #[tokio::test(start_paused = true)]
    async fn a_thousand_desktops_of_a_hundred_accounts_are_back_as_soon_as_of_a_thousand() {
        let pace = Arc::new(DialPace::default());
        let mut dials = JoinSet::new();
        for n in 0..1_000 {
            dials.spawn(dial(Arc::clone(&pace), format!("tenant {}", n / 10).into()));
        }
        let last = dials.join_all().await.into_iter().max().unwrap();
        assert!(last < Duration::from_secs(8), "{last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fleet_that_is_sent_away_has_its_allowance_left() {
        let pace = Arc::new(DialPace::default());
        let mut others = JoinSet::new();
        for n in 0..3_000 {
            others.spawn(dial(Arc::clone(&pace), format!("tenant {n}").into()));
        }
        // As many as are needed once, and not one more for those that were sent away.
        let allowance = Arc::new(AtomicUsize::new(256));
        let n_sent_away = Arc::new(AtomicUsize::new(0));
        let mut fleet = JoinSet::new();
        for _ in 0..256 {
            let (pace, allowance, n_sent_away) =
                (Arc::clone(&pace), Arc::clone(&allowance), Arc::clone(&n_sent_away));
            fleet.spawn(async move {
                let charge = || {
                    let less = |left: usize| left.checked_sub(1);
                    let left = allowance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                    left.map(drop).map_err(|_| Refusal::SessionGone)
                };
                while let Err(refusal) = pace.turn(&"fleet".into(), charge).await {
                    n_sent_away.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(refusal.retry_after().expect("it was charged for nothing")).await;
                }
            });
        }
        let start = Instant::now();
        fleet.join_all().await;
        assert!(n_sent_away.load(Ordering::Relaxed) > 256, "{n_sent_away:?}");
        assert!(start.elapsed() < Duration::from_secs(45), "{:?}", start.elapsed());
        others.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_without_allowance_takes_nothing_of_the_queue() {
        let pace = DialPace::default();
        for _ in 0..10_000 {
            assert!(pace.turn(&"mallory".into(), || Err(Refusal::SessionGone)).await.is_err());
        }
        let start = Instant::now();
        pace.turn(&"alice".into(), || Ok(())).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_stay_away_collects_no_promises() {
        let pace = Arc::new(DialPace::default());
        pace.pace.lock().unwrap().next += Duration::from_secs(6);
        let mut flood = JoinSet::new();
        for _ in 0..LINE_MAX {
            let pace = Arc::clone(&pace);
            flood.spawn(async move {
                loop {
                    if pace.turn(&"mallory".into(), || Ok(())).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let refused = pace.turn(&"alice".into(), || Ok(())).await.expect_err("the queue is full");
        let away = refused.retry_after().unwrap();
        assert!(away < Duration::from_secs(5), "{away:?}");
        flood.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_bounded_and_leaves_nothing() {
        let (lines, subject) = (Mutex::default(), Arc::<str>::from("fleet"));
        let places: Vec<_> = (0..LINE_MAX).map(|_| Place::of(&subject, &lines).ok().unwrap()).collect();
        assert!(Place::of(&subject, &lines).is_err());
        std::thread::scope(|scope| {
            for place in places {
                scope.spawn(move || drop(place));
            }
        });
        assert!(lock(&lines).is_empty());
    }

    #[test]
    fn a_few_dials_do_not_wait() {
        let now = Instant::now();
        let mut pace = Pace { next: now, promised: now };
        for _ in 0..=BURST {
            assert_eq!(pace.turn(now, || Ok(())).unwrap(), Turn::In(Duration::ZERO));
        }
        assert_ne!(pace.turn(now, || Ok(())).unwrap(), Turn::In(Duration::ZERO));
    }

    #[test]
    fn a_thousand_dials_at_once_are_taken_evenly_and_soon() {
        let start = Instant::now();
        let mut pace = Pace { next: start, promised: start };
        let mut dials: BinaryHeap<Reverse<Instant>> = (0..1000).map(|_| Reverse(start)).collect();
        let (mut taken, mut n_refused) = (Vec::new(), 0);
        while let Some(Reverse(now)) = dials.pop() {
            match pace.turn(now, || Ok(())).unwrap() {
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
            if let Turn::ComeBack(after) = pace.turn(now, || Ok(())).unwrap() {
                assert!(after <= AWAY_MAX + STEP, "{after:?}");
            }
        }
    }
}
