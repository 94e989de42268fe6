//! The relay's end: takes dials and sends requests down the sessions.

mod body;
mod dial_request;

use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub use self::body::{BodyError, ResponseBody};
pub use self::dial_request::{BadDial, DialKind, DialRequest};
use crate::closed::{CloseCode, Closed};
use crate::connector::tune_socket;
use crate::link::{Link, Socket};
use crate::names::SessionId;
use crate::session::{Attach, LinkState, Session, Shared, Terms};
use crate::settings;
use crate::ws::Role;
use crate::{BoxError, SUBPROTOCOL};

/// Makes sessions out of dials.
#[derive(Clone, Copy, Debug)]
pub struct Acceptor {
    config: AcceptorConfig,
}

/// What a relay grants its desktops.
#[derive(Clone, Copy, Debug)]
pub struct AcceptorConfig {
    /// How long a session without a socket is kept. Default 60 s.
    pub grace: Duration,
    /// How many unacknowledged bytes each end keeps. Default 4 MiB, allocated as needed.
    pub window: u64,
    /// Takes the socket, and what was read ahead, out of the connection that a dial came on. Default:
    /// [`plain_socket`]. A server that wraps its sockets unwraps them here, so that the tunnel does not pay for it.
    pub socket: fn(Upgraded) -> (Box<dyn Socket>, Bytes),
}

impl Default for AcceptorConfig {
    fn default() -> Self {
        Self { grace: settings::GRACE, window: settings::WINDOW, socket: plain_socket }
    }
}

/// A session at the relay. Cheap to clone; it lives in its [`Driver`].
#[derive(Clone, Debug)]
pub struct RelaySession {
    session: Session,
    http2: Arc<OnceLock<SendRequest<Bytes>>>,
    tokens: Arc<Mutex<Option<mpsc::Receiver<SecretString>>>>,
}

/// Drives one session: to be spawned.
#[derive(Debug)]
pub struct Driver {
    link: Link,
    upgrade: OnUpgrade,
    socket: fn(Upgraded) -> (Box<dyn Socket>, Bytes),
    session: RelaySession,
}

/// Gives a session its new socket once the upgrade is complete: to be spawned.
#[derive(Debug)]
pub struct Resumption {
    upgrade: OnUpgrade,
    socket: fn(Upgraded) -> (Box<dyn Socket>, Bytes),
    session: Session,
    told: u64,
    received: u64,
}

/// Why a request did not get an answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The device has no link, and none came in time.
    #[error("the device is offline")]
    Offline,
    /// The device takes no new requests: it shuts down.
    #[error("the device is shutting down")]
    Draining,
    /// The session ended before the answer began.
    #[error("the session was lost")]
    Lost(#[source] h2::Error),
    /// The device gave this one request up.
    #[error("the device reset the request")]
    Reset(#[source] h2::Error),
}

/// A resume from an offset that the session cannot go on from, or of a session that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session cannot be resumed from there")]
pub struct Gone;

/// Longest wait of a new request for a link that is detached.
const REATTACH_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for the upgrade of a connection whose 101 is written.
const UPGRADE_WAIT: Duration = Duration::from_secs(10);

impl Acceptor {
    /// Makes an acceptor.
    pub fn new(config: AcceptorConfig) -> Self {
        Self { config }
    }

    /// Opens a session on a dial that was parsed and allowed: the 101 to send, the session, and its driver.
    pub fn open<B>(&self, request: &mut Request<B>) -> (Response<Empty<Bytes>>, RelaySession, Driver) {
        let id = SessionId::random();
        let (shared, tokens) = Shared::new(Terms {
            id,
            grace: self.config.grace,
            window: self.config.window,
            parting: CloseCode::Restarting,
        });
        let response = self.switching(request, id, 0);
        let link = Link::new(Role::Server, shared.clone());
        let session = RelaySession {
            session: Session::new(shared),
            http2: Arc::default(),
            tokens: Arc::new(Mutex::new(Some(tokens))),
        };
        let upgrade = hyper::upgrade::on(request);
        let driver = Driver { link, upgrade, socket: self.config.socket, session: session.clone() };
        (response, session, driver)
    }

    /// Lets `session` go on over the connection of `request`, from `received` bytes at the desktop.
    pub fn resume<B>(
        &self,
        session: &RelaySession,
        request: &mut Request<B>,
        received: u64,
    ) -> Result<(Response<Empty<Bytes>>, Resumption), Gone> {
        if session.is_closed() || !session.shared().can_resume(received) {
            return Err(Gone);
        }
        let told = session.shared().received();
        let response = self.switching(request, session.id(), told);
        let upgrade = hyper::upgrade::on(request);
        let socket = self.config.socket;
        Ok((response, Resumption { upgrade, socket, session: session.session.clone(), told, received }))
    }

    fn switching<B>(&self, request: &Request<B>, id: SessionId, received: u64) -> Response<Empty<Bytes>> {
        let key = request.headers().get("sec-websocket-key").map_or(&b""[..], HeaderValue::as_bytes);
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key);
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        insert(headers, "sec-websocket-accept", accept);
        insert(headers, "tunnel-session", id.to_string());
        insert(headers, "tunnel-received", received.to_string());
        insert(headers, "tunnel-grace", self.config.grace.as_secs().to_string());
        insert(headers, "tunnel-window", self.config.window.to_string());
        response
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: String) {
    // Cannot fail: digits, hexadecimal and base64.
    headers.insert(name, value.try_into().expect("the value is ASCII"));
}

impl Deref for RelaySession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl RelaySession {
    /// Sends a request and waits for the head of its answer; a body goes on in both directions afterwards.
    ///
    /// Waits up to 5 s for a detached link. Dropping the future or the response's body resets the stream.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<ResponseBody>, SendError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut http2 = self.ready().await?;
        std::future::poll_fn(|cx| http2.poll_ready(cx)).await.map_err(SendError::of)?;
        body::exchange(&mut http2, request).await
    }

    async fn ready(&self) -> Result<SendRequest<Bytes>, SendError> {
        if !self.is_attached() {
            let mut link = self.link();
            let attached = link.wait_for(|state| !matches!(state, LinkState::Detached { .. }));
            match tokio::time::timeout(REATTACH_WAIT, attached).await {
                Ok(Ok(state)) if matches!(*state, LinkState::Attached { .. }) => {}
                _ => return Err(SendError::Offline),
            }
        }
        // Set before the first socket is attached.
        self.http2.get().cloned().ok_or(SendError::Offline)
    }

    /// Tells whether a socket carries the session right now.
    pub fn is_attached(&self) -> bool {
        self.shared().is_attached()
    }

    /// Tells whether the session is over.
    pub fn is_closed(&self) -> bool {
        matches!(*self.link().borrow(), LinkState::Closed(_))
    }

    /// Returns the refreshed tokens that the desktop sends; the first caller gets them.
    pub fn tokens(&self) -> Option<mpsc::Receiver<SecretString>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl SendError {
    pub(crate) fn of(error: h2::Error) -> Self {
        if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) {
            return Self::Draining;
        }
        if error.is_reset() { Self::Reset(error) } else { Self::Lost(error) }
    }
}

