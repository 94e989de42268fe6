//! Which device is reached through which session, on this node.
//!
//! [`Registry`] is the only place that knows it, and its methods are the seam at which several nodes would come in. They
//! are a struct's and not a trait's, since there is one implementation, and what it hands out, a [`Tunnel`] with its
//! session, is of this process: between nodes a request goes to the node that has the session, and is found there by these
//! same methods. What each must promise then, of all nodes together:
//!
//! - [`Registry::find`], [`Registry::admit`], [`Registry::admit_all`]: one session serves a device, and the request is
//!   admitted to it in one step. They run for each request, so they may neither wait nor allocate for one device: another
//!   node's devices are looked up in a copy, and a stale copy may cost a second hop and never reach another subject's.
//! - [`Registry::devices`], [`Registry::expects`], [`Registry::tenant`]: the same, and may be some seconds old.
//! - [`Registry::announce`]: the bounds of devices and of each one's sessions hold for the subject, so its node is always the
//!   same one or they are counted in one place. Refusing comes before anything is displaced.
//! - [`Registry::take_over`], [`Registry::move_to`]: the later of two dials wins, whichever node took it; dials are numbered
//!   in one order for a device. The loser is told by the node that has it.
//! - [`Registry::resume`]: only the node that has the session can, others name it; who was taken over is told so
//!   everywhere, and nobody hears of another subject's.
//! - [`Registry::remove`]: leaves a successor alone, also one on another node.
//! - [`Registry::tunnels`], [`Registry::counts`]: of this node only: its drain, metrics and admin address.

mod directory;
mod load;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel_transport::{CloseCode, Closed, DeviceName, RelaySession, SessionId};

use crate::auth::Principal;
use crate::error::Refusal;
use crate::presence::Presence;

pub(crate) use directory::Resume;
use directory::{Directory, Fate, Joining, Lookup, Promoted};
use load::TenantLoad;
pub(crate) use load::{Held, Slot};

/// A session of a desktop and what the relay counts on it.
pub(crate) struct Tunnel {
    pub(crate) session: RelaySession,
    pub(crate) subject: Arc<str>,
    pub(crate) device: DeviceName,
    /// What the desktop's program calls itself.
    pub(crate) agent: Arc<str>,
    /// The limits that the token names.
    pub(crate) tier: Option<String>,
    pub(crate) opened_at: Timestamp,
    /// The device's name as answers carry it.
    pub(crate) device_header: HeaderValue,
    /// What all devices of the subject use together.
    load: Arc<TenantLoad>,
    /// What the desktop says that it has. None: it says nothing, or has not yet.
    presence: ArcSwapOption<Presence>,
    /// Requests under way on this session.
    streams: AtomicUsize,
    /// Another session has taken over the new requests: close when the last stream has ended.
    retiring: AtomicBool,
    /// The desktop tried to move away from this relay and came back to it: there is nowhere else.
    stays: CancellationToken,
    /// Of the tokens that the session was opened, resumed or refreshed with, the newest: the one that the desktop has now.
    bearer: watch::Sender<Arc<Principal>>,
    /// When the link was last attached, in milliseconds after `epoch`.
    attached_ms: AtomicU64,
    epoch: Instant,
}

/// One request under way. Counted as long as this lives, which is as long as its response body.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    tunnel: Arc<Tunnel>,
    /// Whether it counts against the tenant's limit. Of the streams of one listing that goes to all devices, one does.
    counts: bool,
}

/// Where a request may go.
#[derive(Debug)]
pub(crate) enum Found {
    /// To one device only.
    One(StreamPermit),
    /// Nothing but the request itself tells to which of these.
    Several { online: Vec<Arc<Tunnel>>, slot: Slot },
}

/// A device as its owner sees it.
#[derive(Debug)]
pub(crate) struct KnownDevice {
    pub(crate) name: DeviceName,
    /// The session that serves it; `None`: it is offline.
    pub(crate) tunnel: Option<Arc<Tunnel>>,
}

/// The sessions of this node.
///
/// The lock is held for a few map operations, never across an await.
#[derive(Debug)]
pub(crate) struct Registry {
    directory: Mutex<Directory<Arc<Tunnel>>>,
    /// When the first session of this process was announced.
    first: OnceLock<Instant>,
}

/// What a new session is to be registered as.
pub(crate) struct NewTunnel<'a> {
    pub(crate) principal: &'a Arc<Principal>,
    pub(crate) device: DeviceName,
    pub(crate) agent: Arc<str>,
    pub(crate) session: RelaySession,
}

