//! A relay as a whole: started, drained, ended.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::{Method, Request};
use http_body_util::Empty;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};
use tunnel_transport::{Acceptor, AcceptorConfig, MIGRATE_PATH};

use crate::admin;
use crate::audit::AuditLog;
use crate::auth::authority::Authority;
use crate::auth::{IssuerError, LocalIssuer};
use crate::config::Settings;
use crate::limits::Limits;
use crate::listener::{self, AddressCaps, ListenError};
use crate::metrics::Metrics;
use crate::registry::{Registry, Tunnel, restarting};
use crate::tls::{self, Tls, TlsError, TlsStatus};

/// What a relay needs to know to start.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// `HOST:PORT` for callers and desktops; port 0 takes a free one.
    pub listen: String,
    /// `HOST:PORT` for operators: `/livez`, `/readyz`, `/metrics`.
    pub admin_listen: String,
    /// Where the signing key lies; made with mode 0700 when missing.
    pub data_dir: PathBuf,
    /// How long running streams may go on after [`Relay::shutdown`]. Default of the program: 30 s.
    pub grace: Duration,
    /// Limits, times, issuers and the like.
    pub settings: Settings,
    /// Where they came from: read anew on SIGHUP and when it changes. None: they stay.
    pub settings_file: Option<PathBuf>,
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The signing key cannot be used.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// TLS is asked for and cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A socket does not say where it listens.
    #[error("could not read the address of a listening socket")]
    Address(#[source] std::io::Error),
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    listen_addr: SocketAddr,
    admin_addr: SocketAddr,
    tasks: JoinSet<()>,
}

/// What all parts of a relay use.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) authority: Authority,
    /// Signs keys for apps.
    pub(crate) issuer: LocalIssuer,
    pub(crate) limits: Limits,
    pub(crate) audit: AuditLog,
    pub(crate) registry: Registry,
    pub(crate) acceptor: Acceptor,
    pub(crate) tls: Tls,
    pub(crate) address_caps: AddressCaps,
    /// Those in force.
    settings: ArcSwap<Settings>,
    pub(crate) metrics: Arc<Metrics>,
    /// Cancelled by [`Relay::shutdown`]: no new tunnels, what runs may finish.
    pub(crate) draining: CancellationToken,
    /// Cancelled when the last caller's connection has ended: the public address closes.
    pub(crate) drained: CancellationToken,
    /// Cancelled by [`Relay::abort`] and at the end of the grace time: everything ends.
    pub(crate) hard: CancellationToken,
    /// Connections of callers, and of desktops until they are upgraded.
    pub(crate) connections: TaskTracker,
    /// Two tasks for each tunnel.
    pub(crate) sessions: TaskTracker,
}

impl Shared {
    /// Returns the settings in force. Not to be held over a wait: they may change.
    pub(crate) fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }
}

/// The part of the grace time over which desktops are asked to move, so that they do not all dial at once.
const MIGRATE_WITHIN: f64 = 0.7;
/// Least time between two desktops that are asked to move: few desktops need not wait for the spread.
const MIGRATE_SPACING: Duration = Duration::from_millis(10);
/// Longest wait for a desktop's answer to that.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long streams that are cut off have to tell their callers.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a desktop that was asked may take until its second session is up, elsewhere.
const MOVE_TIME: Duration = Duration::from_secs(3);

