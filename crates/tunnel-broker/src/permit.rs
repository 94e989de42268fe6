use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::admission::Key;
use crate::backend::Backend;
use crate::conn::Conn;
use crate::queue::Granted;
use crate::upstream::Upstream;

/// The right to use a backend for one request, given back when dropped: to the one that waits for it, if any.
#[derive(Debug)]
pub(crate) struct Permit {
    upstream: Arc<Upstream>,
    /// Idle connections that the pool keeps.
    keep: usize,
    /// Whether the models may be others afterwards, or the breaker has moved: those that wait look anew after a probe.
    probe_after: bool,
    /// Whether it holds a slot, and counts as load.
    counts: bool,
    /// Whose turn it was, for one that was waited for. Boxed: most are not, and permits are moved a lot.
    granted: Option<Box<Granted>>,
}

impl Permit {
    /// Returns none when as many requests run on the backend as may run, or when others wait to.
    pub(crate) fn acquire(backend: &Backend, keep: usize) -> Option<Self> {
        let upstream = &backend.upstream;
        upstream.slots.take(&upstream.in_flight).then(|| Self {
            upstream: Arc::clone(upstream),
            keep,
            probe_after: false,
            counts: true,
            granted: None,
        })
    }

    /// Makes the permit for a request that asks no model: it holds no slot, and is not counted.
    pub(crate) fn beside(backend: &Backend, keep: usize) -> Self {
        let upstream = Arc::clone(&backend.upstream);
        Self { upstream, keep, probe_after: false, counts: false, granted: None }
    }

    /// Makes the permit for a slot that has been claimed for a key that waited.
    pub(crate) fn granted(upstream: Arc<Upstream>, key: Key) -> Self {
        Self {
            upstream,
            keep: 0,
            probe_after: false,
            counts: true,
            granted: Some(Box::new(Granted::new(key))),
        }
    }

    /// The backend whose slot it is.
    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Takes up a slot that was granted: says how many idle connections the pool keeps.
    pub(crate) fn keeping(self, keep: usize) -> Self {
        // A new one cannot be made out of the old one's parts: it gives its slot back when it is dropped.
        let mut permit = self;
        permit.keep = keep;
        if let Some(granted) = &mut permit.granted {
            granted.used = true;
        }
        permit
    }

    /// Gives the slot back as one that nothing was done with: how long it was held tells nothing.
    pub(crate) fn unused(mut self) {
        if let Some(granted) = &mut self.granted {
            granted.used = false;
        }
    }

    /// Asks for a probe once the request is over.
    pub(crate) fn probe_after(&mut self) {
        self.probe_after = true;
    }

    /// Counts the response as complete and keeps its connection.
    ///
    /// What asks no model says nothing of how requests to models go, well or badly: lists work where no chat does, and a
    /// failed download is no failed answer.
    pub(crate) fn succeeded(mut self, conn: Conn) {
        self.probe_after |= self.counts && self.upstream.outcomes.succeeded();
        self.upstream.pool.put(conn, self.keep);
    }

    /// Counts a complete response that says that the request failed; the connection is as good as before.
    pub(crate) fn answered_badly(mut self, conn: Conn) {
        self.probe_after |= self.counts && self.upstream.outcomes.failed();
        self.upstream.pool.put(conn, self.keep);
    }

    /// Counts a request that brought no answer, or a part of one; also one that asks no model: the server broke off.
    pub(crate) fn failed(mut self) {
        self.probe_after |= self.upstream.outcomes.failed();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let upstream = &self.upstream;
        if let Some(granted) = self.granted.take() {
            granted.give_back(upstream);
        }
        if self.counts {
            upstream.in_flight.fetch_sub(1, Ordering::SeqCst);
            if upstream.slots.n_waiting() > 0 {
                upstream.queue.serve(std::slice::from_ref(upstream));
            }
        }
        if self.probe_after {
            upstream.order_probe();
        }
    }
}
