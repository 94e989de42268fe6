use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::admission::Ticket;
use crate::track::{RequestState, Track};

/// A request's wait for a backend, from where it begins to where this is dropped.
pub(crate) struct Wait<'a> {
    track: &'a Track,
    since: Instant,
    /// Since when it is a wait for a slot; none while it is one for something else.
    slot_since: Option<Instant>,
}

impl<'a> Wait<'a> {
    pub(crate) fn begin(track: &'a Track) -> Self {
        track.enter(RequestState::Queued);
        Self { track, since: Instant::now(), slot_since: None }
    }

    /// Counts what follows as a wait for a slot. Returns how long the request has waited for slots before.
    pub(crate) fn begin_slot(&mut self) -> Duration {
        self.end_slot();
        self.slot_since = Some(Instant::now());
        Duration::from_micros(self.track.queue.slot_us.load(Ordering::Relaxed))
    }

    /// Counts what follows as a wait for something else.
    pub(crate) fn end_slot(&mut self) {
        if let Some(since) = self.slot_since.take() {
            self.track.queue.slot_us.fetch_add(micros(since.elapsed()), Ordering::Relaxed);
        }
    }

    /// Notes the position that it begins with, 1 for the next one. Only the first one of a request counts.
    pub(crate) fn note_position(&self, position: usize) {
        let first = &self.track.queue.position;
        if first.load(Ordering::Relaxed) == 0 {
            first.store(position as u64, Ordering::Relaxed);
        }
    }

    /// Shows what it waits for: the backends' ids, and its ticket if it is for a slot.
    pub(crate) fn show(&self, ticket: Option<Ticket>, waiting_for: Vec<Arc<str>>) {
        self.track.queue.ticket.store(ticket.unwrap_or_default(), Ordering::Relaxed);
        self.track.placed().waiting_for = waiting_for;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.show(None, Vec::new());
        self.track.enter(RequestState::Waiting);
        // Never 0: it says that there was a wait.
        let waited = micros(self.since.elapsed()).max(1);
        self.track.queue.waited_us.fetch_add(waited, Ordering::Relaxed);
        self.end_slot();
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
