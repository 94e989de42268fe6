//! The tunnel endpoint: desktops dial, resume and migrate here.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::mpsc;
use tracing::{Instrument as _, debug, info, info_span, warn};
use tunnel_transport::{BadDial, CloseCode, Closed, DialKind, DialRequest, LinkState, SessionId};

use crate::audit::Event;
use crate::auth::{self, Principal, Scope, TokenError};
use crate::body::RelayBody;
use crate::client::Client;
use crate::error::Refusal;
use crate::listener::Connection;
use crate::presence::Follower;
use crate::registry::{NewTunnel, Resume, Tunnel};
use crate::relay::Shared;

/// What becomes of the session that serves the device now, when a new one is up.
#[derive(Clone, Copy, Debug)]
enum Arrival {
    /// It is taken over.
    Fresh,
    /// It finishes its streams.
    Beside,
}

/// Least and most wait before a refreshed token is tried again that could not be checked, in milliseconds.
const UNDECIDED_PAUSE_MS: (u64, u64) = (3_000, 6_000);

/// Answers a dial. The upgrade completes after the answer has been written. `subject` becomes whose it is, once that is
/// known.
pub(crate) async fn connect(
    connection: &Connection,
    client: &Client,
    mut request: Request<Incoming>,
    subject: &mut Option<Arc<str>>,
) -> Result<Response<RelayBody>, Refusal> {
    let shared = &connection.shared;
    let principal = shared.authority.verify(auth::bearer(request.headers())?, client.address).await?;
    *subject = Some(Arc::clone(&principal.subject));
    if !principal.scopes.has(Scope::Tunnel) {
        return Err(Refusal::Scope { needed: Scope::Tunnel, has: principal.scopes });
    }
    let dial = DialRequest::parse(request.headers()).map_err(|bad: BadDial| Refusal::BadDial {
        status: bad.status(),
        code: bad.code(),
        why: bad.to_string(),
    })?;
    if let Some(bound) = &principal.device
        && *bound != dial.device
    {
        return Err(Refusal::OtherDevice { asked: dial.device.to_string(), bound: bound.to_string() });
    }
    refuse_while_draining(shared, &principal, &dial)?;
    let charge = || shared.limits.allow_dial(&principal, &dial.kind);
    // A resume is cheap, and streams wait for it.
    if matches!(dial.kind, DialKind::Resume { .. }) {
        charge()?;
    } else {
        shared.dial_pace.turn(&principal.subject, charge).await?;
        // It may have begun meanwhile, and whoever comes after that is not asked to move.
        refuse_while_draining(shared, &principal, &dial)?;
    }
    let response = match dial.kind {
        DialKind::Fresh => open(shared, &principal, client, dial, &mut request, Arrival::Fresh)?,
        // Also beside a session that is not known: it may live on the relay that this one replaces.
        DialKind::Migrate { .. } => open(shared, &principal, client, dial, &mut request, Arrival::Beside)?,
        DialKind::Resume { session, received } => {
            resume(shared, &principal, &dial, &mut request, session, received)?
        }
    };
    Ok(response.map(|_| RelayBody::empty()))
}

/// Refuses new sessions of a relay that ends. A desktop that was asked to move and came back has nowhere else to go.
fn refuse_while_draining(shared: &Shared, principal: &Principal, dial: &DialRequest) -> Result<(), Refusal> {
    if !shared.draining.is_cancelled() || matches!(dial.kind, DialKind::Resume { .. }) {
        return Ok(());
    }
    if let DialKind::Migrate { session } = dial.kind
        && let Resume::Known(tunnel) = shared.registry.resume(session, &principal.subject, &dial.device)
    {
        tunnel.stay();
    }
    Err(Refusal::Draining { retry_after: jitter(1_000, 4_000) })
}

type Switching = Response<Empty<bytes::Bytes>>;

fn open(
    shared: &Arc<Shared>,
    principal: &Arc<Principal>,
    client: &Client,
    dial: DialRequest,
    request: &mut Request<Incoming>,
    arrival: Arrival,
) -> Result<Switching, Refusal> {
    let (response, session, driver) = shared.acceptor().open(request);
    let tokens = session.tokens();
    let agent = dial.agent.unwrap_or_default().into();
    let new = NewTunnel { principal, device: dial.device, agent, session };
    let max_devices = shared.settings().tier(principal.tier.as_deref()).max_devices;
    let tunnel = shared.registry.announce(new, max_devices)?;
    match arrival {
        Arrival::Fresh => shared.metrics.dials.inc(),
        Arrival::Beside => shared.metrics.migrations.inc(),
    };
    let span = info_span!("session", session = %tunnel.session.id(), subject = %tunnel.subject, device = %tunnel.device);
    shared.sessions.spawn(async move { drop(driver.run().await) }.instrument(span.clone()));
    let (principal, client) = (Arc::clone(principal), client.address);
    let watch = Watch { shared: Arc::clone(shared), tunnel, principal, client, arrival };
    shared.sessions.spawn(watch.run(tokens).instrument(span));
    Ok(response)
}

