use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backend::Backend;
use crate::conn::Conn;
use crate::upstream::Upstream;

/// The right to use a backend for one request, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    upstream: Arc<Upstream>,
    /// Idle connections that the pool keeps.
    keep: usize,
    /// Whether the models may be others afterwards.
    probe_after: bool,
}

impl Permit {
    /// Returns none when as many requests run on the backend as may run.
    pub(crate) fn acquire(backend: &Backend, keep: usize) -> Option<Self> {
        let upstream = &backend.upstream;
        let limit = backend.config.max_concurrent.map_or(usize::MAX, |max| max.get() as usize);
        if upstream.in_flight.fetch_add(1, Ordering::Relaxed) >= limit {
            upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self { upstream: Arc::clone(upstream), keep, probe_after: false })
    }

    /// Asks for a probe once the request is over.
    pub(crate) fn probe_after(&mut self) {
        self.probe_after = true;
    }

    /// Counts the response as complete and keeps its connection.
    pub(crate) fn succeeded(self, conn: Conn) {
        self.upstream.outcomes.succeeded();
        self.upstream.pool.put(conn, self.keep);
    }

    /// Counts a complete response that says that the request failed; the connection is as good as before.
    pub(crate) fn answered_badly(self, conn: Conn) {
        self.upstream.outcomes.failed();
        self.upstream.pool.put(conn, self.keep);
    }

    /// Counts a failed request.
    pub(crate) fn failed(self) {
        self.upstream.outcomes.failed();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.probe_after {
            self.upstream.order_probe();
        }
    }
}
