//! The slots of one backend: how many requests may run on it, and how many wait to.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many requests may run on a backend at once, and how many wait for it. Those that run are counted in
/// [`Upstream::in_flight`](crate::upstream::Upstream).
///
/// Who gives back a slot first counts it as free and then looks whether somebody waits; who comes to wait first counts
/// as waiting and then looks for a free slot. In that order, seen by all alike, no slot stays free beside one that
/// waits.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: AtomicUsize,
    /// Requests that wait for a slot.
    waiting: AtomicUsize,
    /// Requests that wait until the backend has loaded its model.
    warming: AtomicUsize,
}

const NO_LIMIT: usize = usize::MAX;

impl Default for Slots {
    fn default() -> Self {
        Self { limit: NO_LIMIT.into(), waiting: 0.into(), warming: 0.into() }
    }
}

impl Slots {
    /// Takes a slot that is free and that nobody waits for.
    pub(crate) fn take(&self, in_flight: &AtomicUsize) -> bool {
        let limit = self.limit();
        if limit == NO_LIMIT {
            in_flight.fetch_add(1, Ordering::SeqCst);
            return true;
        }
        self.n_waiting() == 0 && self.claim(in_flight)
    }

    /// Takes a slot that is free, whoever waits: for those that hand them out.
    pub(crate) fn claim(&self, in_flight: &AtomicUsize) -> bool {
        let more = |n: usize| (n < self.limit()).then_some(n + 1);
        // Never a slot too many for a moment: another one that looks then would go away in vain.
        in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Tells whether a request that comes now has to wait.
    pub(crate) fn are_taken(&self, in_flight: usize) -> bool {
        let limit = self.limit();
        limit != NO_LIMIT && (in_flight >= limit || self.n_waiting() > 0)
    }

    /// Returns how many requests may run at once; `usize::MAX`: as many as come.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::SeqCst)
    }

    pub(crate) fn set_limit(&self, limit: Option<usize>) {
        self.limit.store(limit.unwrap_or(NO_LIMIT), Ordering::SeqCst);
    }

    pub(crate) fn n_waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(crate) fn set_waiting(&self, n: usize) {
        self.waiting.store(n, Ordering::SeqCst);
    }

    /// Counts those that wait, for whatever.
    pub(crate) fn n_queued(&self) -> usize {
        self.n_waiting() + self.n_awaiting_model()
    }

    /// Counts those that wait for the model.
    pub(crate) fn n_awaiting_model(&self) -> usize {
        self.warming.load(Ordering::Relaxed)
    }

    /// Takes one of `room` places of those that wait for the model; none when all are taken.
    pub(crate) fn await_model(&self, room: usize) -> Option<AwaitsModel<'_>> {
        let more = |n: usize| (n < room).then_some(n + 1);
        self.warming.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(AwaitsModel(self))
    }
}

/// A place among those that wait for a backend's model.
#[derive(Debug)]
pub(crate) struct AwaitsModel<'a>(&'a Slots);

impl Drop for AwaitsModel<'_> {
    fn drop(&mut self) {
        self.0.warming.fetch_sub(1, Ordering::Relaxed);
    }
}
