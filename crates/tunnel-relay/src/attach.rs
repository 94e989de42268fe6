//! The tunnel endpoint: desktops dial, resume and migrate here.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::mpsc;
use tracing::{Instrument as _, debug, info, info_span};
use tunnel_transport::{BadDial, CloseCode, Closed, DialKind, DialRequest, LinkState, SessionId};

use crate::auth::{self, Principal, Scope};
use crate::body::RelayBody;
use crate::client::Client;
use crate::error::Refusal;
use crate::listener::Connection;
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

/// Answers a dial. The upgrade completes after the answer has been written.
pub(crate) async fn connect(
    connection: &Connection,
    _client: &Client,
    mut request: Request<Incoming>,
) -> Result<Response<RelayBody>, Refusal> {
    let shared = &connection.shared;
    let principal = shared.authority.verify(auth::bearer(request.headers())?).await?;
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
    if shared.draining.is_cancelled() && !matches!(dial.kind, DialKind::Resume { .. }) {
        if let DialKind::Migrate { session } = dial.kind
            && let Resume::Known(tunnel) = shared.registry.resume(session, &principal.subject, &dial.device)
        {
            tunnel.stay();
        }
        return Err(Refusal::Draining { retry_after: jitter(1_000, 4_000) });
    }
    let response = match dial.kind {
        DialKind::Fresh => open(shared, &principal, dial, &mut request, Arrival::Fresh)?,
        // Also beside a session that is not known: it may live on the relay that this one replaces.
        DialKind::Migrate { .. } => open(shared, &principal, dial, &mut request, Arrival::Beside)?,
        DialKind::Resume { session, received } => {
            resume(shared, &principal, &dial, &mut request, session, received)?
        }
    };
    Ok(response.map(|_| RelayBody::empty()))
}

type Switching = Response<Empty<bytes::Bytes>>;

fn open(
    shared: &Arc<Shared>,
    principal: &Arc<Principal>,
    dial: DialRequest,
    request: &mut Request<Incoming>,
    arrival: Arrival,
) -> Result<Switching, Refusal> {
    let (response, session, driver) = shared.acceptor().open(request);
    let tokens = session.tokens();
    let new = NewTunnel { principal, device: dial.device, session };
    let max_devices = shared.settings().tier(principal.tier.as_deref()).max_devices;
    let tunnel = shared.registry.announce(new, max_devices)?;
    match arrival {
        Arrival::Fresh => shared.metrics.dials.inc(),
        Arrival::Beside => shared.metrics.migrations.inc(),
    };
    let span = info_span!("session", session = %tunnel.session.id(), subject = %tunnel.subject, device = %tunnel.device);
    shared.sessions.spawn(async move { drop(driver.run().await) }.instrument(span.clone()));
    let watch = Watch { shared: Arc::clone(shared), tunnel, agent: dial.agent.unwrap_or_default(), arrival };
    shared.sessions.spawn(watch.run(tokens).instrument(span));
    Ok(response)
}

fn resume(
    shared: &Arc<Shared>,
    principal: &Principal,
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
    tunnel.extend(principal.expires_at);
    shared.sessions.spawn(resumption.run());
    Ok(response)
}

/// Follows one session from its first socket to its end.
struct Watch {
    shared: Arc<Shared>,
    tunnel: Arc<Tunnel>,
    agent: String,
    arrival: Arrival,
}

impl Watch {
    async fn run(self, tokens: Option<mpsc::Receiver<SecretString>>) {
        let id = self.tunnel.session.id();
        let registered = Registered { shared: &self.shared, id };
        let closed = self.follow(tokens).await;
        drop(registered);
        info!(code = u16::from(closed.code), reason = %closed.reason, "session ended");
    }

    async fn follow(&self, mut tokens: Option<mpsc::Receiver<SecretString>>) -> Closed {
        let session = &self.tunnel.session;
        let mut link = session.link();
        let mut n_attached = 0_u64;
        loop {
            let state = link.borrow_and_update().clone();
            match state {
                LinkState::Attached { .. } => {
                    self.attached(n_attached);
                    n_attached += 1;
                }
                LinkState::Detached { .. } if n_attached > 0 => debug!("link down"),
                LinkState::Detached { .. } => {}
                LinkState::Closed(closed) => return closed,
            }
            loop {
                tokio::select! {
                    // The sender lives in the session, which `self` holds.
                    changed = link.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return session.closed().await,
                    },
                    token = next(&mut tokens) => match self.refreshed(&token).await {
                        Ok(until) => self.tunnel.extend(until),
                        Err(reason) => session.close(Closed::new(CloseCode::Token, reason)),
                    },
                    // A resume only ever moves the end away, so it is enough to look again when the time is up.
                    () = tokio::time::sleep(time_left(self.tunnel.expires_at())) => {
                        if time_left(self.tunnel.expires_at()).is_zero() {
                            session.close(Closed::new(CloseCode::Token, "the token has expired"));
                            return session.closed().await;
                        }
                    }
                }
            }
        }
    }

    fn attached(&self, times_before: u64) {
        self.tunnel.attached();
        let id = self.tunnel.session.id();
        if times_before > 0 {
            self.shared.metrics.resumes.inc();
            info!(agent = self.agent, "session resumed");
            return;
        }
        // Only now: a dial whose answer never arrived must not end the session that works.
        match self.arrival {
            Arrival::Fresh => {
                let took_over = self.shared.registry.take_over(id);
                if took_over {
                    self.shared.metrics.takeovers.inc();
                }
                info!(agent = self.agent, took_over, "session opened");
            }
            Arrival::Beside => {
                self.shared.registry.move_to(id);
                info!(agent = self.agent, "session opened beside another");
            }
        }
    }

    /// Checks a refreshed token: it must be as good as the one that the session was opened with.
    async fn refreshed(&self, token: &SecretString) -> Result<u64, &'static str> {
        let verified = self.shared.authority.verify(token.expose_secret()).await;
        let new = verified.map_err(|_| "the refreshed token is not valid")?;
        if new.subject != self.tunnel.subject {
            return Err("the refreshed token belongs to another subject");
        }
        if !new.scopes.has(Scope::Tunnel) {
            return Err("the refreshed token lacks the scope tunnel");
        }
        if new.device.as_ref().is_some_and(|device| *device != self.tunnel.device) {
            return Err("the refreshed token holds for another device");
        }
        debug!("token refreshed");
        Ok(new.expires_at)
    }
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
