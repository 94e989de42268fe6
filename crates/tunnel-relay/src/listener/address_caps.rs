//! How many connections one address may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tunnel_runtime::AddressKey;

/// Counts the connections of each address. There is an entry for each address that has one, so the map is no larger
/// than the number of sockets that the process may have.
#[derive(Debug, Default)]
pub(crate) struct AddressCaps {
    held: Arc<Mutex<HashMap<AddressKey, usize>>>,
}

/// A connection that is counted until it is dropped.
#[derive(Debug)]
pub(crate) struct AddressSlot {
    held: Arc<Mutex<HashMap<AddressKey, usize>>>,
    key: AddressKey,
}

impl AddressCaps {
    /// Counts one more; `None` where `max` are there already.
    pub(crate) fn take(&self, address: IpAddr, max: usize) -> Option<AddressSlot> {
        let key = AddressKey::of(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(key).or_insert(0);
        if *count >= max {
            if *count == 0 {
                held.remove(&key);
            }
            return None;
        }
        *count += 1;
        Some(AddressSlot { held: Arc::clone(&self.held), key })
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
        // A crowd that has gone leaves no table behind.
        if held.capacity() > 4 * held.len().max(1024) {
            held.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_and_no_more() {
        let caps = AddressCaps::default();
        let first = caps.take(ip("192.0.2.1"), 2).unwrap();
        let _second = caps.take(ip("::ffff:192.0.2.1"), 2).unwrap();
        assert!(caps.take(ip("192.0.2.1"), 2).is_none());
        assert!(caps.take(ip("192.0.2.2"), 2).is_some());
        drop(first);
        assert!(caps.take(ip("192.0.2.1"), 2).is_some());
    }

    #[test]
    fn a_64_is_one_address() {
        let caps = AddressCaps::default();
        let _held = caps.take(ip("2001:db8:0:1::1"), 1).unwrap();
        assert!(caps.take(ip("2001:db8:0:1:ffff:ffff:ffff:ffff"), 1).is_none());
        assert!(caps.take(ip("2001:db8:0:2::1"), 1).is_some());
    }

    #[test]
    fn who_has_gone_leaves_nothing() {
        let caps = AddressCaps::default();
        let slots: Vec<_> = (0..=255).filter_map(|n| caps.take(IpAddr::from([10, 0, 0, n]), 1)).collect();
        assert_eq!(slots.len(), 256);
        drop(slots);
        assert!(caps.take(ip("10.0.0.1"), 0).is_none());
        assert!(caps.held.lock().unwrap().is_empty());
    }
}
