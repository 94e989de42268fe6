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
}

impl<'a> Wait<'a> {
    pub(crate) fn begin(track: &'a Track) -> Self {
        track.enter(RequestState::Queued);
        Self { track, since: Instant::now() }
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
        let waited = self.since.elapsed().max(Duration::from_micros(1));
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.track.queue.waited_us.fetch_add(us, Ordering::Relaxed);
    }
}
