//! What is known of one subject.

use std::sync::Arc;

use tokio::time::Instant;
use tunnel_transport::{DeviceName, SessionId};

use crate::registry::load::TenantLoad;

#[derive(Debug, Default)]
pub(super) struct Tenant {
    /// Few, so that looking through them is quicker than hashing.
    pub(super) devices: Vec<Device>,
    pub(super) load: Arc<TenantLoad>,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: DeviceName,
    pub(super) state: State,
    /// All that live, in the order of their dials; at most [`super::SESSIONS_MAX`].
    pub(super) sessions: Vec<SessionId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Served by a session.
    Online(SessionId),
    /// Known, without session.
    Offline { since: Instant },
}

impl Tenant {
    pub(super) fn names(&self, which: impl Fn(&Device) -> bool) -> Vec<String> {
        self.devices.iter().filter(|device| which(device)).map(|device| device.name.to_string()).collect()
    }

    /// Returns the device that went away last.
    pub(super) fn last_seen(&self) -> Option<&Device> {
        self.devices.iter().max_by_key(|device| device.away_since())
    }

    /// Returns where a device is, or where it would be: they stand by their names.
    pub(super) fn place_of(&self, name: &DeviceName) -> Result<usize, usize> {
        self.devices.binary_search_by(|device| device.name.cmp(name))
    }

    /// Makes room by forgetting the device that has been away longest, and returns the sessions that it still has; fails
    /// when all are online.
    pub(super) fn forget_longest_away(&mut self) -> Option<Vec<SessionId>> {
        let away = self.devices.iter().enumerate().filter_map(|(n, device)| Some((device.away_since()?, n)));
        let (_, n) = away.min()?;
        Some(self.devices.remove(n).sessions)
    }
}

impl Device {
    pub(super) fn is_online(&self) -> bool {
        matches!(self.state, State::Online(_))
    }

    pub(super) fn away_since(&self) -> Option<Instant> {
        match self.state {
            State::Online(_) => None,
            State::Offline { since } => Some(since),
        }
    }
}
