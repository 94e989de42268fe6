//! When an issuer is asked for its keys. Time comes in; nothing here waits.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use tunnel_runtime::AddressKey;

/// Least time between two fetches that only keep fresh what is known, where the last one failed.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Most requests that wait for a key of one issuer at once. Beyond, they are told to come again.
const WAITING_MAX: usize = 4_096;

/// Most of those from one address. It may be an app's server with all its users, or a whole network: at 200 requests a second
/// that is fifteen seconds: the ten between two fetches, and the fetches.
const WAITING_MAX_OF_ADDRESS: usize = 3_072;

/// Most different keys that those from one address wait for. An issuer has one or two that are new; more are made up, or come
/// from many users at once who hold old tokens.
const KEYS_MAX_OF_ADDRESS: usize = 8;

/// The last places are for addresses that have few: those that have many cannot fill the room.
const WAITING_RESERVED: usize = 512;

/// How many of an address are few.
const WAITING_FEW: usize = 64;

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
    /// Its address waits for too many different keys.
    Keys,
    /// As many wait as may, in all or of its address.
    Places,
}

/// Those of one address that wait.
#[derive(Debug, Default)]
struct Crowd {
    waiting: usize,
    /// How many wait for each key that has a name.
    of_key: HashMap<Box<str>, usize>,
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
    /// Those that each address has; none that has none.
    of_address: HashMap<AddressKey, Crowd>,
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

    /// Lets one from an address wait for a key. Before any key is known, all have to, for a moment, and the names of keys do
    /// not matter.
    pub(super) fn join(
        &mut self,
        from: AddressKey,
        key_id: Option<&str>,
        have_keys: bool,
    ) -> Result<(), NoRoom> {
        let (waiting, n_keys, is_new) = match self.of_address.get(&from) {
            Some(crowd) => {
                (crowd.waiting, crowd.of_key.len(), key_id.is_some_and(|id| !crowd.of_key.contains_key(id)))
            }
            None => (0, 0, key_id.is_some()),
        };
        if have_keys && is_new && n_keys >= KEYS_MAX_OF_ADDRESS {
            return Err(NoRoom::Keys);
        }
        let room = if waiting < WAITING_FEW { WAITING_MAX } else { WAITING_MAX - WAITING_RESERVED };
        if self.waiting >= room || waiting >= WAITING_MAX_OF_ADDRESS {
            return Err(NoRoom::Places);
        }
        let crowd = self.of_address.entry(from).or_default();
        crowd.waiting += 1;
        if let Some(id) = key_id {
            *crowd.of_key.entry(id.into()).or_default() += 1;
        }
        self.waiting += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self, from: AddressKey, key_id: Option<&str>) {
        self.waiting -= 1;
        let Entry::Occupied(mut of_address) = self.of_address.entry(from) else { return };
        let crowd = of_address.get_mut();
        crowd.waiting -= 1;
        if let Some(id) = key_id
            && let Some(of_key) = crowd.of_key.get_mut(id)
        {
            *of_key -= 1;
            if *of_key == 0 {
                crowd.of_key.remove(id);
            }
        }
        if crowd.waiting == 0 {
            of_address.remove();
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

    fn address(n: usize) -> AddressKey {
        AddressKey::of(std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).unwrap()).into())
    }

    #[test]
    fn many_of_one_address_wait_for_one_key_beside_a_flood_of_made_up_ones() {
        let mut schedule = Schedule::new(COOL_DOWN);
        for n in 0..10_000 {
            let room = schedule.join(address(n % 10), Some(&format!("x{n}")), true);
            assert_eq!(room, if n < 80 { Ok(()) } else { Err(NoRoom::Keys) });
        }
        for _ in 0..2_000 {
            schedule.join(address(10), Some("new"), true).unwrap();
        }
        // Another name finds no room only where there are many.
        schedule.join(address(10), Some("old"), true).unwrap();
        assert_eq!(schedule.join(address(0), Some("new"), true), Err(NoRoom::Keys));
        schedule.leave(address(0), Some("x0"));
        schedule.join(address(0), Some("new"), true).unwrap();
        for n in 0..100 {
            schedule.join(address(11), Some(&format!("x{n}")), false).unwrap();
        }
    }

    #[test]
    fn the_crowd_that_waits_is_bounded() {
        let mut schedule = Schedule::new(COOL_DOWN);
        let mut fill = |n: usize, most: usize| {
            let joined = (0..most).take_while(|_| schedule.join(address(n), Some("a"), true).is_ok());
            joined.count()
        };
        assert_eq!(fill(0, 5_000), WAITING_MAX_OF_ADDRESS);
        assert_eq!(fill(1, 5_000), WAITING_MAX - WAITING_RESERVED - WAITING_MAX_OF_ADDRESS);
        for n in 0..WAITING_RESERVED / WAITING_FEW {
            assert_eq!(fill(2 + n, 5_000), WAITING_FEW, "there is room for others");
        }
        assert_eq!(fill(100, 1), 0);
        assert_eq!(schedule.join(address(100), None, false), Err(NoRoom::Places));
        schedule.leave(address(2), Some("a"));
        schedule.join(address(100), None, false).unwrap();
        schedule.leave(address(100), None);
        for _ in 0..WAITING_MAX_OF_ADDRESS {
            schedule.leave(address(0), Some("a"));
        }
        for gone in [0, 100] {
            assert!(!schedule.of_address.contains_key(&address(gone)), "nothing is kept of who has left");
        }
    }
}
