//! What one tenant uses now, of all its devices together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Refusal;

/// Counts of one tenant.
#[derive(Debug, Default)]
pub(crate) struct TenantLoad {
    /// Requests under way.
    streams: AtomicUsize,
    /// Bytes of bodies that the relay holds in order to find out where they go.
    held_bytes: AtomicUsize,
}

/// Most bytes that the relay holds for one tenant at once: 32 bodies of the longest kind. A request that needs more is
/// refused for now.
const HELD_MAX_BYTES: usize = 32 << 20;

impl TenantLoad {
    pub(super) fn claim(&self, max_streams: usize) -> Result<(), Refusal> {
        let before = self.streams.fetch_add(1, Ordering::Relaxed);
        if before >= max_streams {
            self.release();
            return Err(Refusal::TooManyStreams { limit: max_streams });
        }
        Ok(())
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    pub(super) fn release(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A tenant's place for one request whose device is not chosen yet.
#[derive(Debug)]
pub(crate) struct Slot {
    load: Option<Arc<TenantLoad>>,
}

impl Slot {
    pub(super) fn claim(load: &Arc<TenantLoad>, max_streams: usize) -> Result<Self, Refusal> {
        load.claim(max_streams)?;
        Ok(Self { load: Some(Arc::clone(load)) })
    }

    /// Takes over the place that a permit has.
    pub(super) fn of_permit(load: &Arc<TenantLoad>) -> Self {
        Self { load: Some(Arc::clone(load)) }
    }

    /// Leaves the place to a permit, which gives it up in the end.
    pub(super) fn hand_over(mut self) {
        self.load = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(load) = &self.load {
            load.release();
        }
    }
}

/// Bytes that are held for a tenant, as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    load: Arc<TenantLoad>,
    n_bytes: usize,
}

impl Held {
    pub(crate) fn none(load: &Arc<TenantLoad>) -> Self {
        Self { load: Arc::clone(load), n_bytes: 0 }
    }

    /// Counts bytes more; `false`: the tenant has as many as it may have, and these are not counted.
    pub(crate) fn grow(&mut self, n_bytes: usize) -> bool {
        let before = self.load.held_bytes.fetch_add(n_bytes, Ordering::Relaxed);
        if before.saturating_add(n_bytes) > HELD_MAX_BYTES {
            self.load.held_bytes.fetch_sub(n_bytes, Ordering::Relaxed);
            return false;
        }
        self.n_bytes += n_bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.load.held_bytes.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_once_unless_a_permit_has_it() {
        let load = Arc::new(TenantLoad::default());
        let first = Slot::claim(&load, 1).unwrap();
        assert!(matches!(Slot::claim(&load, 1), Err(Refusal::TooManyStreams { limit: 1 })));
        drop(first);
        Slot::claim(&load, 1).unwrap().hand_over();
        assert!(Slot::claim(&load, 1).is_err());
        load.release();
        assert_eq!(load.streams.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_held_is_bounded_for_all_requests_together() {
        let load = Arc::new(TenantLoad::default());
        let (mut one, mut other) = (Held::none(&load), Held::none(&load));
        assert!(one.grow(HELD_MAX_BYTES) && !other.grow(1));
        drop(one);
        assert!(other.grow(1));
        drop(other);
        assert_eq!(load.held_bytes.load(Ordering::Relaxed), 0);
    }
}
