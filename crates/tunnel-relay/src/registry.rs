//! Which device is reached through which session, on this node.

mod directory;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel_transport::{CloseCode, Closed, DeviceName, RelaySession, SessionId};

use crate::auth::Principal;
use crate::error::Refusal;

pub(crate) use directory::Resume;
use directory::{Directory, Fate, Joining, Lookup, Promoted};

/// A session of a desktop and what the relay counts on it.
pub(crate) struct Tunnel {
    pub(crate) session: RelaySession,
    pub(crate) subject: Arc<str>,
    pub(crate) device: DeviceName,
    /// Requests under way, of all devices of the subject.
    tenant_streams: Arc<AtomicUsize>,
    /// Requests under way on this session.
    streams: AtomicUsize,
    /// Another session has taken over the new requests: close when the last stream has ended.
    retiring: AtomicBool,
    /// The desktop tried to move away from this relay and came back to it: there is nowhere else.
    stays: CancellationToken,
    /// Of the tokens that the session was opened, resumed or refreshed with, the one that ends last.
    bearer: Mutex<Arc<Principal>>,
    /// When the link was last attached, in milliseconds after `epoch`.
    attached_ms: AtomicU64,
    epoch: Instant,
}

/// One request under way. Counted as long as this lives, which is as long as its response body.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    tunnel: Arc<Tunnel>,
}

/// The sessions of this node.
///
/// The lock is held for a few map operations, never across an await.
#[derive(Debug)]
pub(crate) struct Registry {
    directory: Mutex<Directory<Arc<Tunnel>>>,
}

/// What a new session is to be registered as.
pub(crate) struct NewTunnel<'a> {
    pub(crate) principal: &'a Arc<Principal>,
    pub(crate) device: DeviceName,
    pub(crate) session: RelaySession,
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

/// Desktops whose relay goes away dial again within this time, in milliseconds.
const REDIAL_WITHIN_MS: u64 = 2_000;

impl Registry {
    pub(crate) fn new() -> Self {
        Self { directory: Mutex::default() }
    }

    /// Finds the session for a request and admits the request to it.
    ///
    /// Both under one lock: a session that is replaced in between would otherwise close under the new request.
    pub(crate) fn admit(
        &self,
        principal: &Principal,
        asked: Option<&str>,
        max_streams: usize,
    ) -> Result<StreamPermit, Refusal> {
        let wanted = match (asked, principal.device.as_ref().map(DeviceName::as_str)) {
            (Some(asked), Some(bound)) if asked != bound => {
                return Err(Refusal::OtherDevice { asked: shown(asked), bound: bound.to_owned() });
            }
            (Some(name), _) | (None, Some(name)) => Some(name),
            (None, None) => None,
        };
        let directory = self.lock();
        match directory.find(&principal.subject, wanted) {
            Lookup::Online(tunnel) => tunnel.admit(max_streams),
            Lookup::Offline(device) => {
                Err(Refusal::DeviceOffline { device: device.to_string(), retry_after: OFFLINE_RETRY_AFTER })
            }
            Lookup::Several(online) => Err(Refusal::DeviceRequired { online }),
            // The issuer wrote this name into the token, so the device is known even if it has not called yet.
            Lookup::Unknown(_) if principal.device.is_some() => Err(Refusal::DeviceOffline {
                device: wanted.map(shown).unwrap_or_default(),
                retry_after: OFFLINE_RETRY_AFTER,
            }),
            Lookup::Unknown(known) => Err(Refusal::UnknownDevice { asked: wanted.map(shown), known }),
        }
    }

    /// Makes a session known. It serves at once where its device has none; the session that is there is displaced
    /// only by [`Self::attached`], when the new one has proved to be alive.
    pub(crate) fn announce(&self, new: NewTunnel<'_>, max_devices: usize) -> Result<Arc<Tunnel>, Refusal> {
        let NewTunnel { principal, device, session } = new;
        let now = Instant::now();
        let mut directory = self.lock();
        directory.sweep(now);
        let joining = Joining { subject: &principal.subject, device: device.clone(), id: session.id() };
        let announced = directory.announce(joining, max_devices, |tenant_streams| {
            Arc::new(Tunnel {
                session,
                subject: Arc::clone(&principal.subject),
                device,
                tenant_streams,
                streams: AtomicUsize::new(0),
                retiring: AtomicBool::new(false),
                stays: CancellationToken::new(),
                bearer: Mutex::new(Arc::clone(principal)),
                attached_ms: AtomicU64::new(0),
                epoch: now,
            })
        });
        announced.map_err(|directory::Full| Refusal::TooManyDevices { limit: max_devices })
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

    /// Lets a session stand beside the one that serves its device: it gets the new requests, the old one finishes
    /// what it has.
    pub(crate) fn move_to(&self, id: SessionId) {
        let promoted = self.lock().promote(id, Fate::Retiring, Instant::now());
        if let Promoted::Displaced(old) = promoted {
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
    fn admit(self: &Arc<Self>, max_streams: usize) -> Result<StreamPermit, Refusal> {
        let before = self.tenant_streams.fetch_add(1, Ordering::Relaxed);
        if before >= max_streams {
            self.tenant_streams.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::TooManyStreams { limit: max_streams });
        }
        self.streams.fetch_add(1, Ordering::SeqCst);
        Ok(StreamPermit { tunnel: Arc::clone(self) })
    }

    /// Ends the session as soon as it has no stream, which may be now.
    pub(crate) fn retire(&self) {
        self.retiring.store(true, Ordering::SeqCst);
        if self.streams.load(Ordering::SeqCst) == 0 {
            self.close_retired();
        }
    }

    fn close_retired(&self) {
        self.session.close(restarting());
    }

    /// Notes that the desktop has nowhere else to go.
    pub(crate) fn stay(&self) {
        self.stays.cancel();
    }

    /// Waits until [`Self::stay`].
    pub(crate) async fn stays(&self) {
        self.stays.cancelled().await;
    }

    /// Notes a token that the session may live on with. A shorter one takes nothing away: tokens may arrive out of
    /// order, and whoever has the longer one could dial anew with it.
    pub(crate) fn extend(&self, token: &Arc<Principal>) {
        let mut bearer = self.bearer.lock().unwrap_or_else(PoisonError::into_inner);
        if token.expires_at > bearer.expires_at {
            *bearer = Arc::clone(token);
        }
    }

    /// Returns whose token the session lives on, and with that until when.
    pub(crate) fn bearer(&self) -> Arc<Principal> {
        Arc::clone(&self.bearer.lock().unwrap_or_else(PoisonError::into_inner))
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

/// What a session is told that the relay ends for its own reasons. The reason is a delay in milliseconds, drawn for
/// each, so that the desktops of a relay that goes away do not all dial at once.
pub(crate) fn restarting() -> Closed {
    let delay_ms: u64 = rand::random_range(0..=REDIAL_WITHIN_MS);
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
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let tunnel = &self.tunnel;
        tunnel.tenant_streams.fetch_sub(1, Ordering::Relaxed);
        let last = tunnel.streams.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && tunnel.retiring.load(Ordering::SeqCst) {
            tunnel.close_retired();
        }
    }
}

/// Shows a name that a caller sent: short, and without anything that could move a terminal's cursor.
fn shown(name: &str) -> String {
    name.chars().take(63).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
