//! The desktop's end: dials the relay and serves what comes back.

mod answer;
pub(crate) mod tcp;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, FutureExt as _, select};
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

pub use self::tcp::tune as tune_socket;
use crate::closed::{CloseCode, Closed};
use crate::dial_error::DialError;
use crate::link::{Link, Socket};
use crate::names::{DeviceName, SessionId};
use crate::proxy::Proxy;
use crate::relay_url::RelayUrl;
use crate::session::{Attach, Session, Shared, Terms};
use crate::settings;
use crate::steps;
use crate::ws::Role;
use crate::{BoxError, CONNECT_PATH, SUBPROTOCOL};

/// Dials one relay for one device.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ConnectorConfig>,
}

/// What a [`Connector`] needs to know.
#[derive(Debug)]
pub struct ConnectorConfig {
    /// Where the relay is.
    pub relay: RelayUrl,
    /// The name of this desktop.
    pub device: DeviceName,
    /// A token with scope `tunnel`.
    pub token: SecretString,
    /// What is told of this program: `tunneld/<version>`.
    pub agent: String,
    /// Longest wait for an answer, from the look-up of the name to the 101.
    pub connect_timeout: Duration,
    /// From [`crate::tls_config`].
    pub tls: Arc<rustls::ClientConfig>,
    /// What connects to the relay for us, whatever its address. None: we do.
    pub proxy: Option<Proxy>,
}

/// A session that was just made.
#[derive(Debug)]
pub struct Desktop {
    /// Its handle.
    pub session: Session,
    /// What serves it.
    pub server: Server,
}

/// Serves the requests of one session.
#[derive(Debug)]
pub struct Server {
    link: Link,
    session: Session,
    /// The relay sends no tokens; the receiver is kept so that one is dropped and not an error.
    _tokens: mpsc::Receiver<SecretString>,
}

const DEVICE: HeaderName = HeaderName::from_static("tunnel-device");
const AGENT: HeaderName = HeaderName::from_static("tunnel-agent");
const RESUME: HeaderName = HeaderName::from_static("tunnel-resume");
const MIGRATE: HeaderName = HeaderName::from_static("tunnel-migrate");
const WS_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WS_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const WS_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");

impl Connector {
    /// Makes a connector; nothing is dialled yet.
    pub fn new(config: ConnectorConfig) -> Self {
        Self { config: Arc::new(config) }
    }

    /// Dials for a new session. An older session of the device is taken over.
    pub async fn dial(&self) -> Result<Desktop, DialError> {
        self.open(None).await
    }

    /// Dials for a second session beside `beside`, which the relay has asked for.
    pub async fn migrate(&self, beside: SessionId) -> Result<Desktop, DialError> {
        self.open(Some((MIGRATE, beside.to_string()))).await
    }

    /// Gives `session` a new socket. Its streams go on where they were.
    pub async fn resume(&self, session: &Session) -> Result<(), DialError> {
        let told = session.shared().received();
        let (answer, socket, read_ahead) =
            self.upgrade(Some((RESUME, format!("{} {told}", session.id())))).await?;
        if answer.session != session.id() || !session.shared().can_resume(answer.received) {
            return Err(DialError::SessionGone);
        }
        session.shared().post_attach(Attach { socket, read_ahead, told, received: answer.received });
        Ok(())
    }

    async fn open(&self, header: Option<(HeaderName, String)>) -> Result<Desktop, DialError> {
        let (answer, socket, read_ahead) = self.upgrade(header).await?;
        let (shared, tokens) = Shared::new(Terms {
            id: answer.session,
            grace: answer.grace,
            window: answer.window,
            parting: CloseCode::ShuttingDown,
        });
        shared.post_attach(Attach { socket, read_ahead, told: 0, received: 0 });
        let session = Session::new(shared.clone());
        let link = Link::new(Role::Client, shared);
        Ok(Desktop { server: Server { link, session: session.clone(), _tokens: tokens }, session })
    }

    async fn upgrade(
        &self,
        header: Option<(HeaderName, String)>,
    ) -> Result<(answer::Answer, Box<dyn Socket>, Bytes), DialError> {
        let limit = self.config.connect_timeout;
        let timeout = || DialError::Timeout { host: self.host(), after: limit };
        tokio::time::timeout(limit, self.upgrade_untimed(header)).await.map_err(|_| timeout())?
    }

    async fn upgrade_untimed(
        &self,
        header: Option<(HeaderName, String)>,
    ) -> Result<(answer::Answer, Box<dyn Socket>, Bytes), DialError> {
        let relay = &self.config.relay;
        let unreachable = |source| DialError::Unreachable { host: self.host(), source };
        match &self.config.proxy {
            None => {
                let tcp = steps::connect(relay).await.map_err(unreachable)?;
                self.upgrade_over(tcp, header).await
            }
            Some(proxy) => {
                let dialled = proxy.connect(relay.host(), relay.port(), &self.config.tls);
                self.upgrade_over(dialled.await.map_err(unreachable)?, header).await
            }
        }
    }

