//! A scripted model server: Ollama's and OpenAI's API on real TCP, with the faults and the clock that tests need.
//!
//! It answers in the shapes that a real Ollama 0.12 was seen to use. What one request gets beyond that is told by a
//! [`script::Script`] in the header [`script::HEADER`], which a tunnel that passes end-to-end headers on delivers.

mod answer;
pub(crate) mod script;
mod watched;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use http::{HeaderMap, Method, Request, Uri};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{script::Script, watched::Watched};
use crate::{
    ports,
    wait::{eventually, poll_until},
};

/// The model that a scripted backend has unless told otherwise.
pub const MODEL: &str = "scripted:1b";

/// Which API a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// `/api/*` and `/v1/*`, as Ollama does.
    Ollama,
    /// `/v1/*` alone.
    OpenAi,
}

/// What a scripted backend is to be.
#[derive(Clone, Debug)]
pub struct FakeBackendOptions {
    /// Default: Ollama's.
    pub flavor: Flavor,
    /// Names of its models. Default: [`MODEL`] alone.
    pub models: Vec<String>,
    /// Default: a free one.
    pub port: Option<u16>,
}

impl Default for FakeBackendOptions {
    fn default() -> Self {
        Self { flavor: Flavor::Ollama, models: vec![MODEL.to_owned()], port: None }
    }
}

/// A running scripted backend. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct FakeBackend {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    alive: Mutex<CancellationToken>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    options: FakeBackendOptions,
    addr: SocketAddr,
    accepted: AtomicUsize,
    open: AtomicUsize,
    /// What each request was, in the order of arrival; what a health probe asks is not among them.
    log: Mutex<Vec<Arc<Exchange>>>,
    named: Mutex<HashMap<String, Arc<Exchange>>>,
    probes: AtomicUsize,
    loading: AtomicBool,
}

/// One TCP connection that was made to the backend.
#[derive(Debug)]
pub struct Connection {
    opened: Instant,
    closed: OnceLock<Instant>,
    requests: AtomicUsize,
    reset: AtomicBool,
}

impl Connection {
    /// When it was accepted.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// When the backend saw it closed.
    pub fn closed(&self) -> Option<Instant> {
        self.closed.get().copied()
    }

    /// How many requests came on it.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// One request and what became of it.
#[derive(Debug)]
pub struct Exchange {
    /// Its method.
    pub method: Method,
    /// Its target, byte for byte.
    pub target: Uri,
    /// Its headers as they came.
    pub headers: HeaderMap,
    /// What it was to be answered with.
    pub script: Script,
    /// The connection that it came on.
    pub connection: Arc<Connection>,
    /// When its head had arrived.
    pub arrived: Instant,
    received_bytes: AtomicU64,
    sent_chunks: AtomicU64,
    ended: OnceLock<(Instant, bool)>,
}

impl Exchange {
    /// Bytes of the request body that arrived so far.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Chunks of the response body that were handed to the connection so far.
    pub fn sent_chunks(&self) -> u64 {
        self.sent_chunks.load(Ordering::Relaxed)
    }

    /// When the answer was complete, or was dropped because the peer had gone.
    pub fn ended(&self) -> Option<Instant> {
        self.ended.get().map(|(at, _)| *at)
    }

    /// Tells whether the whole answer was handed to the connection.
    pub fn completed(&self) -> bool {
        self.ended.get().is_some_and(|(_, completed)| *completed)
    }

    /// Waits until the backend sees this request's connection closed, and returns when that was.
    pub async fn connection_closed(&self, limit: Duration) -> Result<Instant> {
        poll_until("the backend's connection is closed", limit, async || self.connection.closed()).await
    }

    fn end(&self, completed: bool) {
        // The first to come decides: a body that was completed is dropped afterwards.
        let _ = self.ended.set((Instant::now(), completed));
    }
}

impl FakeBackend {
    /// Starts one that speaks Ollama's API and has [`MODEL`].
    pub async fn ollama() -> Result<Self> {
        Self::start(FakeBackendOptions::default()).await
    }

    /// Starts one that speaks OpenAI's API alone and has this model.
    pub async fn openai(model: &str) -> Result<Self> {
        let options = FakeBackendOptions {
            flavor: Flavor::OpenAi,
            models: vec![model.to_owned()],
            ..FakeBackendOptions::default()
        };
        Self::start(options).await
    }

