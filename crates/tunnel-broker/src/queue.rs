//! The lines of all backends: what ties [`Admission`] to slots and to the requests that wait.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::admission::{Admission, Entered, Key, LineId, NoRoom, Ticket};
use crate::permit::Permit;
use crate::route::Standing;
use crate::upstream::Upstream;

/// Hands out the slots of backends whose slots are all taken. Locked for a moment when a request comes to wait,
/// stops to, or gives back a slot that somebody waits for or that it has waited for; never for all others.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    admission: Admission,
    /// How those that wait are told.
    calls: HashMap<Ticket, Call>,
}

#[derive(Debug)]
struct Call {
    permit: oneshot::Sender<Permit>,
    upstreams: Vec<Arc<Upstream>>,
}

/// How things stand for one that found no room, or waited in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crowd {
    pub(crate) waiting: usize,
    pub(crate) slots: usize,
    /// How long one that comes now would wait, as far as it is known.
    pub(crate) wait: Option<Duration>,
}

impl Queue {
    /// Takes a place in the lines of those of `upstreams` that have fewer than `room` waiting.
    ///
    /// What is free there is handed out by [`Self::serve`]: for the caller to do once all stand there that come in this
    /// moment. `ticket`: that of an earlier wait of the same request, or of [`Self::ticket`].
    pub(crate) fn enter(
        self: &Arc<Self>,
        ticket: Option<Ticket>,
        key: &Key,
        upstreams: Vec<Arc<Upstream>>,
        room: usize,
    ) -> Result<Queued, NoRoom> {
        let (tx, rx) = oneshot::channel();
        let mut inner = self.inner();
        let Entered { ticket, displaced } = inner.admission.enter(ticket, key, &ids(&upstreams), room)?;
        let position = inner.admission.position(ticket).unwrap_or(1);
        inner.calls.insert(ticket, Call { permit: tx, upstreams: upstreams.clone() });
        let displaced = inner.dismiss(displaced);
        inner.count(&upstreams);
        drop(inner);
        drop(displaced);
        Ok(Queued { queue: Arc::clone(self), ticket, position, upstreams, permit: rx })
    }

    /// Returns a ticket that says when its request came.
    pub(crate) fn ticket(&self) -> Ticket {
        self.inner().admission.ticket()
    }

    /// Hands out what slots of these are free to those that wait for them.
    pub(crate) fn serve(self: &Arc<Self>, upstreams: &[Arc<Upstream>]) {
        for upstream in upstreams {
            while let Some((call, permit)) = self.next(upstream) {
                // One that has gone in this very moment gives the slot back with this, to the next.
                drop(call.permit.send(permit));
            }
        }
    }

    fn next(self: &Arc<Self>, upstream: &Arc<Upstream>) -> Option<(Call, Permit)> {
        let mut inner = self.inner();
        if inner.admission.n_waiting(upstream.line()) == 0 || !upstream.slots.claim(&upstream.in_flight) {
            return None;
        }
        let Some((ticket, key)) = inner.grant(upstream) else {
            // It has not been free for anybody: newcomers do not take one that others wait for.
            upstream.in_flight.fetch_sub(1, Ordering::SeqCst);
            return None;
        };
        let call = inner.calls.remove(&ticket).expect("each that waits can be told");
        inner.count(&call.upstreams);
        drop(inner);
        Some((call, Permit::granted(Arc::clone(upstream), key)))
    }

    /// Notes that a request gave back a slot that this had granted.
    pub(crate) fn finished(&self, line: LineId, key: &Key, held: Option<Duration>) {
        self.inner().admission.finish(line, key, held);
    }

    /// Forgets all about backends that are gone, once nobody waits for them or runs on them.
    pub(crate) fn forget(&self, upstreams: &[Arc<Upstream>]) {
        self.inner().admission.forget(|line| upstreams.iter().any(|upstream| upstream.line() == line));
    }

    /// Counts those that would be served before one of `key` that came now; of the lines the foremost place counts.
    pub(crate) fn ahead(&self, key: &Key, upstreams: &[Arc<Upstream>]) -> usize {
        self.inner().admission.ahead(key, &ids(upstreams))
    }

    /// Returns the positions of all that wait.
    pub(crate) fn positions(&self) -> HashMap<Ticket, usize> {
        self.inner().admission.positions()
    }

