//! Keys that did not let anybody in, counted by address: who goes on trying is told to stop, and the history hears of it
//! now and then. Nobody is kept from trying, which a key of 256 random bits does not need: it is for the client that was
//! set up with a wrong key and heeds what it is told. Pure, and bounded: there is no end of addresses to come from.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tunnel_runtime::AddressKey;

/// What was refused lately.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    by_address: HashMap<AddressKey, Tries>,
    /// Refusals since the last event.
    untold: u64,
    told_at: Option<Instant>,
}

#[derive(Debug)]
struct Tries {
    since: Instant,
    count: u32,
}

/// What to do about a wrong key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// How long the address is to keep away, if it has tried too often. A good key is let in all the same: others may
    /// share the address.
    pub(crate) keep_away: Option<Duration>,
    /// What the history is to say now: how many were refused since it last did.
    pub(crate) tell: Option<u64>,
}

impl Failures {
    /// Wrong keys in [`Failures::WINDOW`] that are answered as such.
    const PATIENCE: u32 = 20;
    const WINDOW: Duration = Duration::from_secs(60);
    /// Addresses that are remembered; when there are more, the one that has been known for longest goes.
    const MAX_ADDRESSES: usize = 1024;
    /// Events of refused keys: no more than one in this time, however many come.
    const TELL_EVERY: Duration = Duration::from_secs(60);

    /// Notes a wrong key from an address.
    pub(crate) fn note(&mut self, address: AddressKey, now: Instant) -> Failed {
        let is_over = |tries: &Tries| now.saturating_duration_since(tries.since) >= Self::WINDOW;
        if !self.by_address.contains_key(&address) && self.by_address.len() >= Self::MAX_ADDRESSES {
            self.by_address.retain(|_, tries| !is_over(tries));
            if self.by_address.len() >= Self::MAX_ADDRESSES
                && let Some(oldest) = self.by_address.iter().min_by_key(|(_, tries)| tries.since)
            {
                let oldest = *oldest.0;
                self.by_address.remove(&oldest);
            }
        }
        let tries = self.by_address.entry(address).or_insert(Tries { since: now, count: 0 });
        if is_over(tries) {
            *tries = Tries { since: now, count: 0 };
        }
        tries.count = tries.count.saturating_add(1);
        let left = Self::WINDOW.saturating_sub(now.saturating_duration_since(tries.since));
        let keep_away = (tries.count > Self::PATIENCE).then_some(left);
        self.untold += 1;
        let due = self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= Self::TELL_EVERY);
        let tell = due.then(|| {
            self.told_at = Some(now);
            std::mem::take(&mut self.untold)
        });
        Failed { keep_away, tell }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(n: u32) -> AddressKey {
        AddressKey::of(Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn who_goes_on_trying_is_told_to_keep_away_for_the_rest_of_the_minute() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        for _ in 0..Failures::PATIENCE {
            assert_eq!(failures.note(address(1), start).keep_away, None);
        }
        let later = start + Duration::from_secs(20);
        assert_eq!(failures.note(address(1), later).keep_away, Some(Duration::from_secs(40)));
        assert_eq!(failures.note(address(2), later).keep_away, None);
        assert_eq!(failures.note(address(1), start + Failures::WINDOW).keep_away, None);
    }

    #[test]
    fn history_hears_of_many_as_of_one() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        assert_eq!(failures.note(address(1), start).tell, Some(1));
        for n in 0..50 {
            assert_eq!(failures.note(address(n), start + Duration::from_secs(1)).tell, None);
        }
        assert_eq!(failures.note(address(1), start + Failures::TELL_EVERY).tell, Some(51));
    }

    #[test]
    fn no_number_of_addresses_takes_more_room() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        for n in 0..5000 {
            failures.note(address(n), start + Duration::from_millis(n.into()));
        }
        assert_eq!(failures.by_address.len(), Failures::MAX_ADDRESSES);
        assert!(failures.by_address.contains_key(&address(4999)));
    }
}
