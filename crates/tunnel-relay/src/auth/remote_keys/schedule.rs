//! When an issuer is asked for its keys. Time comes in; nothing here waits.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::address_key::AddressKey;

/// Least time between two fetches that only keep fresh what is known, where the last one failed.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Most requests that wait for a key of one issuer at once. Beyond, they are told to come again.
const WAITING_MAX: usize = 4_096;

/// Most of those from one address: nobody can fill the room alone.
const WAITING_MAX_OF_ADDRESS: usize = 64;

/// Most ids that are remembered as not the issuer's. Beyond, such a token waits for the next fetch like a new one.
const ABSENT_MAX: usize = 1_024;

/// What a token whose key is not known should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Begin a fetch, and wait for it.
    Fetch,
    /// One is under way.
    WaitForFetch,
    /// The next one may begin then.
    WaitUntil(Instant),
    /// The issuer was asked and has no such key.
    Invalid,
    /// The issuer does not answer.
    Away,
}

/// Why a request cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// As many of its address do.
    OfAddress,
    AtAll,
}

#[derive(Debug)]
pub(super) struct Schedule {
    /// Least time from the end of a fetch to the beginning of the next, whatever comes.
    cool_down: Duration,
    /// When the last fetch ended; while one is under way, when that began.
    last: Option<Instant>,
    running: bool,
    /// When the last fetch that brought keys began.
    good: Option<Instant>,
    /// When the last fetch ended, if it failed.
    failed: Option<Instant>,
    waiting: usize,
    /// How many of them each address has; none that has none.
    of_address: HashMap<AddressKey, usize>,
    /// Ids that the last good fetch did not bring.
    absent: HashSet<Box<str>>,
}

impl Schedule {
    pub(super) fn new(cool_down: Duration) -> Self {
        Self {
            cool_down,
            last: None,
            running: false,
            good: None,
            failed: None,
            waiting: 0,
            of_address: HashMap::new(),
            absent: HashSet::new(),
        }
    }

    /// Decides for a token that arrived at `arrived` and names a key that is not among those known.
    pub(super) fn next(
        &mut self,
        key_id: Option<&str>,
        have_keys: bool,
        arrived: Instant,
        now: Instant,
    ) -> Step {
        // A fetch that had begun before may have seen the keys as they were before the token was signed.
        if have_keys && self.good.is_some_and(|began| began >= arrived) {
            if let Some(id) = key_id
                && self.absent.len() < ABSENT_MAX
            {
                self.absent.insert(id.into());
            }
            return Step::Invalid;
        }
        if self.failed.is_some_and(|ended| ended >= arrived) {
            return Step::Away;
        }
        if self.running {
            return Step::WaitForFetch;
        }
        let free_at = self.last.map_or(now, |last| last + self.cool_down);
        if now >= free_at {
            self.begin(now);
            return Step::Fetch;
        }
        if key_id.is_some_and(|id| self.absent.contains(id)) {
            return Step::Invalid;
        }
        // Without any key there is nobody whose newest key it could be: the issuer has just failed.
        if have_keys { Step::WaitUntil(free_at) } else { Step::Away }
    }

    /// Tells whether a fetch may begin that nobody waits for, and notes that it does.
    pub(super) fn begin_in_background(&mut self, now: Instant) -> bool {
        let pause = if self.last_was_good() { self.cool_down } else { RETRY_AFTER };
        let may = !self.running && self.last.is_none_or(|last| now >= last + pause);
        if may {
            self.begin(now);
        }
        may
    }

    fn begin(&mut self, now: Instant) {
        (self.last, self.running) = (Some(now), true);
    }

    /// Notes the end, now, of the fetch that began at `started`.
    pub(super) fn ended(&mut self, started: Instant, good: bool, now: Instant) {
        (self.last, self.running) = (Some(now), false);
        if good {
            self.good = Some(started);
            self.failed = None;
            self.absent.clear();
        } else {
            self.failed = Some(now);
        }
    }

    pub(super) fn last_was_good(&self) -> bool {
        self.good.is_some() && self.failed.is_none()
    }

