//! The registry's books: pure, with the time as an argument.

mod replaced;
mod tenant;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tunnel_transport::{DeviceName, SessionId};

use self::replaced::Replaced;
use self::tenant::{Device, State, Tenant};
use super::load::TenantLoad;

/// A device that has been away for so long is no longer known.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Most sessions of one device: one that serves, one that finishes its streams, one that is being opened. A desktop that
/// behaves needs no more; what one that does not can make us keep is this, for each device that it may have.
const SESSIONS_MAX: usize = 3;
/// Time between two sweeps for what need not be known any more.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);

/// Subjects, their devices, and the sessions `S` that serve them.
#[derive(Debug)]
pub(super) struct Directory<S> {
    tenants: HashMap<Arc<str>, Tenant>,
    /// All sessions that live, also those that only finish their streams.
    sessions: HashMap<SessionId, Entry<S>>,
    replaced: Replaced,
    /// Numbers the dials.
    dials: u64,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Entry<S> {
    subject: Arc<str>,
    device: DeviceName,
    /// Later dials have higher numbers.
    dial: u64,
    /// Whether its link has been attached.
    up: bool,
    session: S,
}

/// A session that is to be known.
#[derive(Debug)]
pub(super) struct Joining<'a> {
    pub(super) subject: &'a Arc<str>,
    pub(super) device: DeviceName,
    pub(super) id: SessionId,
}

/// A session that is known now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Announced<S> {
    pub(super) session: S,
    /// Those that had to make room for it, and are known no more.
    pub(super) displaced: Vec<S>,
}

/// The subject has as many devices as it may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Where a request of a subject would go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup<'a, S> {
    Online(&'a S),
    Offline(&'a DeviceName),
    /// Several devices are online and none was named: their sessions, by the devices' names.
    Several(Vec<&'a S>),
    /// With the names that the subject does have.
    Unknown(Vec<String>),
}

/// What came of giving a device to a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Promoted<S> {
    /// It serves, and no session had to go.
    Serves,
    /// It serves in place of this one.
    Displaced(S),
    /// This one, the session itself, does not serve: a newer one does.
    Late(S),
    /// It is over already.
    Gone,
}

/// What becomes of a session whose device another session now serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is over, and its desktop is told so when it tries to resume.
    Replaced,
    /// It finishes its streams and can be resumed meanwhile.
    Retiring,
}

/// What a desktop that wants to resume a session is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resume<S> {
    Known(S),
    Replaced,
    Gone,
}

impl<S> Default for Directory<S> {
    fn default() -> Self {
        Self {
            tenants: HashMap::new(),
            sessions: HashMap::new(),
            replaced: Replaced::default(),
            dials: 0,
            swept: None,
        }
    }
}