impl Driver {
    /// Drives the session until it ends and tells why it did.
    pub async fn run(self) -> Closed {
        let Self { link, upgrade, socket, session } = self;
        let handshake = h2::client::Builder::new()
            .initial_window_size(settings::STREAM_WINDOW)
            .initial_connection_window_size(settings::CONNECTION_WINDOW)
            .max_frame_size(settings::FRAME)
            .max_header_list_size(settings::HEADER_LIST)
            .max_send_buffer_size(settings::SEND_BUFFER)
            .initial_max_send_streams(settings::MAX_STREAMS as usize)
            .max_concurrent_reset_streams(settings::RESETS)
            .reset_stream_duration(settings::RESET_MEMORY)
            .max_local_error_reset_streams(None)
            .data_frame_budget(settings::SMALL_FRAMES)
            .enable_push(false)
            .handshake::<_, Bytes>(TokioIo::new(link));
        // The link takes the preface without a socket.
        if let Ok((http2, connection)) = handshake.await {
            let _once = session.http2.set(http2);
            let attaching = async {
                if !attach(upgrade, socket, &session.session, 0, 0).await {
                    // Nobody has the id of this session, so nobody will resume it.
                    session.close(Closed::new(
                        CloseCode::ShuttingDown,
                        "the desktop hung up before the tunnel was open",
                    ));
                }
            };
            let (_outcome, ()) = tokio::join!(connection, attaching);
        }
        let closed = session.closed().await;
        session.shared().linger().await;
        closed
    }
}

impl Resumption {
    /// Waits for the upgrade and attaches its socket.
    pub async fn run(self) {
        // A desktop that went away meanwhile resumes again; the session's grace time runs.
        let _attached = attach(self.upgrade, self.socket, &self.session, self.told, self.received).await;
    }
}

/// Tells whether there was a socket to attach.
async fn attach(
    upgrade: OnUpgrade,
    unwrap: fn(Upgraded) -> (Box<dyn Socket>, Bytes),
    session: &Session,
    told: u64,
    received: u64,
) -> bool {
    let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_WAIT, upgrade).await else { return false };
    let (socket, read_ahead) = unwrap(upgraded);
    session.shared().post_attach(Attach { socket, read_ahead, told, received });
    true
}

/// Takes the socket out of a connection on plain TCP; any other connection is used as it is.
pub fn plain_socket(upgraded: Upgraded) -> (Box<dyn Socket>, Bytes) {
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            let tcp = parts.io.into_inner();
            // Without it a download delays tokens a little more: no reason to refuse the session.
            let _unsupported = tune_socket(&tcp);
            (Box::new(tcp), parts.read_buf)
        }
        Err(upgraded) => (Box::new(TokioIo::new(upgraded)), Bytes::new()),
    }
}