impl Relay {
    /// Starts a relay: makes or reads the key, binds both addresses, accepts.
    pub async fn start(config: RelayConfig) -> Result<Self, StartError> {
        let issuer = LocalIssuer::open(&config.data_dir)?;
        let tls = Tls::open(config.settings.edge.tls.as_ref(), &config.data_dir)?;
        let listener = listener::bind(&config.listen, "--listen").await?;
        let admin_listener = listener::bind(&config.admin_listen, "--admin-listen").await?;
        let listen_addr = listener.local_addr().map_err(StartError::Address)?;
        let admin_addr = admin_listener.local_addr().map_err(StartError::Address)?;
        let settings = config.settings;
        let shared = Arc::new(Shared {
            authority: Authority::new(issuer.verifier()),
            issuer,
            limits: Limits::default(),
            audit: AuditLog::default(),
            registry: Registry::new(),
            acceptor: Acceptor::new(AcceptorConfig {
                grace: settings.session_grace,
                window: settings.replay_window_bytes,
                socket: listener::socket_of,
            }),
            tls,
            address_caps: AddressCaps::default(),
            settings: ArcSwap::from_pointee(settings),
            metrics: Arc::new(Metrics::new()),
            draining: CancellationToken::new(),
            drained: CancellationToken::new(),
            hard: CancellationToken::new(),
            connections: TaskTracker::new(),
            sessions: TaskTracker::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(listener::accept(listener, Arc::clone(&shared)));
        tasks.spawn(tls::keep(Arc::clone(&shared)));
        let over = shared.hard.clone();
        let admin = axum::serve(admin_listener, admin::router(Arc::clone(&shared)))
            .with_graceful_shutdown(over.clone().cancelled_owned());
        tasks.spawn(async move {
            tokio::select! {
                served = admin => {
                    if let Err(error) = served {
                        error!(%error, "the admin address is closed");
                    }
                }
                // A scrape that hangs must not hold the process.
                () = over.cancelled() => {}
            }
        });
        tasks.spawn(drain(Arc::clone(&shared), config.grace));
        info!(listen = %listen_addr, admin = %admin_addr, "listening");
        Ok(Self { shared, listen_addr, admin_addr, tasks })
    }

    /// Returns where callers and desktops are taken.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen_addr
    }

    /// Returns where operators are taken.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Returns what is to be known of the certificate.
    pub fn tls(&self) -> TlsStatus {
        self.shared.tls.status()
    }

    /// Reads the certificate's files anew, or looks whether one is to be ordered; without waiting.
    pub fn reload_tls(&self) {
        self.shared.tls.reload();
    }

    /// Returns how many tunnel sessions there are.
    pub fn sessions(&self) -> usize {
        self.shared.registry.counts().sessions
    }

    /// Begins the orderly end: not ready, no new tunnels, streams finish within the grace time.
    pub fn shutdown(&self) {
        self.shared.draining.cancel();
    }

    /// Ends at once. Streams break off.
    pub fn abort(&self) {
        self.shared.draining.cancel();
        self.shared.hard.cancel();
    }

    /// Runs until one of the tokens is cancelled: `soft` as [`Self::shutdown`], `hard` as [`Self::abort`].
    pub async fn run(self, soft: CancellationToken, hard: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        let mut ended = pin!(self.wait());
        tokio::select! {
            () = ended.as_mut() => return,
            () = soft.cancelled() => shared.draining.cancel(),
        }
        tokio::select! {
            () = ended.as_mut() => return,
            () = hard.cancelled() => shared.hard.cancel(),
        }
        ended.await;
    }

    /// Waits until the relay has ended, after [`Self::shutdown`] or [`Self::abort`].
    pub async fn wait(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a task of the relay failed");
                self.shared.draining.cancel();
            }
        }
    }
}

/// Waits for the order to end, and carries it out.
async fn drain(shared: Arc<Shared>, grace: Duration) {
    shared.draining.cancelled().await;
    let started = Instant::now();
    let tunnels = shared.registry.tunnels();
    info!(sessions = tunnels.len(), streams = shared.registry.counts().streams, "draining");
    shared.connections.close();
    tokio::select! {
        () = finish(&shared, tunnels, grace) => info!("drained"),
        () = tokio::time::sleep_until(started + grace) => {
            let streams = shared.registry.counts().streams;
            warn!(streams, grace_s = grace.as_secs(), "grace time is over, streams break off");
        }
        () = shared.hard.cancelled() => warn!("ending at once"),
    }
    shared.drained.cancel();
    for tunnel in shared.registry.tunnels() {
        tunnel.session.close(restarting());
    }
    // The desktops are told why, and callers whose stream was cut are told too.
    shared.sessions.close();
    let told = async {
        shared.sessions.wait().await;
        shared.connections.wait().await;
    };
    if tokio::time::timeout(LAST_WORDS, told).await.is_err() {
        debug!(connections = shared.connections.len(), sessions = shared.sessions.len(), "cut off");
    }
    shared.hard.cancel();
    shared.connections.wait().await;
}

/// Asks all desktops to move, and waits until no caller is left.
async fn finish(shared: &Shared, tunnels: Vec<Arc<Tunnel>>, grace: Duration) {
    let spread = grace.mul_f64(MIGRATE_WITHIN);
    let spacing = spread.div_f64(tunnels.len().max(1) as f64).min(MIGRATE_SPACING);
    let move_time = MOVE_TIME.min(grace.mul_f64(1.0 - MIGRATE_WITHIN));
    let mut asked = JoinSet::new();
    for tunnel in tunnels {
        asked.spawn(async move { ask_to_move(&tunnel, move_time).await });
        tokio::time::sleep(spacing).await;
    }
    while asked.join_next().await.is_some() {}
    // Connections end with their last response, so this is also the last byte of the last stream.
    shared.connections.wait().await;
}

/// Asks a desktop to dial a second session, which on another node, behind the same name, gets the new requests.
///
/// Where there is no other node the dial arrives here and is refused; then the session serves until the end.
async fn ask_to_move(tunnel: &Tunnel, move_time: Duration) {
    let mut request = Request::new(Empty::<bytes::Bytes>::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(MIGRATE_PATH);
    let device = &tunnel.device;
    match tokio::time::timeout(MIGRATE_TIMEOUT, tunnel.session.send(request)).await {
        Ok(Ok(response)) if response.status().is_success() => {}
        Ok(Ok(response)) => return debug!(%device, status = %response.status(), "desktop stays"),
        Ok(Err(error)) => return debug!(%device, %error, "desktop could not be asked to move"),
        Err(_) => return debug!(%device, "desktop did not answer"),
    }
    tokio::select! {
        () = tunnel.stays() => debug!(%device, "desktop has nowhere else to go"),
        closed = tunnel.session.closed() => debug!(%device, %closed, "desktop moved"),
        () = tokio::time::sleep(move_time) => tunnel.retire(),
    }
}