impl<S: Clone> Directory<S> {
    /// Finds the session for a request: of the named device, or of the subject's only one.
    ///
    /// "Only" counts the devices that are online: a machine that was renamed or retired must not make every request
    /// ambiguous for a day.
    pub(super) fn find(&self, subject: &str, wanted: Option<&str>) -> Lookup<'_, S> {
        let Some(tenant) = self.tenants.get(subject) else { return Lookup::Unknown(Vec::new()) };
        if let Some(name) = wanted {
            return match tenant.devices.iter().find(|device| device.name.as_str() == name) {
                Some(device) => self.serving(device),
                None => Lookup::Unknown(tenant.names(|_| true)),
            };
        }
        let mut online = tenant.devices.iter().filter(|device| device.is_online());
        match (online.next(), online.next()) {
            (Some(device), None) => self.serving(device),
            (Some(_), Some(_)) => {
                Lookup::Several(tenant.devices.iter().filter_map(|device| self.session_of(device)).collect())
            }
            (None, _) => match tenant.last_seen() {
                Some(device) => Lookup::Offline(&device.name),
                None => Lookup::Unknown(Vec::new()),
            },
        }
    }

    /// Returns when the named device went away, or the one that did last.
    pub(super) fn away_since(&self, subject: &str, wanted: Option<&str>) -> Option<Instant> {
        let devices = self.tenants.get(subject)?.devices.iter();
        devices
            .filter(|device| wanted.is_none_or(|name| device.name.as_str() == name))
            .filter_map(Device::away_since)
            .max()
    }

    fn serving<'a>(&'a self, device: &'a Device) -> Lookup<'a, S> {
        self.session_of(device).map_or(Lookup::Offline(&device.name), Lookup::Online)
    }

    fn session_of(&self, device: &Device) -> Option<&S> {
        match device.state {
            State::Online(id) => self.sessions.get(&id).map(|entry| &entry.session),
            State::Offline { .. } => None,
        }
    }

    /// Returns the devices that are known of a subject, by name, and the sessions of those that are online.
    pub(super) fn devices(&self, subject: &str) -> impl Iterator<Item = (&DeviceName, Option<&S>)> {
        let devices = self.tenants.get(subject).into_iter().flat_map(|tenant| &tenant.devices);
        devices.map(|device| (&device.name, self.session_of(device)))
    }

    /// Makes a session known. It serves its device at once when no other does.
    ///
    /// `session` is given the count of what the subject uses, which lives as long as one of its devices is known.
    ///
    /// Whoever dials and hangs up leaves a session for its grace time, and a newer one displaces only what serves. So a
    /// device that has [`SESSIONS_MAX`] gives up one that does not serve it: one whose link never came up if there is one,
    /// or the oldest.
    pub(super) fn announce(
        &mut self,
        joining: Joining<'_>,
        max_devices: usize,
        session: impl FnOnce(Arc<TenantLoad>) -> S,
    ) -> Result<Announced<S>, Full> {
        let Joining { subject, device, id } = joining;
        let tenant = self.tenants.entry(Arc::clone(subject)).or_default();
        let mut making_room = Vec::new();
        if tenant.place_of(&device).is_err() && tenant.devices.len() >= max_devices {
            making_room = tenant.forget_longest_away().ok_or(Full)?;
        }
        let at = tenant.place_of(&device).unwrap_or_else(|at| {
            let state = State::Online(id);
            tenant.devices.insert(at, Device { name: device.clone(), state, sessions: Vec::new() });
            at
        });
        let known = &mut tenant.devices[at];
        if !known.is_online() {
            known.state = State::Online(id);
        }
        if known.sessions.len() >= SESSIONS_MAX {
            let is_up = |id: &SessionId| self.sessions.get(id).is_some_and(|entry| entry.up);
            let spare = known.sessions.iter().filter(|id| known.state != State::Online(**id));
            // The first of equals is the oldest.
            let spare = spare.copied().min_by_key(is_up);
            known.sessions.retain(|id| Some(*id) != spare);
            making_room.extend(spare);
        }
        known.sessions.push(id);
        let session = session(Arc::clone(&tenant.load));
        self.dials += 1;
        let entry = Entry {
            subject: Arc::clone(subject),
            device,
            dial: self.dials,
            up: false,
            session: session.clone(),
        };
        let forgotten = making_room.into_iter().filter_map(|id| self.sessions.remove(&id));
        let displaced = forgotten.map(|entry| entry.session).collect();
        self.sessions.insert(id, entry);
        Ok(Announced { session, displaced })
    }

    /// Gives a session's device to that session, whose link is up.
    ///
    /// `fate` is that of the session that does not serve then: the one that had the device or, when that one was
    /// dialled later and is up as well, this one. A late session that would be `Retiring` stays known until it ends.
    pub(super) fn promote(&mut self, id: SessionId, fate: Fate, now: Instant) -> Promoted<S> {
        let Some(entry) = self.sessions.get_mut(&id) else { return Promoted::Gone };
        entry.up = true;
        let (dial, session) = (entry.dial, entry.session.clone());
        let Some(device) = device_mut(&mut self.tenants, &entry.subject, &entry.device) else {
            return Promoted::Gone;
        };
        let old = match device.state {
            State::Online(old) if old != id => old,
            State::Online(_) | State::Offline { .. } => {
                device.state = State::Online(id);
                return Promoted::Serves;
            }
        };
        match self.sessions.get(&old) {
            Some(newer) if newer.dial > dial && newer.up => {
                if fate == Fate::Replaced {
                    self.replace(id, now);
                }
                return Promoted::Late(session);
            }
            // Its answer may never have arrived. Should it come up, it takes the device then.
            Some(newer) if newer.dial > dial => {
                device.state = State::Online(id);
                return Promoted::Serves;
            }
            _ => device.state = State::Online(id),
        }
        let displaced = match fate {
            Fate::Retiring => self.sessions.get(&old).map(|entry| entry.session.clone()),
            Fate::Replaced => self.replace(old, now),
        };
        displaced.map_or(Promoted::Serves, Promoted::Displaced)
    }

    /// Forgets a session, but for the answer to its desktop should it try to resume.
    fn replace(&mut self, id: SessionId, now: Instant) -> Option<S> {
        let entry = self.sessions.remove(&id)?;
        if let Some(device) = device_mut(&mut self.tenants, &entry.subject, &entry.device) {
            device.sessions.retain(|known| *known != id);
        }
        self.replaced.remember(id, entry.subject, now);
        Some(entry.session)
    }

    /// Finds the session that a desktop wants to resume, if it is that subject's and that device's.
    pub(super) fn resume(&self, id: SessionId, subject: &str, device: &DeviceName) -> Resume<S> {
        match self.sessions.get(&id) {
            Some(entry) if *entry.subject == *subject && entry.device == *device => {
                Resume::Known(entry.session.clone())
            }
            Some(_) => Resume::Gone,
            None if self.replaced.has(id, subject) => Resume::Replaced,
            None => Resume::Gone,
        }
    }

    /// Forgets a session that has ended; its device is offline if no other session serves it.
    pub(super) fn remove(&mut self, id: SessionId, now: Instant) {
        let Some(entry) = self.sessions.remove(&id) else { return };
        let Some(device) = device_mut(&mut self.tenants, &entry.subject, &entry.device) else { return };
        device.sessions.retain(|known| *known != id);
        if device.state == State::Online(id) {
            device.state = State::Offline { since: now };
        }
    }

    /// Drops what has been known for long enough, at most every ten minutes.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.duration_since(swept) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.replaced.sweep(now);
        self.tenants.retain(|_, tenant| {
            tenant.devices.retain(|device| match device.state {
                State::Online(_) => true,
                State::Offline { since } => {
                    now.duration_since(since) < KNOWN_FOR || !device.sessions.is_empty()
                }
            });
            !tenant.devices.is_empty()
        });
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = &S> {
        self.sessions.values().map(|entry| &entry.session)
    }

    /// Returns all subjects that have a device, online or known.
    pub(super) fn subjects(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tenants.keys()
    }

    /// Returns how many devices a subject has, how many of them are online, and its requests under way.
    pub(super) fn tenant(&self, subject: &str) -> Option<(usize, usize, usize)> {
        let tenant = self.tenants.get(subject)?;
        let online = tenant.devices.iter().filter(|device| device.is_online()).count();
        Some((tenant.devices.len(), online, tenant.load.streams()))
    }

    pub(super) fn n_online(&self) -> usize {
        self.tenants
            .values()
            .map(|tenant| tenant.devices.iter().filter(|device| device.is_online()).count())
            .sum()
    }
}

fn device_mut<'a>(
    tenants: &'a mut HashMap<Arc<str>, Tenant>,
    subject: &str,
    name: &DeviceName,
) -> Option<&'a mut Device> {
    tenants.get_mut(subject)?.devices.iter_mut().find(|device| device.name == *name)
}

#[cfg(test)]
mod tests;