/// What a subject has now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TenantCounts {
    pub(crate) devices: usize,
    pub(crate) online: usize,
    pub(crate) streams: usize,
}

/// How many there are now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sessions: usize,
    pub(crate) streams: usize,
    pub(crate) devices_online: usize,
}

/// A caller that finds its device away may try again after this time: most links are back by then.
const OFFLINE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Desktops whose relay goes away dial again within this time, in milliseconds, or within as much as this for each of
/// them, whichever is longer: so that the next relay sees about 150 dials a second.
const REDIAL_WITHIN_MS: u64 = 2_000;
const REDIAL_EACH_MS: u64 = 7;
/// Desktops take no order to stay away for longer.
const REDIAL_WITHIN_MAX_MS: u64 = 60_000;

impl Registry {
    pub(crate) fn new() -> Self {
        Self { directory: Mutex::default(), first: OnceLock::new() }
    }

    /// Finds the session for a request and admits the request to it.
    ///
    /// Both under one lock: a session that is replaced in between would otherwise close under the new request.
    pub(crate) fn find(
        &self,
        principal: &Principal,
        asked: Option<&str>,
        max_streams: usize,
    ) -> Result<Found, Refusal> {
        let wanted = match (asked, principal.device.as_ref().map(DeviceName::as_str)) {
            (Some(asked), Some(bound)) if asked != bound => {
                return Err(Refusal::OtherDevice { asked: shown(asked), bound: bound.to_owned() });
            }
            (Some(name), _) | (None, Some(name)) => Some(name),
            (None, None) => None,
        };
        let directory = self.lock();
        match directory.find(&principal.subject, wanted) {
            Lookup::Online(tunnel) => {
                tunnel.load.claim(max_streams)?;
                Ok(Found::One(tunnel.permit(true)))
            }
            Lookup::Offline(device) => Err(offline(device.to_string())),
            Lookup::Several(online) => {
                // Cannot fail: there are several.
                let Some(first) = online.first() else { return Err(offline(String::new())) };
                let slot = Slot::claim(&first.load, max_streams)?;
                Ok(Found::Several { slot, online: online.into_iter().cloned().collect() })
            }
            // The issuer wrote this name into the token, so the device is known even if it has not called yet.
            Lookup::Unknown(_) if principal.device.is_some() => {
                Err(offline(wanted.map(shown).unwrap_or_default()))
            }
            Lookup::Unknown(known) => Err(Refusal::UnknownDevice { asked: wanted.map(shown), known }),
        }
    }

    /// Tells whether the device of a request may be there soon: it went away less than `within` ago, or this relay has
    /// its first desktops for so short a time that others may still be on their way.
    pub(crate) fn expects(&self, principal: &Principal, asked: Option<&str>, within: Duration) -> bool {
        if self.first.get().is_none_or(|first| first.elapsed() < within) {
            return true;
        }
        let wanted = asked.or(principal.device.as_ref().map(DeviceName::as_str));
        let now = Instant::now();
        self.lock()
            .away_since(&principal.subject, wanted)
            .is_some_and(|since| now.duration_since(since) < within)
    }

    /// Admits a request to the device that was chosen for it: to the session that serves it by now.
    pub(crate) fn admit(&self, chosen: &Tunnel, slot: Slot) -> Result<StreamPermit, Refusal> {
        match self.lock().find(&chosen.subject, Some(chosen.device.as_str())) {
            Lookup::Online(tunnel) => {
                slot.hand_over();
                Ok(tunnel.permit(true))
            }
            Lookup::Offline(_) | Lookup::Unknown(_) | Lookup::Several(_) => {
                Err(offline(chosen.device.to_string()))
            }
        }
    }

    /// Admits one request to each of several devices; those that have gone meanwhile are left out.
    pub(crate) fn admit_all(&self, chosen: &[Arc<Tunnel>], slot: Slot) -> Vec<StreamPermit> {
        let directory = self.lock();
        let serving =
            |chosen: &Arc<Tunnel>| match directory.find(&chosen.subject, Some(chosen.device.as_str())) {
                Lookup::Online(tunnel) => Some(tunnel),
                Lookup::Offline(_) | Lookup::Unknown(_) | Lookup::Several(_) => None,
            };
        let mut slot = Some(slot);
        let admit = |tunnel: &Arc<Tunnel>| {
            let counted = slot.take();
            let counts = counted.is_some();
            if let Some(slot) = counted {
                slot.hand_over();
            }
            tunnel.permit(counts)
        };
        chosen.iter().filter_map(serving).map(admit).collect()
    }

