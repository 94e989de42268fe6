//! A scripted model server on a real socket, and a broker beside it.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tunnel_broker::{BackendConfig, BackendKind, BackendState, Body, Broker, BrokerConfig, Ingress};

pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Waits for a condition; fails when it does not come true soon.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + SOON;
    while !holds() {
        assert!(tokio::time::Instant::now() < limit, "not soon: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A request that has arrived at a fake backend, up to the end of its headers.
pub(crate) struct Exchange {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) stream: TcpStream,
    /// What has been read of the body.
    pub(crate) buffer: BytesMut,
}

impl Exchange {
    async fn read(mut stream: TcpStream, mut buffer: BytesMut) -> Option<Self> {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(buffer.split_to(end).to_vec()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let mut first = lines.next().unwrap().split(' ').map(str::to_owned);
        let (method, target) = (first.next().unwrap(), first.next().unwrap());
        let header =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        let headers = lines.filter_map(header).collect();
        Some(Self { method, target, headers, stream, buffer })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Reads a body of known length, or a chunked one as it is on the wire.
    pub(crate) async fn body(&mut self) -> Bytes {
        if let Some(length) = self.header("content-length").map(|l| l.parse::<usize>().unwrap()) {
            while self.buffer.len() < length {
                assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "body cut short");
            }
            return self.buffer.split_to(length).freeze();
        }
        if self.header("transfer-encoding") == Some("chunked") {
            let over = |b: &[u8]| b.windows(3).any(|w| w == b"0\r\n") && b.ends_with(b"\r\n\r\n");
            while !over(&self.buffer) {
                assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "body cut short");
            }
            return self.buffer.split().freeze();
        }
        Bytes::new()
    }

    pub(crate) async fn write(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    /// Answers with a body of known length.
    pub(crate) async fn answer(&mut self, status: u16, content_type: &str, body: &str) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
        );
        self.write(format!("{head}{body}")).await;
    }

    pub(crate) async fn json(&mut self, body: &str) {
        self.answer(200, "application/json", body).await;
    }

    pub(crate) async fn chunk(&mut self, data: &str) {
        self.write(format!("{:x}\r\n{data}\r\n", data.len())).await;
    }

    /// Closes with a reset rather than with an end.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(self.stream);
    }

    /// Waits until the other end has closed the connection.
    pub(crate) async fn closed(&mut self) {
        let mut rest = [0; 65536];
        let end = async {
            loop {
                match self.stream.read(&mut rest).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(1), end).await.expect("not closed within 1 s");
    }
}

pub(crate) type Answer = Pin<Box<dyn Future<Output = Option<Exchange>> + Send>>;
type Script = Arc<dyn Fn(Exchange) -> Answer + Send + Sync>;

/// A model server. Answers probes by itself, and the rest by its script.
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    pub(crate) shared: Arc<FakeShared>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

pub(crate) struct FakeShared {
    pub(crate) mood: Mutex<Mood>,
    /// The models listed; `None`: probes are answered 500.
    pub(crate) models: Mutex<Option<Vec<String>>>,
    /// Connections accepted so far.
    pub(crate) accepted: AtomicUsize,
    /// Connections that are open.
    pub(crate) open: AtomicUsize,
    /// Requests that the script got.
    pub(crate) requests: AtomicUsize,
    pub(crate) probes: AtomicUsize,
    /// Whether the script answers probes, too.
    bare: AtomicBool,
}

/// How a fake treats probes and requests alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// Takes everything, and says nothing until it is well again.
    Frozen,
    /// Answers all like llama.cpp while it loads its model.
    Loading,
    /// Answers all with 401.
    Locked,
}

impl Fake {
    /// Starts a server with `models`. The script returns the exchange in order to keep the connection.
    pub(crate) async fn start<F>(
        models: &[&str],
        script: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Option<Exchange>> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0", models, script).await
    }

    pub(crate) async fn start_at<F>(
        addr: &str,
        models: &[&str],
        script: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Option<Exchange>> + Send + 'static,
    {
        Self::start_on(TcpListener::bind(addr).await.unwrap(), models, script)
    }

    pub(crate) fn start_on<F>(
        listener: TcpListener,
        models: &[&str],
        script: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Option<Exchange>> + Send + 'static,
    {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(FakeShared {
            mood: Mutex::new(Mood::Well),
            models: Mutex::new(Some(models.iter().map(|m| (*m).to_owned()).collect())),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            bare: AtomicBool::new(false),
        });
        let script: Script = Arc::new(move |exchange| Box::pin(script(exchange)));
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let accepting = {
            let (shared, stop, tracker) = (Arc::clone(&shared), stop.clone(), tracker.clone());
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    shared.accepted.fetch_add(1, Ordering::SeqCst);
                    let serving = serve(stream, Arc::clone(&shared), Arc::clone(&script));
                    tracker.spawn(stop.clone().run_until_cancelled_owned(serving));
                }
            }
        };
        tracker.spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self { addr, shared, stop, tracker }
    }