    async fn upgrade_over<T: Socket>(
        &self,
        socket: T,
        header: Option<(HeaderName, String)>,
    ) -> Result<(answer::Answer, Box<dyn Socket>, Bytes), DialError> {
        let relay = &self.config.relay;
        if !relay.is_tls() {
            return self.shake_hands(socket, header).await;
        }
        let tls = steps::encrypt(relay, &self.config.tls, socket)
            .await
            .map_err(|source| DialError::Tls { host: self.host(), source })?;
        self.shake_hands(tls, header).await
    }

    async fn shake_hands<T: Socket>(
        &self,
        socket: T,
        header: Option<(HeaderName, String)>,
    ) -> Result<(answer::Answer, Box<dyn Socket>, Bytes), DialError> {
        let not_http =
            |_| DialError::NotARelay { host: self.host(), detail: "it does not speak HTTP".to_owned() };
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(not_http)?;
        let mut connection = pin!(connection.with_upgrades().fuse());
        let key = tokio_tungstenite::tungstenite::handshake::client::generate_key();
        let request = self.request(&key, header);
        // The connection makes progress only here, so nothing of it outlives this dial.
        let response = match select(pin!(sender.send_request(request)), connection.as_mut()).await {
            Either::Left((response, _)) => response,
            Either::Right((_, answering)) => answering.await,
        };
        let response = response.map_err(not_http)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let refusal = match select(pin!(answer::refusal(self.host(), response)), connection).await {
                Either::Left((refusal, _)) => refusal,
                Either::Right((_, reading)) => reading.await,
            };
            return Err(refusal);
        }
        let answer = answer::Answer::parse(response.headers(), &key)
            .map_err(|detail| DialError::NotARelay { host: self.host(), detail })?;
        let upgraded = match select(hyper::upgrade::on(response), connection).await {
            Either::Left((upgraded, _)) => upgraded,
            Either::Right((_, upgrading)) => upgrading.await,
        };
        let parts =
            upgraded.map_err(not_http)?.downcast::<TokioIo<T>>().map_err(|_| DialError::NotARelay {
                host: self.host(),
                detail: "the upgrade gave another connection".to_owned(),
            })?;
        Ok((answer, Box::new(parts.io.into_inner()), parts.read_buf))
    }

    fn request(&self, key: &str, header: Option<(HeaderName, String)>) -> Request<Empty<Bytes>> {
        let config = &self.config;
        let mut request = Request::new(Empty::new());
        // Cannot fail: the path of a parsed URL with a constant behind it.
        *request.uri_mut() = config.relay.join(CONNECT_PATH).parse().expect("a URL's path is a path");
        let headers = request.headers_mut();
        let text = |value: &str| HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("invalid"));
        headers.insert(HOST, text(config.relay.authority()));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(WS_VERSION, HeaderValue::from_static("13"));
        headers.insert(WS_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        headers.insert(WS_KEY, text(key));
        let mut bearer = text(&format!("Bearer {}", config.token.expose_secret()));
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(DEVICE, text(config.device.as_str()));
        headers.insert(AGENT, text(&config.agent));
        if let Some((name, value)) = header {
            headers.insert(name, text(&value));
        }
        request
    }

    fn host(&self) -> String {
        self.config.relay.host().to_owned()
    }
}

impl Server {
    /// Longest wait for handlers whose streams were reset.
    const AFTERMATH: Duration = Duration::from_secs(5);

    /// Serves until the session is over, and tells why it is.
    ///
    /// Each request runs in a task of its own, which ends with its stream. Dropping the future resets all of them.
    pub async fn serve<S, B>(self, service: S) -> Closed
    where
        S: hyper::service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let tracker = TaskTracker::new();
        let draining = self.session.shared().draining();
        let mut builder = hyper::server::conn::http2::Builder::new(Tracked(tracker.clone()));
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(settings::STREAM_WINDOW)
            .initial_connection_window_size(settings::CONNECTION_WINDOW)
            .max_frame_size(settings::FRAME)
            .max_header_list_size(settings::HEADER_LIST)
            .max_concurrent_streams(settings::MAX_STREAMS)
            .max_send_buf_size(settings::SEND_BUFFER)
            .max_pending_accept_reset_streams(settings::RESETS)
            .max_local_error_reset_streams(None)
            .enable_connect_protocol()
            // The backend's own date passes; hyper would add a second clock.
            .auto_date_header(false);
        {
            let mut connection = pin!(builder.serve_connection(self.link, service));
            tokio::select! {
                _ = connection.as_mut() => {}
                () = draining.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ended = connection.await;
                }
            }
        }
        tracker.close();
        // Each handler sees its stream's reset; one that does not look is left to its own limits.
        let _late = tokio::time::timeout(Self::AFTERMATH, tracker.wait()).await;
        let closed = self.session.closed().await;
        self.session.shared().linger().await;
        closed
    }
}

/// Runs hyper's stream tasks where they can be waited for.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