    /// Returns the devices that are known of a subject, by name; of one device if the token is bound to it.
    pub(crate) fn devices(&self, principal: &Principal) -> Vec<KnownDevice> {
        let directory = self.lock();
        let devices = directory.devices(&principal.subject);
        let visible =
            devices.filter(|(name, _)| principal.device.as_ref().is_none_or(|bound| bound == *name));
        visible.map(|(name, tunnel)| KnownDevice { name: name.clone(), tunnel: tunnel.cloned() }).collect()
    }

    /// Makes a session known. It serves at once where its device has none; the session that is there is displaced only by
    /// [`Self::take_over`] or [`Self::move_to`], when the new one has proved to be alive.
    pub(crate) fn announce(&self, new: NewTunnel<'_>, max_devices: usize) -> Result<Arc<Tunnel>, Refusal> {
        let NewTunnel { principal, device, agent, session } = new;
        let now = Instant::now();
        self.first.get_or_init(|| now);
        let mut directory = self.lock();
        directory.sweep(now);
        let joining = Joining { subject: &principal.subject, device: device.clone(), id: session.id() };
        let announced = directory.announce(joining, max_devices, |load| {
            Arc::new(Tunnel {
                session,
                subject: Arc::clone(&principal.subject),
                // Cannot fail: letters, digits and hyphens.
                device_header: HeaderValue::from_str(device.as_str()).expect("a device name is ASCII"),
                device,
                agent,
                tier: principal.tier.clone(),
                opened_at: Timestamp::now(),
                load,
                presence: ArcSwapOption::empty(),
                streams: AtomicUsize::new(0),
                retiring: AtomicBool::new(false),
                stays: CancellationToken::new(),
                bearer: watch::Sender::new(Arc::clone(principal)),
                attached_ms: AtomicU64::new(0),
                epoch: now,
            })
        });
        drop(directory);
        let announced =
            announced.map_err(|directory::Full| Refusal::TooManyDevices { limit: max_devices })?;
        for displaced in announced.displaced {
            // Mostly nobody is there to hear it. Should this have been one that is just coming up, it dials again.
            displaced.session.close(restarting(1));
        }
        Ok(announced.session)
    }

    /// Lets a session take its device over from the one that serves it. The older of the two ends with code 4409,
    /// which is this one when it has come up late.
    pub(crate) fn take_over(&self, id: SessionId) -> bool {
        let promoted = self.lock().promote(id, Fate::Replaced, Instant::now());
        let taken_over = matches!(promoted, Promoted::Displaced(_));
        if let Promoted::Displaced(loser) | Promoted::Late(loser) = promoted {
            loser
                .session
                .close(Closed::new(CloseCode::Replaced, "a newer dial of the same device took over"));
        }
        taken_over
    }

    /// Lets a session stand beside the one that serves its device: it gets the new requests, the older one finishes
    /// what it has and ends, which is this one when it has come up late.
    pub(crate) fn move_to(&self, id: SessionId) {
        let promoted = self.lock().promote(id, Fate::Retiring, Instant::now());
        if let Promoted::Displaced(old) | Promoted::Late(old) = promoted {
            old.retire();
        }
    }

    /// Finds a session that a desktop wants to resume.
    pub(crate) fn resume(&self, id: SessionId, subject: &str, device: &DeviceName) -> Resume<Arc<Tunnel>> {
        self.lock().resume(id, subject, device)
    }

    /// Forgets a session that has ended. A session that was taken over leaves its successor alone.
    pub(crate) fn remove(&self, id: SessionId) {
        self.lock().remove(id, Instant::now());
    }

    /// Returns all sessions, also those that finish their streams.
    pub(crate) fn tunnels(&self) -> Vec<Arc<Tunnel>> {
        self.lock().sessions().cloned().collect()
    }

    /// Returns all subjects that are known.
    pub(crate) fn subjects(&self) -> Vec<Arc<str>> {
        self.lock().subjects().cloned().collect()
    }

    pub(crate) fn tenant(&self, subject: &str) -> Option<TenantCounts> {
        let (devices, online, streams) = self.lock().tenant(subject)?;
        Some(TenantCounts { devices, online, streams })
    }

