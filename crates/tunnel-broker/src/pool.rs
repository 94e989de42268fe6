use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::conn::Conn;

/// The idle connections of one backend, the most recently used first.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Conn>>,
    /// Rings when there are more than are to be kept.
    surplus: Notify,
    surplus_told: AtomicBool,
}

/// How long an unused connection is kept.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long connections beyond the pool's size stay: a burst of answers is followed by as many requests.
pub(crate) const SURPLUS_LIMIT: Duration = Duration::from_secs(1);
/// More idle connections than this are never kept, not for a moment either.
const HARD_CAP: usize = 4096;

impl Pool {
    /// Takes a connection that the peer, as far as is known here, has not closed.
    pub(crate) fn take(&self) -> Option<Conn> {
        // No server closes so soon without having said so; and if one does, the request is sent again.
        const SURELY_OPEN: Duration = Duration::from_millis(5);
        loop {
            let conn = self.lock().pop()?;
            if conn.idle_since.elapsed() < SURELY_OPEN || conn.is_usable() {
                return Some(conn);
            }
        }
    }

    /// Keeps a connection for the next request. One that has not finished its exchange is closed.
    pub(crate) fn put(&self, mut conn: Conn, keep: usize) {
        if keep == 0 || !conn.is_at_rest() {
            return;
        }
        conn.idle_since = Instant::now();
        let mut idle = self.lock();
        if idle.len() >= HARD_CAP {
            return;
        }
        idle.push(conn);
        if idle.len() > keep && !self.surplus_told.swap(true, Ordering::Relaxed) {
            self.surplus.notify_one();
        }
    }

    /// Closes what is surplus, expired, or closed by the peer.
    pub(crate) fn sweep(&self, keep: usize, now: Instant) {
        self.surplus_told.store(false, Ordering::Relaxed);
        // Closing sockets takes system calls: not under the lock.
        let mut closing = Vec::new();
        let mut idle = self.lock();
        for conn in std::mem::take(&mut *idle) {
            let age = now.saturating_duration_since(conn.idle_since);
            if age < IDLE_LIMIT && conn.is_usable() { idle.push(conn) } else { closing.push(conn) }
        }
        let surplus = idle.len().saturating_sub(keep);
        // The oldest are at the front.
        let old = idle
            .iter()
            .take(surplus)
            .filter(|conn| now.saturating_duration_since(conn.idle_since) >= SURPLUS_LIMIT);
        let old = old.count();
        closing.extend(idle.drain(..old));
        let again = idle.len() > keep;
        drop(idle);
        drop(closing);
        if again && !self.surplus_told.swap(true, Ordering::Relaxed) {
            self.surplus.notify_one();
        }
    }

    /// Waits until there are more connections than are to be kept.
    pub(crate) async fn surplus(&self) {
        self.surplus.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Conn>> {
        // A list of connections is sound whatever panicked while it was held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