fn resume(
    shared: &Arc<Shared>,
    principal: &Arc<Principal>,
    dial: &DialRequest,
    request: &mut Request<Incoming>,
    session: SessionId,
    received: u64,
) -> Result<Switching, Refusal> {
    let tunnel = match shared.registry.resume(session, &principal.subject, &dial.device) {
        Resume::Known(tunnel) => tunnel,
        Resume::Replaced => return Err(Refusal::Replaced),
        Resume::Gone => return Err(Refusal::SessionGone),
    };
    let resumed = shared.acceptor().resume(&tunnel.session, request, received);
    let Ok((response, resumption)) = resumed else {
        // The session is left alone: this dial may be an old one that was held up on its way, and a newer one may have
        // resumed since. A session that nobody can resume ends with its grace time.
        return Err(Refusal::SessionGone);
    };
    tunnel.set_bearer(principal);
    shared.sessions.spawn(resumption.run());
    Ok(response)
}

/// Follows one session from its first socket to its end.
struct Watch {
    shared: Arc<Shared>,
    tunnel: Arc<Tunnel>,
    /// Who dialled, and from where.
    principal: Arc<Principal>,
    client: IpAddr,
    arrival: Arrival,
}

impl Watch {
    async fn run(self, tokens: Option<mpsc::Receiver<SecretString>>) {
        let id = self.tunnel.session.id();
        let registered = Registered { shared: &self.shared, id };
        // A token may have to wait for its issuer's keys, which must not keep the session from being looked after.
        let mut n_attached = 0;
        let closed = tokio::select! {
            closed = self.follow(&mut n_attached) => closed,
            never = self.take_refreshed(tokens) => match never {},
        };
        drop(registered);
        // What never was up did not go down.
        if n_attached > 0 {
            let (subject, device) = (&*self.tunnel.subject, self.tunnel.device.as_str());
            self.shared.audit.note(&Event::TunnelDown { subject, device, code: closed.code.into() });
        }
        info!(code = u16::from(closed.code), reason = %closed.reason, "session ended");
    }

