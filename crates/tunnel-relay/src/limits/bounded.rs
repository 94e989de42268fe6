//! A map for keys that strangers choose: it never holds more than so many, and the oldest go first.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Keys in two generations. A key that is used moves into the younger one; when that is full, the older one is
/// forgotten and the younger one takes its place. So a look costs one or two hash look-ups whatever happens, no key
/// that was among the last [`Bounded::capacity`] / 2 to be used is ever lost, and nothing needs to be sorted.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Eq + Hash, V> Bounded<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity: capacity.max(2) }
    }

    /// Returns a key's value, and notes that it was used.
    pub(super) fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.insert(key, value);
        }
        self.young.get_mut(key)
    }

    /// Sets a key's value.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.capacity / 2 && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// Keeps only what `keep` says, and gives the room of the rest back.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        for generation in [&mut self.young, &mut self.old] {
            generation.retain(|_, value| keep(value));
            // A map that was full once would stay as large for ever.
            if generation.len() < generation.capacity() / 4 {
                generation.shrink_to_fit();
            }
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.young.values().chain(self.old.values())
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flood_of_keys_goes_beyond_the_bound_and_what_is_used_stays() {
        let mut map = Bounded::new(100);
        map.insert("regular".to_owned(), 7);
        for n in 0..10_000 {
            map.insert(n.to_string(), n);
            assert!(map.len() <= 100);
            if n % 40 == 0 {
                assert_eq!(map.get("regular").copied(), Some(7), "lost after {n}");
            }
        }
        assert_eq!(map.get("9999").copied(), Some(9_999));
        assert!(map.get("9000").is_none());
    }

    #[test]
    fn a_key_has_one_value_whichever_generation_it_is_in() {
        let mut map = Bounded::new(4);
        for n in 0..3 {
            map.insert("a", n);
            map.insert("b", n);
            map.insert("c", n);
            assert_eq!(map.values().count(), map.len());
            assert!(map.values().all(|value| *value == n), "{map:?}");
        }
        map.retain(|_| false);
        assert_eq!(map.len(), 0);
        assert!(map.get("a").is_none());
    }
}
