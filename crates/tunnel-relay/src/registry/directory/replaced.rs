//! Sessions that were taken over, for the day that their desktops may try to resume them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tunnel_transport::SessionId;

/// A session that was taken over is remembered for so long, so that its desktop is told when it tries to resume.
const REPLACED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Most sessions that are remembered as taken over: 65,536 of about 100 bytes.
const REPLACED_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Replaced {
    subjects: HashMap<SessionId, Arc<str>>,
    order: VecDeque<(Instant, SessionId)>,
}

impl Replaced {
    pub(super) fn remember(&mut self, id: SessionId, subject: Arc<str>, now: Instant) {
        if self.order.len() >= REPLACED_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.subjects.remove(&oldest);
        }
        self.order.push_back((now, id));
        self.subjects.insert(id, subject);
    }

    /// Tells whether a session of that subject was taken over.
    pub(super) fn has(&self, id: SessionId, subject: &str) -> bool {
        self.subjects.get(&id).is_some_and(|known| **known == *subject)
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        while let Some((at, id)) = self.order.front().copied() {
            if now.duration_since(at) < REPLACED_FOR {
                return;
            }
            self.order.pop_front();
            self.subjects.remove(&id);
        }
    }
}
