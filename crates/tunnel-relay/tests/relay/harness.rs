//! A relay in this process, desktops that serve a script, and callers that look closely.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_relay::auth::{Grant, LocalIssuer, Scopes};
use tunnel_relay::{Relay, RelayConfig, Settings};
use tunnel_transport::{Closed, Connector, ConnectorConfig, Desktop, DialError, RelayUrl, Session};

/// Longest wait for anything that must happen. On a busy machine things take their time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Pieces of 16 KiB in the answer of `/big`: more than all buffers on the way take.
pub(crate) const BIG_FRAMES: usize = 2_048;

/// A relay with its own data directory.
pub(crate) struct TestRelay {
    pub(crate) relay: Option<Relay>,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) issuer: LocalIssuer,
    _data: tempfile::TempDir,
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl TestRelay {
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default(), Duration::from_secs(20)).await
    }

    pub(crate) async fn with(settings: Settings, grace: Duration) -> Self {
        Self::behind_balancer(settings, grace, Duration::ZERO).await
    }

    /// A relay that gives a balancer so long to notice what its readiness says.
    pub(crate) async fn behind_balancer(settings: Settings, grace: Duration, drain_notice: Duration) -> Self {
        Self::started(settings, grace, drain_notice, None).await
    }

    /// Starts one that follows this file.
    pub(crate) async fn following(file: PathBuf) -> Self {
        let settings = Settings::load(&file).unwrap();
        Self::started(settings, Duration::from_secs(20), Duration::ZERO, Some(file)).await
    }

    async fn started(
        settings: Settings,
        grace: Duration,
        drain_notice: Duration,
        settings_file: Option<PathBuf>,
    ) -> Self {
        let data = tempfile::tempdir().unwrap();
        let data_dir = data.path().join("relay");
        let relay = Relay::start(RelayConfig {
            listen: "127.0.0.1:0".into(),
            admin_listen: "127.0.0.1:0".into(),
            data_dir: data_dir.clone(),
            grace,
            drain_notice,
            settings,
            settings_file,
        })
        .await
        .unwrap();
        Self {
            addr: relay.listen_addr(),
            admin: relay.admin_addr(),
            issuer: LocalIssuer::open(&data_dir).unwrap(),
            relay: Some(relay),
            _data: data,
        }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self._data.path().join("relay")
    }

    pub(crate) fn relay(&self) -> &Relay {
        self.relay.as_ref().unwrap()
    }

    /// Waits for the end of a relay that was told to end.
    pub(crate) async fn ended(&mut self) {
        let relay = self.relay.take().unwrap();
        timeout(PATIENCE, relay.wait()).await.expect("the relay ends");
    }

    pub(crate) fn token(&self, subject: &str, scope: &str) -> String {
        self.token_for(subject, scope, None, now(), 3_600)
    }

    pub(crate) fn token_for(
        &self,
        subject: &str,
        scope: &str,
        device: Option<&str>,
        issued: u64,
        ttl: u64,
    ) -> String {
        let grant = Grant {
            subject: subject.into(),
            scopes: Scopes::parse(scope),
            device: device.map(|name| name.parse().unwrap()),
            models: None,
            tier: None,
            ttl: Duration::from_secs(ttl),
        };
        self.issuer.issue(&grant, issued).unwrap()
    }

    /// Makes a token of a tier.
    pub(crate) fn token_of_tier(&self, subject: &str, tier: &str) -> String {
        let grant = Grant {
            subject: subject.into(),
            scopes: Scopes::parse("inference"),
            device: None,
            models: None,
            tier: Some(tier.into()),
            ttl: Duration::from_secs(3_600),
        };
        self.issuer.issue(&grant, now()).unwrap()
    }

    pub(crate) fn connector(&self, token: &str, device: &str) -> Connector {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        Connector::new(ConnectorConfig {
            relay: RelayUrl::parse(&format!("http://{}", self.addr)).unwrap(),
            device: device.parse().unwrap(),
            token: token.to_owned().into(),
            agent: "test/1".into(),
            connect_timeout: PATIENCE,
            tls: Arc::new(tls),
            proxy: None,
        })
    }

    /// Dials as a device of `subject` and serves [`script`].
    pub(crate) async fn desk(&self, subject: &str, device: &str) -> Desk {
        let connector = self.connector(&self.token(subject, "tunnel"), device);
        Desk::new(self, connector.dial().await.unwrap()).await
    }

    /// Sends a request with a token of `subject`.
    pub(crate) async fn call(&self, subject: &str, request: http::request::Builder) -> Response<Incoming> {
        let token = self.token(subject, "inference");
        self.send(request.header("authorization", format!("Bearer {token}")), Bytes::new()).await
    }

    /// Sends a request as it is, on a connection of its own.
    pub(crate) async fn send(&self, request: http::request::Builder, body: Bytes) -> Response<Incoming> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::Builder::new().handshake(TokioIo::new(stream)).await.unwrap();
        let request = request.header("host", "relay.test").body(Full::new(body)).unwrap();
        let mut driving = JoinSet::new();
        driving.spawn(async move { connection.with_upgrades().await.ok() });
        let response =
            timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time").unwrap();
        // The connection goes on as long as the test's runtime does.
        driving.detach_all();
        response
    }

    pub(crate) async fn admin_get(&self, path: &str, accept: &str) -> (StatusCode, HeaderMap, String) {
        let stream = TcpStream::connect(self.admin).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        let request = Request::get(path).header("host", "admin").header("accept", accept);
        let response = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Reads one sample of the metrics page.
    pub(crate) async fn metric(&self, sample: &str) -> u64 {
        let (_, _, page) = self.admin_get("/metrics", "*/*").await;
        let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

/// A desktop that serves [`script`].
pub(crate) struct Desk {
    pub(crate) session: Session,
    pub(crate) seen: Arc<Seen>,
    serving: JoinSet<Closed>,
}

/// What a desktop has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) paths: Mutex<Vec<String>>,
    pub(crate) dropped: AtomicUsize,
    /// What it says when it is asked for its models. None: it is too old to know the question.
    pub(crate) presence: Mutex<Option<String>>,
    /// What it answers with 200 under a path.
    pub(crate) answers: Mutex<std::collections::HashMap<String, String>>,
    /// Bodies that came in full.
    pub(crate) bodies: Mutex<Vec<Bytes>>,
    /// Whether it agrees to move.
    pub(crate) moves: AtomicBool,
    /// Whether it has: then it says so when it is asked again.
    pub(crate) moved: AtomicBool,
    /// Lets held responses go on.
    pub(crate) release: Notify,
}

impl Desk {
    pub(crate) async fn new(relay: &TestRelay, desktop: Desktop) -> Self {
        Self::saying(relay, desktop, Seen::default()).await
    }

    /// The same, with what it is to say.
    pub(crate) async fn saying(relay: &TestRelay, desktop: Desktop, seen: Seen) -> Self {
        let Desktop { session, server } = desktop;
        let seen = Arc::new(seen);
        let served = Arc::clone(&seen);
        let mut serving = JoinSet::new();
        serving.spawn(server.serve(service_fn(move |request| script(request, Arc::clone(&served)))));
        let desk = Self { session, seen, serving };
        eventually("the relay knows the session", async || relay.relay().sessions() > 0).await;
        desk
    }

    pub(crate) async fn closed(&mut self) -> Closed {
        timeout(PATIENCE, self.serving.join_next()).await.expect("the session ends").unwrap().unwrap()
    }

    /// Waits until the relay has asked this desktop to move.
    pub(crate) async fn asked_to_move(&self) {
        eventually("the desktop is asked to move", async || {
            self.seen.paths.lock().unwrap().iter().any(|path| path == tunnel_transport::MIGRATE_PATH)
        })
        .await;
    }

    /// Ends as a process that is killed: nobody says goodbye on purpose.
    pub(crate) fn kill(mut self) {
        self.serving.abort_all();
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

/// A response body that follows a script.
pub(crate) struct Script {
    frames: VecDeque<Bytes>,
    end: End,
    seen: Arc<Seen>,
    released: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Finish,
    Hang,
    /// Breaks when the test says so.
    Fail,
    /// One more frame when the test says so, then the end.
    Held,
    /// One more frame when the test says so, then nothing.
    HeldThenHang,
}

impl Body for Script {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        match self.end {
            End::Finish => {
                self.ended = true;
                Poll::Ready(None)
            }
            End::Hang => Poll::Pending,
            End::Held | End::HeldThenHang | End::Fail => {
                let seen = Arc::clone(&self.seen);
                let released = self
                    .released
                    .get_or_insert_with(|| Box::pin(async move { seen.release.notified().await }));
                std::task::ready!(released.as_mut().poll(cx));
                if self.end == End::Fail {
                    return Poll::Ready(Some(Err(std::io::Error::other("the backend broke"))));
                }
                self.end = if self.end == End::Held { End::Finish } else { End::Hang };
                Poll::Ready(Some(Ok(Frame::data("data: last\n\n".into()))))
            }
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if !self.ended {
            self.seen.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Counts a handler that is dropped before it has answered.
struct Handling(Option<Arc<Seen>>);

impl Drop for Handling {
    fn drop(&mut self) {
        if let Some(seen) = &self.0 {
            seen.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// What a desktop says of its models: what its test has it say, and then nothing more; without that it is an old one.
fn presence(seen: &Arc<Seen>) -> Response<Script> {
    let said = seen.presence.lock().unwrap().clone();
    let (status, frames) = match said {
        Some(lines) => (200, [Bytes::from(lines)].into()),
        None => (404, VecDeque::new()),
    };
    let end = if status == 200 { End::Hang } else { End::Finish };
    let script = Script { frames, end, seen: Arc::clone(seen), released: None, ended: true };
    Response::builder().status(status).header("content-type", "application/x-ndjson").body(script).unwrap()
}

/// What the desktops of these tests answer.
async fn script(request: Request<Incoming>, seen: Arc<Seen>) -> Result<Response<Script>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    if head.uri.path() == tunnel_transport::PRESENCE_PATH {
        return Ok(presence(&seen));
    }
    seen.paths.lock().unwrap().push(path.clone());
    let mut handling = Handling(Some(Arc::clone(&seen)));
    let answer = |status: u16, content_type: &str, frames: &[&str], end: End| {
        let frames = frames.iter().map(|frame| Bytes::copy_from_slice(frame.as_bytes())).collect();
        let script = Script { frames, end, seen: Arc::clone(&seen), released: None, ended: false };
        Response::builder().status(status).header("content-type", content_type).body(script).unwrap()
    };
    let response = match head.uri.path() {
        "/sse/broken" => answer(200, "text/event-stream", &["data: one\n\n"], End::Fail),
        "/sse/hang" => answer(200, "text/event-stream", &["data: one\n\n"], End::Hang),
        "/sse/held" => answer(200, "text/event-stream", &["data: one\n\n"], End::Held),
        "/sse/late" => answer(200, "text/event-stream", &[], End::HeldThenHang),
        "/ndjson/broken" => answer(200, "application/x-ndjson", &["{\"half\":"], End::Fail),
        "/plain/broken" => answer(200, "text/plain", &["some"], End::Fail),
        "/big" => {
            let frame = "x".repeat(16 * 1024);
            answer(200, "application/octet-stream", &vec![frame.as_str(); BIG_FRAMES], End::Finish)
        }
        "/empty" => answer(204, "text/plain", &[], End::Finish),
        "/never" => std::future::pending().await,
        tunnel_transport::MIGRATE_PATH if seen.moved.load(Ordering::SeqCst) => {
            answer(200, "text/plain", &[], End::Finish)
        }
        tunnel_transport::MIGRATE_PATH if seen.moves.load(Ordering::SeqCst) => {
            answer(202, "text/plain", &[], End::Finish)
        }
        tunnel_transport::MIGRATE_PATH => answer(503, "text/plain", &[], End::Finish),
        _ => {
            let scripted = seen.answers.lock().unwrap().get(head.uri.path()).cloned();
            if let Some(text) = scripted {
                handling.0 = None;
                return Ok(answer(200, "application/json", &[&text], End::Finish));
            }
            let body = match body.collect().await {
                Ok(body) => {
                    let body = body.to_bytes();
                    seen.bodies.lock().unwrap().push(body.clone());
                    body.len()
                }
                Err(_) => 0,
            };
            let headers: Value = head
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap_or("?"))))
                .collect::<serde_json::Map<_, _>>()
                .into();
            let echo =
                json!({"method": head.method.as_str(), "path": path, "headers": headers, "body": body});
            let mut response = answer(200, "application/json", &[&echo.to_string()], End::Finish);
            response.headers_mut().insert("connection", "x-hop".parse().unwrap());
            response.headers_mut().insert("x-kept", "1".parse().unwrap());
            response
        }
    };
    handling.0 = None;
    Ok(response)
}

/// Reads a response body to its end; `Err` holds what came before it broke off.
pub(crate) async fn read(response: Response<Incoming>) -> Result<String, String> {
    read_and(response, || {}).await
}

/// The same, with something to do when the first bytes have come.
pub(crate) async fn read_and(response: Response<Incoming>, then: impl FnOnce()) -> Result<String, String> {
    let mut then = Some(then);
    let mut body = response.into_body();
    let mut text = Vec::new();
    let reading = async {
        loop {
            match body.frame().await {
                Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(_)) => return Err(()),
                None => return Ok(()),
            }
            if let Some(then) = then.take() {
                then();
            }
        }
    };
    let ended = timeout(PATIENCE, reading).await.expect("the body ends");
    let text = String::from_utf8(text).unwrap();
    ended.map(|()| text.clone()).map_err(|()| text)
}

pub(crate) async fn json_of(response: Response<Incoming>) -> Value {
    serde_json::from_str(&read(response).await.unwrap()).unwrap()
}

/// Sends raw bytes and reads until the relay closes. `Err` is a connection that was reset.
pub(crate) async fn raw(
    addr: SocketAddr,
    request: &str,
    mut then: impl FnMut(&str),
) -> Result<String, String> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut piece = [0; 4096];
    loop {
        match timeout(PATIENCE, stream.read(&mut piece)).await.expect("the relay closes") {
            Ok(0) => return Ok(text),
            Ok(n) => text.push_str(&String::from_utf8_lossy(&piece[..n])),
            Err(_) => return Err(text),
        }
        then(&text);
    }
}

pub(crate) fn is_replaced(error: &DialError) -> bool {
    matches!(error, DialError::Replaced { .. })
}