    /// Says how crowded these are: of their lines, the shortest wait.
    pub(crate) fn crowd(&self, upstreams: &[Arc<Upstream>]) -> Crowd {
        let inner = self.inner();
        let waits = upstreams.iter().map(|upstream| {
            let slots = upstream.slots.limit();
            inner.admission.estimate(upstream.line(), slots)
        });
        Crowd {
            waiting: upstreams.iter().map(|upstream| upstream.slots.n_queued()).sum(),
            slots: upstreams.iter().fold(0, |sum, upstream| upstream.slots.limit().saturating_add(sum)),
            wait: waits.flatten().min(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic in between would be a bug of the admission; what it leaves behind is still consistent enough for
        // requests to end: they have deadlines of their own.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Says who gets a free slot.
    ///
    /// Nobody, while the backend takes no requests, and while it is ejected only who has nobody else to wait for: all
    /// others would look, turn it down, and be out of all their lines for it. Those that wait look anew when that changes.
    fn grant(&mut self, upstream: &Arc<Upstream>) -> Option<(Ticket, Key)> {
        let Self { admission, calls } = self;
        let now = Instant::now();
        let standing = |upstream: &Arc<Upstream>| upstream.standing(&upstream.report(), now);
        let is_good =
            |upstream: &Arc<Upstream>| matches!(standing(upstream), Standing::Healthy | Standing::Doubtful);
        match standing(upstream) {
            Standing::Healthy | Standing::Doubtful => admission.grant(upstream.line(), |_| true),
            Standing::Ejected => admission.grant(upstream.line(), |ticket| {
                calls.get(&ticket).is_some_and(|call| !call.upstreams.iter().any(is_good))
            }),
            Standing::Warming | Standing::Unknown | Standing::Unauthorised | Standing::Down => None,
        }
    }

    /// Returns what the owner of a ticket waits for; dropping it tells the owner that it has lost its place.
    fn dismiss(&mut self, ticket: Option<Ticket>) -> Option<Call> {
        let call = self.calls.remove(&ticket?)?;
        self.count(&call.upstreams);
        Some(call)
    }

    /// Shows how many wait, to those that do not take the lock.
    fn count(&self, upstreams: &[Arc<Upstream>]) {
        for upstream in upstreams {
            upstream.slots.set_waiting(self.admission.n_waiting(upstream.line()));
        }
    }
}

/// A place in lines, given up when dropped. A slot that was granted and not fetched goes to the next one then.
#[derive(Debug)]
pub(crate) struct Queued {
    queue: Arc<Queue>,
    pub(crate) ticket: Ticket,
    /// The position at the arrival, 1 for the next one.
    pub(crate) position: usize,
    /// What it wants; it waits for those of them whose lines had room.
    upstreams: Vec<Arc<Upstream>>,
    permit: oneshot::Receiver<Permit>,
}

impl Queued {
    /// Waits for a slot; none when another key's request took the place.
    ///
    /// Can be awaited again as long as it is not ready.
    pub(crate) async fn slot(&mut self) -> Option<Permit> {
        (&mut self.permit).await.ok()
    }

    /// The backends that it wants.
    pub(crate) fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// Tells whether it wants one of these already.
    pub(crate) fn wants_one_of(&self, upstreams: &[Arc<Upstream>]) -> bool {
        self.upstreams.iter().any(|own| upstreams.iter().any(|other| Arc::ptr_eq(own, other)))
    }

    /// Waits for these from now on. It keeps its age, and its place where it stays.
    pub(crate) fn change(&mut self, upstreams: Vec<Arc<Upstream>>, room: usize) -> Result<(), NoRoom> {
        let same = self.upstreams.len() == upstreams.len()
            && self.upstreams.iter().zip(&upstreams).all(|(a, b)| Arc::ptr_eq(a, b));
        if same {
            // One that was ejected may have come back by time alone.
            self.queue.serve(&self.upstreams);
            return Ok(());
        }
        let mut inner = self.queue.inner();
        let displaced = inner.admission.change(self.ticket, &ids(&upstreams), room)?;
        if let Some(call) = inner.calls.get_mut(&self.ticket) {
            call.upstreams.clone_from(&upstreams);
        }
        let displaced = inner.dismiss(displaced);
        let before = std::mem::replace(&mut self.upstreams, upstreams);
        inner.count(&before);
        inner.count(&self.upstreams);
        drop(inner);
        drop(displaced);
        self.queue.serve(&self.upstreams);
        Ok(())
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut inner = self.queue.inner();
        inner.admission.leave(self.ticket);
        let call = inner.calls.remove(&self.ticket);
        inner.count(&self.upstreams);
        drop(inner);
        drop(call);
    }
}

fn ids(upstreams: &[Arc<Upstream>]) -> Vec<LineId> {
    upstreams.iter().map(|upstream| upstream.line()).collect()
}

/// How long a slot has been held.
#[derive(Debug)]
pub(crate) struct Granted {
    key: Key,
    since: Instant,
    /// Whether the one that got it has taken it up.
    pub(crate) used: bool,
}

impl Granted {
    pub(crate) fn new(key: Key) -> Self {
        Self { key, since: Instant::now(), used: false }
    }

    pub(crate) fn give_back(self, upstream: &Upstream) {
        let held = self.used.then(|| self.since.elapsed());
        upstream.queue.finished(upstream.line(), &self.key, held);
    }
}

#[cfg(test)]
mod tests;
