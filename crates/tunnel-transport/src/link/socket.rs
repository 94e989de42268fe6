//! When a socket counts as dead.

use std::time::{Duration, Instant};

/// Time between two pings of one end.
pub(super) const PING_EVERY: Duration = Duration::from_secs(10);
/// With nothing heard for so long, the socket is dead.
const SILENCE: Duration = Duration::from_secs(25);
/// The same while bytes of ours wait for an acknowledgement: a live peer answers within 100 ms and a round trip.
const SILENCE_WHEN_OWED: Duration = Duration::from_secs(12);
/// The same while a probe waits for its pong. Who probes has a reason to doubt the path, and being wrong costs a
/// resume; a second of round trip and a lost packet still fit.
const SILENCE_WHEN_PROBED: Duration = Duration::from_secs(3);

/// What is known of a socket by what was heard over it, and when.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) heard: Instant,
    pub(super) ping_at: Instant,
    pub(super) ping: Option<(u64, Instant)>,
    pub(super) pings: u64,
    /// Since when bytes of ours have waited for an acknowledgement.
    pub(super) owed_since: Option<Instant>,
    /// Since when a probe has waited for its pong.
    pub(super) probed_since: Option<Instant>,
}

impl Socket {
    /// A new one, over which a ping is due.
    pub(super) fn new(now: Instant) -> Self {
        Self { heard: now, ping_at: now, ping: None, pings: 0, owed_since: None, probed_since: None }
    }

    /// Returns when it counts as dead if nothing more is heard.
    pub(super) fn dead_at(&self) -> Instant {
        let owed = self.owed_since.map(|since| since.max(self.heard) + SILENCE_WHEN_OWED);
        let probed = self.probed_since.map(|since| since.max(self.heard) + SILENCE_WHEN_PROBED);
        [owed, probed].into_iter().flatten().fold(self.heard + SILENCE, Instant::min)
    }
}
