//! What was made from this machine: pure.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tunnel_api::{Key, KeyReach};

use crate::store::StoredKey;

/// Keys, the oldest first.
#[derive(Debug)]
pub(super) struct KeyBook {
    keys: Vec<StoredKey>,
}

impl KeyBook {
    /// Keys that are written down: all are written anew when one changes.
    const MAX: usize = 512;
    /// Local keys that hold at the same time: more than a household has apps and machines.
    const MAX_LOCAL: usize = 256;
    /// How long a key that is over can still be looked up.
    const REMEMBERED: SignedDuration = SignedDuration::from_hours(90 * 24);

    pub(super) fn new(former: Vec<StoredKey>) -> Self {
        Self { keys: former }
    }

    /// Tells whether another one can be written down, if need be in the place of one that is over.
    pub(super) fn has_room(&self, now: Timestamp) -> bool {
        self.keys.len() < Self::MAX || self.keys.iter().any(|stored| end(&stored.key, now).is_some())
    }

    /// Tells whether another local key may hold beside those that do.
    pub(super) fn has_room_for_local(&self, now: Timestamp) -> bool {
        let holds =
            |stored: &&StoredKey| stored.key.reach == KeyReach::Local && end(&stored.key, now).is_none();
        self.keys.iter().filter(holds).count() < Self::MAX_LOCAL
    }

    /// Writes one down, and forgets those that have been over for long.
    pub(super) fn add(&mut self, key: StoredKey, now: Timestamp) {
        let lately = |at: Timestamp| now.duration_since(at) < Self::REMEMBERED;
        self.keys.retain(|stored| end(&stored.key, now).is_none_or(lately));
        if self.keys.len() >= Self::MAX
            && let Some(over) = self.keys.iter().position(|stored| end(&stored.key, now).is_some())
        {
            self.keys.remove(over);
        }
        self.keys.push(key);
    }

    pub(super) fn revoked(&mut self, relay: &str, id: &str, now: Timestamp) {
        if let Some(key) = self.all_mut().find(|key| key.relay == relay && key.id == id) {
            key.revoked_at.get_or_insert(now);
        }
    }

    pub(super) fn forget(&mut self, relay: &str, id: &str) {
        self.keys.retain(|stored| stored.key.relay != relay || stored.key.id != id);
    }

    pub(super) fn find(&self, relay: &str, id: &str) -> Option<&Key> {
        self.keys.iter().map(|stored| &stored.key).find(|key| key.relay == relay && key.id == id)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Key> {
        self.keys.iter_mut().map(|stored| &mut stored.key)
    }

    /// The relay that made the key of this id.
    pub(super) fn relay_of(&self, id: &str) -> Option<&str> {
        self.keys.iter().map(|stored| &stored.key).find(|key| key.id == id).map(|key| key.relay.as_str())
    }

    pub(super) fn all(&self) -> Arc<[StoredKey]> {
        self.keys.as_slice().into()
    }

    pub(super) fn newest_first(&self) -> Vec<Key> {
        self.keys.iter().rev().map(|stored| stored.key.clone()).collect()
    }
}

/// Since when a key is over; `None` while it holds.
fn end(key: &Key, now: Timestamp) -> Option<Timestamp> {
    key.revoked_at.or(key.expires_at).filter(|end| *end <= now)
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn key(n: usize, ended_days_ago: Option<i64>) -> StoredKey {
        let expires_at = ended_days_ago.map(|days| now() - (24 * days).hours());
        let key =
            Key { id: format!("k{n}"), relay: "relay.example".to_owned(), expires_at, ..Key::default() };
        StoredKey { key, hash: None }
    }

    fn ids(book: &KeyBook) -> Vec<String> {
        book.newest_first().into_iter().map(|key| key.id).collect()
    }

    #[test]
    fn key_that_ended_long_ago_is_forgotten_with_the_next_one() {
        let mut book = KeyBook::new(vec![key(1, Some(91)), key(2, Some(89)), key(3, None)]);
        book.add(key(4, None), now());
        assert_eq!(ids(&book), ["k4", "k3", "k2"]);
    }

    #[test]
    fn key_that_holds_is_never_forgotten() {
        let mut book = KeyBook::new((0..KeyBook::MAX).map(|n| key(n, None)).collect());
        assert!(!book.has_room(now()));
        book.revoked("other.example", "k7", now());
        assert!(!book.has_room(now()), "that is another relay's");
        book.revoked("relay.example", "k7", now());
        assert!(book.has_room(now()));
        book.add(key(9999, None), now());
        assert_eq!(book.keys.len(), KeyBook::MAX);
        assert!(book.find("relay.example", "k7").is_none() && book.relay_of("k9999").is_some());
    }

    #[test]
    fn local_keys_that_hold_are_bounded_and_remote_ones_do_not_count() {
        let local = |n, ended_days_ago| {
            let mut stored = key(n, ended_days_ago);
            stored.key.reach = KeyReach::Local;
            stored
        };
        let mut all: Vec<StoredKey> = (0..KeyBook::MAX_LOCAL - 1).map(|n| local(n, None)).collect();
        all.extend([key(1000, None), local(1001, Some(1))]);
        let mut book = KeyBook::new(all);
        assert!(book.has_room_for_local(now()));
        book.add(local(1002, None), now());
        assert!(!book.has_room_for_local(now()) && book.has_room(now()));
    }

    #[test]
    fn first_revocation_counts() {
        let mut book = KeyBook::new(vec![key(1, None)]);
        book.revoked("relay.example", "k1", now());
        book.revoked("relay.example", "k1", now() + 1.hour());
        assert_eq!(book.newest_first()[0].revoked_at, Some(now()));
    }
}