    pub(crate) fn counts(&self) -> Counts {
        let directory = self.lock();
        let mut counts = Counts { devices_online: directory.n_online(), ..Counts::default() };
        for tunnel in directory.sessions() {
            counts.sessions += 1;
            counts.streams += tunnel.streams.load(Ordering::Relaxed);
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Directory<Arc<Tunnel>>> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tunnel {
    fn permit(self: &Arc<Self>, counts: bool) -> StreamPermit {
        self.streams.fetch_add(1, Ordering::SeqCst);
        StreamPermit { tunnel: Arc::clone(self), counts }
    }

    /// Returns what the desktop said last of its models.
    pub(crate) fn presence(&self) -> Option<Arc<Presence>> {
        self.presence.load_full()
    }

    /// Notes what the desktop says of its models; `None`: nothing that could be understood.
    pub(crate) fn set_presence(&self, presence: Option<Presence>) {
        self.presence.store(presence.map(Arc::new));
    }

    /// Returns how many requests the desktop works on, its own gateway's included as far as it tells.
    pub(crate) fn in_flight(&self) -> usize {
        let told = self.presence.load().as_ref().map_or(0, |presence| presence.in_flight as usize);
        told.max(self.streams.load(Ordering::Relaxed))
    }

    /// Returns when the session was opened.
    pub(crate) fn opened(&self) -> (Instant, Timestamp) {
        (self.epoch, self.opened_at)
    }

    /// Begins to count bytes that are held for the tenant.
    pub(crate) fn hold(&self) -> Held {
        Held::none(&self.load)
    }

    /// Returns how many requests are under way on this session.
    pub(crate) fn n_streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Ends the session as soon as it has no stream, which may be now.
    pub(crate) fn retire(&self) {
        self.retiring.store(true, Ordering::SeqCst);
        if self.streams.load(Ordering::SeqCst) == 0 {
            self.close_retired();
        }
    }

    fn close_retired(&self) {
        self.session.close(restarting(1));
    }

    /// Notes that the desktop has nowhere else to go.
    pub(crate) fn stay(&self) {
        self.stays.cancel();
    }

    /// Waits until [`Self::stay`].
    pub(crate) async fn stays(&self) {
        self.stays.cancelled().await;
    }

    /// Notes the token that the desktop has now, which the session lives on with, even where it ends sooner: the one before
    /// may be about to be revoked.
    pub(crate) fn set_bearer(&self, token: &Arc<Principal>) {
        self.bearer.send_replace(Arc::clone(token));
    }

    /// Returns whose token the session lives on, and with that until when.
    pub(crate) fn bearer(&self) -> Arc<Principal> {
        Arc::clone(&self.bearer.borrow())
    }

    /// Returns what tells of each new one.
    pub(crate) fn bearers(&self) -> watch::Receiver<Arc<Principal>> {
        self.bearer.subscribe()
    }

    /// Notes that the link has a socket again.
    pub(crate) fn attached(&self) {
        let ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.attached_ms.store(ms, Ordering::Relaxed);
    }

    /// Returns when the link was last attached.
    pub(crate) fn attached_at(&self) -> Instant {
        self.epoch + Duration::from_millis(self.attached_ms.load(Ordering::Relaxed))
    }
}

/// What a session is told that the relay ends for its own reasons, as one of `n`. The reason is a delay in
/// milliseconds, drawn for each, so that the desktops of a relay that goes away do not all dial at once.
pub(crate) fn restarting(n: usize) -> Closed {
    let each = REDIAL_EACH_MS.saturating_mul(n as u64);
    let delay_ms: u64 = rand::random_range(0..=each.clamp(REDIAL_WITHIN_MS, REDIAL_WITHIN_MAX_MS));
    Closed::new(CloseCode::Restarting, delay_ms.to_string())
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("session", &self.session.id())
            .field("subject", &self.subject)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl StreamPermit {
    pub(crate) fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// Leaves the device and keeps the tenant's place, if this has it.
    pub(crate) fn leave_device(mut self) -> Option<Slot> {
        let counts = std::mem::take(&mut self.counts);
        counts.then(|| Slot::of_permit(&self.tunnel.load))
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let tunnel = &self.tunnel;
        if self.counts {
            tunnel.load.release();
        }
        let last = tunnel.streams.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && tunnel.retiring.load(Ordering::SeqCst) {
            tunnel.close_retired();
        }
    }
}

pub(crate) fn offline(device: String) -> Refusal {
    Refusal::DeviceOffline { device, retry_after: OFFLINE_RETRY_AFTER }
}

/// Shows a name that a caller sent: short, and without anything that could move a terminal's cursor.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(63).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