    /// A server whose script answers everything.
    pub(crate) async fn bare<F>(script: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Option<Exchange>> + Send + 'static,
    {
        let fake = Self::start(&[], script).await;
        fake.shared.bare.store(true, Ordering::SeqCst);
        fake
    }

    /// A server that answers each request with its own name and the request's target and body.
    pub(crate) async fn echo(name: &'static str, models: &[&str]) -> Self {
        Self::start(models, move |mut exchange| async move {
            let body = exchange.body().await;
            let body = String::from_utf8_lossy(&body).into_owned();
            let echo = serde_json::json!({ "by": name, "target": exchange.target, "body": body });
            exchange.json(&echo.to_string()).await;
            Some(exchange)
        })
        .await
    }

    /// A server whose exchanges the test scripts one by one.
    pub(crate) async fn manual(models: &[&str]) -> (Self, mpsc::Receiver<Exchange>) {
        let (tx, rx) = mpsc::channel(64);
        let fake = Self::start(models, move |exchange| {
            let tx = tx.clone();
            async move {
                tx.send(exchange).await.ok();
                None
            }
        })
        .await;
        (fake, rx)
    }

    pub(crate) fn config(&self, id: &str, kind: BackendKind) -> BackendConfig {
        BackendConfig::new(id, kind, format!("http://{}", self.addr).parse().unwrap())
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn set_models(&self, models: &[&str]) {
        *self.shared.models.lock().unwrap() = Some(models.iter().map(|m| (*m).to_owned()).collect());
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    pub(crate) fn fail_probes(&self) {
        *self.shared.models.lock().unwrap() = None;
    }

    /// Closes all connections and the port.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Open(Arc<FakeShared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(stream: TcpStream, shared: Arc<FakeShared>, script: Script) {
    shared.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(Arc::clone(&shared));
    let mut next = Exchange::read(stream, BytesMut::new()).await;
    while let Some(mut exchange) = next {
        let mood = || *shared.mood.lock().unwrap();
        while mood() == Mood::Frozen {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let bare = shared.bare.load(Ordering::SeqCst);
        let is_probe = exchange.method == "GET" && is_probe(&exchange.target) && !bare;
        if mood() == Mood::Loading {
            let count = if is_probe { &shared.probes } else { &shared.requests };
            count.fetch_add(1, Ordering::SeqCst);
            exchange.body().await;
            exchange.answer(503, "application/json; charset=utf-8", LOADING).await;
        } else if mood() == Mood::Locked {
            exchange.body().await;
            exchange.answer(401, "application/json", r#"{"error":"unauthorized"}"#).await;
        } else if is_probe {
            shared.probes.fetch_add(1, Ordering::SeqCst);
            let models = shared.models.lock().unwrap().clone();
            match models {
                Some(models) => exchange.probe(&models).await,
                None => exchange.answer(500, "text/plain", "no").await,
            }
        } else {
            shared.requests.fetch_add(1, Ordering::SeqCst);
            match script(exchange).await {
                Some(kept) => exchange = kept,
                None => return,
            }
        }
        next = Exchange::read(exchange.stream, exchange.buffer).await;
    }
}

/// What llama.cpp's server says until its model is in memory.
pub(crate) const LOADING: &str =
    r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;

fn is_probe(target: &str) -> bool {
    matches!(target, "/api/version" | "/api/tags" | "/api/ps" | "/v1/models" | "/health")
}

impl Exchange {
    async fn probe(&mut self, models: &[String]) {
        let list =
            |member: &dyn Fn(&String) -> serde_json::Value| models.iter().map(member).collect::<Vec<_>>();
        let answer = match self.target.as_str() {
            "/api/version" => serde_json::json!({ "version": "0.12.0" }),
            "/api/tags" => {
                let tag = |m: &String| {
                    serde_json::json!({ "name": m, "model": m, "size": 7, "digest": "d", "details": { "format": "gguf" },
                        "modified_at": "2026-11-21T09:56:48.275999716Z" })
                };
                serde_json::json!({ "models": list(&tag) })
            }
            "/api/ps" => {
                let first =
                    models.first().map(|m| serde_json::json!({ "name": m, "model": m, "size_vram": 0 }));
                serde_json::json!({ "models": first.into_iter().collect::<Vec<_>>() })
            }
            "/v1/models" => {
                let object = |m: &String| serde_json::json!({ "id": m, "object": "model", "created": 1, "owned_by": "me" });
                serde_json::json!({ "object": "list", "data": list(&object) })
            }
            _ => return self.answer(404, "text/plain", "no such page").await,
        };
        self.json(&answer.to_string()).await;
    }
}

/// A broker whose probers end with it.
pub(crate) struct Bench {
    pub(crate) broker: Broker,
    _stop: DropGuard,
}

pub(crate) fn settings(backends: Vec<BackendConfig>) -> BrokerConfig {
    BrokerConfig {
        backends,
        connect_timeout: Duration::from_secs(2),
        first_byte_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        retry_delay: Duration::from_millis(100),
        ..BrokerConfig::default()
    }
}

pub(crate) fn start(config: BrokerConfig) -> Bench {
    let stop = CancellationToken::new();
    let broker = Broker::start(config, &TaskTracker::new(), stop.clone());
    Bench { broker, _stop: stop.drop_guard() }
}

pub(crate) fn ollama(fake: &Fake, id: &str) -> BackendConfig {
    fake.config(id, BackendKind::Ollama)
}

pub(crate) fn openai(fake: &Fake, id: &str) -> BackendConfig {
    fake.config(id, BackendKind::OpenAi)
}

pub(crate) fn weight(mut config: BackendConfig, weight: u32) -> BackendConfig {
    config.weight = NonZeroU32::new(weight).unwrap();
    config
}

pub(crate) fn request(method: Method, target: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(target).body(Full::new(body.into())).unwrap()
}

pub(crate) fn post(target: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    request(Method::POST, target, body)
}

pub(crate) fn get(target: &str) -> Request<Full<Bytes>> {
    request(Method::GET, target, "")
}

pub(crate) fn chat(model: &str) -> Request<Full<Bytes>> {
    post("/api/chat", serde_json::json!({ "model": model }).to_string())
}

impl Bench {
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Body> {
        self.send_from(Ingress::Local, request).await
    }

    pub(crate) async fn send_from(&self, ingress: Ingress, request: Request<Full<Bytes>>) -> Response<Body> {
        tokio::time::timeout(SOON * 2, self.broker.handle(ingress, request)).await.expect("no response soon")
    }

    /// Returns the status and the body.
    pub(crate) async fn text(&self, request: Request<Full<Bytes>>) -> (StatusCode, String) {
        let response = self.send(request).await;
        (response.status(), text(response).await)
    }

    pub(crate) async fn json(&self, request: Request<Full<Bytes>>) -> serde_json::Value {
        let (status, text) = self.text(request).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Which fake answered.
    pub(crate) async fn by(&self, request: Request<Full<Bytes>>) -> String {
        self.json(request).await["by"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn state(&self, id: &str, state: BackendState) {
        eventually(&format!("{id} {state:?}"), || {
            self.broker.snapshot().iter().any(|status| status.id == id && status.state == state)
        })
        .await;
    }
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let body = tokio::time::timeout(SOON * 2, response.into_body().collect()).await.expect("no end soon");
    String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap()
}

/// Reads frames as text until the end; true when the end is an error.
pub(crate) async fn to_the_end(mut body: Body) -> (String, bool) {
    let mut all = String::new();
    loop {
        match tokio::time::timeout(SOON * 2, body.frame()).await.expect("no frame soon") {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    all.push_str(std::str::from_utf8(&data).unwrap());
                }
            }
            Some(Err(_)) => return (all, true),
            None => return (all, false),
        }
    }
}

/// Returns the next frame of a body as text.
pub(crate) async fn next_text(body: &mut Body) -> String {
    let frame = tokio::time::timeout(SOON, body.frame()).await.expect("no frame soon").expect("body ended");
    String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap()
}

pub(crate) async fn arrival(rx: &mut mpsc::Receiver<Exchange>) -> Exchange {
    tokio::time::timeout(SOON, rx.recv()).await.expect("no request soon").unwrap()
}

/// Sends a request while the test plays the backend.
pub(crate) fn spawn_send(
    bench: &Bench,
    ingress: Ingress,
    request: Request<Full<Bytes>>,
) -> tokio_util::task::AbortOnDropHandle<Response<Body>> {
    let broker = bench.broker.clone();
    let task = TaskTracker::new().spawn(async move { broker.handle(ingress, request).await });
    tokio_util::task::AbortOnDropHandle::new(task)
}