    /// Looks after the session until its end, and counts how often its link came up.
    async fn follow(&self, n_attached: &mut u64) -> Closed {
        let session = &self.tunnel.session;
        let mut link = session.link();
        let mut presence = Follower::default();
        let mut bearers = self.tunnel.bearers();
        loop {
            let state = link.borrow_and_update().clone();
            match state {
                LinkState::Attached { .. } => {
                    self.attached(*n_attached);
                    *n_attached += 1;
                    presence.begin(&self.tunnel);
                }
                LinkState::Detached { .. } if *n_attached > 0 => debug!("link down"),
                LinkState::Detached { .. } => {}
                LinkState::Closed(closed) => return closed,
            }
            loop {
                let bearer = Arc::clone(&bearers.borrow_and_update());
                let mut holder = self.shared.authority.holder(&bearer);
                let reason = tokio::select! {
                    // The sender lives in the session, which `self` holds.
                    changed = link.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return session.closed().await,
                    },
                    () = presence.run() => continue,
                    // The sender is the tunnel's, which `self` holds.
                    _changed = bearers.changed() => continue,
                    () = std::future::poll_fn(|cx| holder.poll_over(cx)) => "the token was revoked",
                    () = tokio::time::sleep(time_left(bearer.expires_at)) => "the token has expired",
                };
                // A resume or a refresh may have brought another token meanwhile; and a long time left comes in pieces.
                let bearer = self.tunnel.bearer();
                let holder = self.shared.authority.holder(&bearer);
                if time_left(bearer.expires_at).is_zero() || holder.is_over() {
                    session.close(Closed::new(CloseCode::Token, reason));
                    return session.closed().await;
                }
            }
        }
    }

    fn attached(&self, times_before: u64) {
        self.tunnel.attached();
        let id = self.tunnel.session.id();
        if times_before > 0 {
            self.shared.metrics.resumes.inc();
            info!(agent = &*self.tunnel.agent, "session resumed");
            return;
        }
        let (subject, device) = (&*self.tunnel.subject, self.tunnel.device.as_str());
        let token_id = &*self.principal.token_id;
        self.shared.audit.note(&Event::TunnelUp { subject, device, token_id, client: self.client });
        // Only now: a dial whose answer never arrived must not end the session that works.
        match self.arrival {
            Arrival::Fresh => {
                let took_over = self.shared.registry.take_over(id);
                if took_over {
                    self.shared.metrics.takeovers.inc();
                    self.shared.audit.note(&Event::Takeover { subject, device });
                }
                info!(agent = &*self.tunnel.agent, took_over, "session opened");
            }
            Arrival::Beside => {
                self.shared.registry.move_to(id);
                info!(agent = &*self.tunnel.agent, "session opened beside another");
            }
        }
        self.shared.waiting.arrived(&self.tunnel.subject);
    }

    /// Takes refreshed tokens as they come. One of which nothing can be said yet is tried again until there is a newer one: the
    /// desktop will not send it twice.
    async fn take_refreshed(&self, mut tokens: Option<mpsc::Receiver<SecretString>>) -> Infallible {
        let mut undecided = None;
        loop {
            let (token, is_new) = match undecided.take() {
                None => (next(&mut tokens).await, true),
                Some(token) => tokio::select! {
                    newer = next(&mut tokens) => (newer, true),
                    () = tokio::time::sleep(jitter(UNDECIDED_PAUSE_MS.0, UNDECIDED_PAUSE_MS.1)) => (token, false),
                },
            };
            match self.judge(&token).await {
                Judged::Good(bearer) => self.tunnel.set_bearer(&bearer),
                // The session lives on with the token that it has.
                Judged::NotYet => {
                    if is_new {
                        warn!("a refreshed token cannot be checked yet: its issuer is away");
                    }
                    undecided = Some(token);
                }
                // It ended while it waited, and nobody had asked the session to stand on it alone.
                Judged::Expired if !is_new => {}
                Judged::Expired => self.close("the refreshed token has expired"),
                Judged::Bad(reason) => self.close(reason),
            }
        }
    }

    /// Checks a refreshed token: it must be as good as the one that the session was opened with.
    async fn judge(&self, token: &SecretString) -> Judged {
        let new = match self.shared.authority.verify(token.expose_secret(), self.client).await {
            Ok(new) => new,
            Err(TokenError::IssuerAway | TokenError::Crowded) => return Judged::NotYet,
            Err(TokenError::Expired) => return Judged::Expired,
            Err(TokenError::Revoked) => return Judged::Bad("the refreshed token was revoked"),
            Err(TokenError::Invalid | TokenError::Missing) => {
                return Judged::Bad("the refreshed token is not valid");
            }
        };
        if new.subject != self.tunnel.subject {
            return Judged::Bad("the refreshed token belongs to another subject");
        }
        if !new.scopes.has(Scope::Tunnel) {
            return Judged::Bad("the refreshed token lacks the scope tunnel");
        }
        if new.device.as_ref().is_some_and(|device| *device != self.tunnel.device) {
            return Judged::Bad("the refreshed token holds for another device");
        }
        debug!("token refreshed");
        Judged::Good(new)
    }

    fn close(&self, reason: &'static str) {
        self.tunnel.session.close(Closed::new(CloseCode::Token, reason));
    }
}

/// What a refreshed token is worth.
enum Judged {
    Good(Arc<Principal>),
    /// Nothing can be said of it now.
    NotYet,
    Expired,
    Bad(&'static str),
}

/// Takes a session off the registry however its task ends.
struct Registered<'a> {
    shared: &'a Shared,
    id: SessionId,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.registry.remove(self.id);
    }
}

async fn next(tokens: &mut Option<mpsc::Receiver<SecretString>>) -> SecretString {
    if let Some(tokens) = tokens
        && let Some(token) = tokens.recv().await
    {
        return token;
    }
    std::future::pending().await
}

/// Returns how long a token is still good, at most ten minutes: the clock on the wall may be set, and a machine that
/// slept must not be trusted longer.
fn time_left(expires_at: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(expires_at).saturating_sub(now).min(Duration::from_secs(600))
}

/// Returns a random time between two, in milliseconds.
fn jitter(from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(rand::random_range(from_ms..=to_ms))
}