    /// Lets one from an address wait. Before any key is known, all of an address have to, for a moment.
    pub(super) fn join(&mut self, from: AddressKey, have_keys: bool) -> Result<(), NoRoom> {
        if self.waiting >= WAITING_MAX {
            return Err(NoRoom::AtAll);
        }
        let of_address = self.of_address.entry(from).or_default();
        if have_keys && *of_address >= WAITING_MAX_OF_ADDRESS {
            return Err(NoRoom::OfAddress);
        }
        *of_address += 1;
        self.waiting += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self, from: AddressKey) {
        self.waiting -= 1;
        if let Entry::Occupied(mut of_address) = self.of_address.entry(from) {
            *of_address.get_mut() -= 1;
            if *of_address.get() == 0 {
                of_address.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const COOL_DOWN: Duration = Duration::from_secs(10);

    #[test]
    fn a_flood_of_ids_causes_one_fetch_in_ten_seconds() {
        let start = Instant::now();
        let mut schedule = Schedule::new(COOL_DOWN);
        let mut fetches = Vec::new();
        for ms in 0..60_000_u64 {
            let now = start + Duration::from_millis(ms);
            let id = format!("id-{ms}");
            if schedule.next(Some(&id), true, now, now) == Step::Fetch {
                fetches.push(now);
                schedule.ended(now, true, now);
            }
        }
        assert_eq!(fetches.len(), 6);
        assert!(fetches.windows(2).all(|pair| pair[1] - pair[0] >= COOL_DOWN));
        assert!(schedule.absent.len() <= ABSENT_MAX);
    }

    #[test]
    fn only_a_fetch_that_began_after_the_token_came_speaks_against_its_key() {
        let start = Instant::now();
        let mut schedule = Schedule::new(COOL_DOWN);
        assert_eq!(schedule.next(Some("a"), true, start, start), Step::Fetch);
        let later = start + SECOND;
        assert_eq!(schedule.next(Some("b"), true, later, later), Step::WaitForFetch);
        schedule.ended(start, true, start);
        assert_eq!(schedule.next(Some("a"), true, start, later), Step::Invalid);
        // The fetch began before this token came: its key may have been published in between.
        assert_eq!(schedule.next(Some("b"), true, later, later), Step::WaitUntil(start + COOL_DOWN));
        let free = start + COOL_DOWN;
        assert_eq!(schedule.next(Some("b"), true, later, free), Step::Fetch);
        schedule.ended(free, true, free);
        assert_eq!(schedule.next(Some("b"), true, later, free), Step::Invalid);
        // Asked a moment ago: it need not wait again.
        assert_eq!(schedule.next(Some("b"), true, free + SECOND, free + SECOND), Step::Invalid);
        let again = free + COOL_DOWN;
        assert_eq!(schedule.next(Some("b"), true, again, again), Step::Fetch);
    }

    #[test]
    fn an_issuer_that_fails_is_away_and_not_hammered() {
        let start = Instant::now();
        let mut schedule = Schedule::new(COOL_DOWN);
        assert_eq!(schedule.next(Some("a"), false, start, start), Step::Fetch);
        schedule.ended(start, false, start);
        assert_eq!(schedule.next(Some("a"), false, start, start), Step::Away);
        let soon = start + SECOND;
        assert_eq!(schedule.next(Some("a"), false, soon, soon), Step::Away);
        assert!(!schedule.begin_in_background(start + COOL_DOWN), "what nobody waits for has time");
        assert!(schedule.begin_in_background(start + RETRY_AFTER));
    }

    #[test]
    fn the_crowd_that_waits_is_bounded() {
        let mut schedule = Schedule::new(COOL_DOWN);
        let address = |n: usize| {
            let n = u32::try_from(n).unwrap();
            AddressKey::of(std::net::Ipv4Addr::from(0x0a00_0000 + n).into())
        };
        let n_addresses = WAITING_MAX / WAITING_MAX_OF_ADDRESS;
        for from in (0..n_addresses - 1).map(address) {
            for _ in 0..WAITING_MAX_OF_ADDRESS {
                schedule.join(from, true).unwrap();
            }
            assert_eq!(schedule.join(from, true), Err(NoRoom::OfAddress), "there is room for others");
        }
        for from in (0..WAITING_MAX_OF_ADDRESS).map(|n| address(n_addresses + n)) {
            schedule.join(from, true).unwrap();
        }
        assert_eq!(schedule.join(address(1_000_000), false), Err(NoRoom::AtAll));
        assert_eq!(schedule.of_address.len(), n_addresses - 1 + WAITING_MAX_OF_ADDRESS);
        schedule.leave(address(n_addresses));
        schedule.leave(address(0));
        schedule.join(address(0), true).unwrap();
        schedule.join(address(0), false).unwrap();
        schedule.leave(address(0));
        for _ in 0..WAITING_MAX_OF_ADDRESS {
            schedule.leave(address(0));
        }
        assert!(!schedule.of_address.contains_key(&address(0)), "nothing is kept of who has left");
    }
}