    /// Starts what the options say, on 127.0.0.1.
    pub async fn start(options: FakeBackendOptions) -> Result<Self> {
        let port = match options.port {
            Some(port) => port,
            None => ports::free()?,
        };
        let backend = Self {
            shared: Arc::new(Shared {
                options,
                addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                accepted: AtomicUsize::default(),
                open: AtomicUsize::default(),
                log: Mutex::default(),
                named: Mutex::default(),
                probes: AtomicUsize::default(),
                loading: AtomicBool::default(),
            }),
            tasks: TaskTracker::new(),
            alive: Mutex::default(),
        };
        backend.revive().await?;
        Ok(backend)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Its address as a base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.addr)
    }

    /// Closes the listener and all connections at once, as the end of its process would.
    pub async fn crash(&self) -> Result<()> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).cancel();
        eventually("the backend is gone", Duration::from_secs(5), async || self.open_connections() == 0)
            .await?;
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
        Ok(())
    }

    /// Listens again after [`Self::crash`], on the same port.
    pub async fn revive(&self) -> Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.shared.addr).with_context(|| format!("binding {}", self.shared.addr))?;
        let listener = socket.listen(4096)?;
        let alive = CancellationToken::new();
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = alive.clone();
        self.tasks.spawn(accept(listener, Arc::clone(&self.shared), self.tasks.clone(), alive));
        // The kernel listens already; this yields to the accepting task.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// From now on, or no longer, it answers everything as llama.cpp's server does while it loads its model: 503, the
    /// list of models and the health path among it.
    pub fn set_loading(&self, loading: bool) {
        self.shared.loading.store(loading, Ordering::Relaxed);
    }

    /// Number of connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Number of connections that were ever made.
    pub fn accepted_connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Number of requests without a script that only ask for what is there (version, models): mostly probes.
    pub fn probes(&self) -> usize {
        self.shared.probes.load(Ordering::Relaxed)
    }

    /// All requests but the probes, in the order of their arrival.
    pub fn requests(&self) -> Vec<Arc<Exchange>> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The request whose script has this id, if it has arrived.
    pub fn request(&self, id: &str) -> Option<Arc<Exchange>> {
        self.shared.named.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Waits for the request whose script has this id.
    pub async fn arrival(&self, id: &str, limit: Duration) -> Result<Arc<Exchange>> {
        let what = format!("the backend gets the request {id}");
        poll_until(&what, limit, async || self.request(id)).await
    }
}

impl Drop for FakeBackend {
    fn drop(&mut self) {
        self.alive.get_mut().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker, alive: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = alive.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors: the next one may find some.
                Err(_) => { tokio::time::sleep(Duration::from_millis(10)).await; continue }
            },
        };
        // Without it the last bytes of a token wait for the peer's delayed acknowledgement.
        drop(stream.set_nodelay(true));
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        shared.open.fetch_add(1, Ordering::SeqCst);
        let connection = Arc::new(Connection {
            opened: Instant::now(),
            closed: OnceLock::new(),
            requests: AtomicUsize::default(),
            reset: AtomicBool::default(),
        });
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&connection), Arc::clone(&shared)));
        let (shared, alive) = (Arc::clone(&shared), alive.clone());
        tasks.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let exchange = shared.record(&request, &connection);
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer::answer(&shared, exchange, request).await) }
            });
            let serve = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
            tokio::select! {
                () = alive.cancelled() => {}
                // A peer that hung up is what many tests do; the connection's record tells.
                result = serve => drop(result),
            }
        });
    }
}

impl Shared {
    fn record(&self, request: &Request<Incoming>, connection: &Arc<Connection>) -> Arc<Exchange> {
        connection.requests.fetch_add(1, Ordering::Relaxed);
        let script = Script::of(request.headers());
        let exchange = Arc::new(Exchange {
            method: request.method().clone(),
            target: request.uri().clone(),
            headers: request.headers().clone(),
            script: script.clone().unwrap_or_default(),
            connection: Arc::clone(connection),
            arrived: Instant::now(),
            received_bytes: AtomicU64::default(),
            sent_chunks: AtomicU64::default(),
            ended: OnceLock::new(),
        });
        let listing = matches!(
            request.uri().path(),
            "/" | "/api/version" | "/api/tags" | "/api/ps" | "/v1/models" | "/health"
        );
        if listing && script.is_none() {
            self.probes.fetch_add(1, Ordering::Relaxed);
            return exchange;
        }
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&exchange));
        if let Some(id) = script.and_then(|script| script.id) {
            self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&exchange));
        }
        exchange
    }
}
