//! A relay as a whole: started, drained, ended.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};
use tunnel_transport::{Acceptor, AcceptorConfig};

use crate::admin::{self, AdminState};
use crate::audit::AuditLog;
use crate::auth::authority::Authority;
use crate::auth::revoked::Revocations;
use crate::auth::{IssuerError, LocalIssuer};
use crate::config::Settings;
use crate::config::reload::{self, Reload};
use crate::dial_pace::DialPace;
use crate::drain::{Patience, drain};
use crate::limits::Limits;
use crate::listener::{self, AddressCaps, ListenError};
use crate::metrics::Metrics;
use crate::private_file::PrivateFileError;
use crate::registry::Registry;
use crate::tls::{self, Tls, TlsError, TlsStatus};
use crate::waiting::WaitingRoom;

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
    /// How long a balancer in front needs to notice that this relay is not ready any more: so long it goes on as before
    /// until desktops are asked to move, and again until callers are let go. At most a quarter of `grace` each. Default
    /// of the program: 0, there is none.
    pub drain_notice: Duration,
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
    /// Another of the files that the relay keeps for itself cannot be used: the list of revoked tokens, the key of the
    /// audit log, the operators' token.
    #[error(transparent)]
    File(#[from] PrivateFileError),
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
    /// Whether there is a settings file, which is followed.
    follows_file: bool,
    tasks: JoinSet<()>,
}

/// What all parts of a relay use.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) authority: Arc<Authority>,
    /// Signs keys for apps.
    pub(crate) issuer: LocalIssuer,
    pub(crate) limits: Limits,
    pub(crate) audit: AuditLog,
    pub(crate) admin: AdminState,
    pub(crate) registry: Registry,
    /// Requests for devices that are about to come.
    pub(crate) waiting: WaitingRoom,
    pub(crate) dial_pace: DialPace,
    pub(crate) tls: Tls,
    pub(crate) address_caps: AddressCaps,
    /// Those in force.
    settings: ArcSwap<Settings>,
    pub(crate) reload: Reload,
    pub(crate) metrics: Arc<Metrics>,
    /// Cancelled by [`Relay::shutdown`]: no new tunnels, and desktops are about to be asked to move. Callers are served.
    pub(crate) draining: CancellationToken,
    /// Cancelled when callers should go elsewhere: all desktops that can have moved. Those that come are served still.
    pub(crate) callers_leave: CancellationToken,
    /// Cancelled when each caller's connection is to end with the response that is under way.
    pub(crate) closing: CancellationToken,
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

    /// Returns what makes sessions, on the terms in force.
    pub(crate) fn acceptor(&self) -> Acceptor {
        let settings = self.settings();
        Acceptor::new(AcceptorConfig {
            grace: settings.session_grace,
            window: settings.replay_window_bytes,
            socket: listener::socket_of,
        })
    }

    /// Puts other settings in force and tells those who keep something made of them. All others look at
    /// [`Self::settings`] each time.
    pub(crate) fn take_over(&self, settings: Settings) {
        let settings = Arc::new(settings);
        self.limits.reload(&settings);
        self.authority.reload(&settings);
        self.settings.store(settings);
    }
}

impl Relay {
    /// Starts a relay: makes or reads the key, binds both addresses, accepts.
    pub async fn start(config: RelayConfig) -> Result<Self, StartError> {
        let issuer = LocalIssuer::open(&config.data_dir)?;
        let revocations = Revocations::open(&config.data_dir)?;
        let tls = Tls::open(config.settings.edge.tls.as_ref(), &config.data_dir)?;
        let listener = listener::bind(&config.listen, "--listen").await?;
        let admin_listener = listener::bind(&config.admin_listen, "--admin-listen").await?;
        let listen_addr = listener.local_addr().map_err(StartError::Address)?;
        let admin_addr = admin_listener.local_addr().map_err(StartError::Address)?;
        let settings = config.settings;
        let metrics = Arc::new(Metrics::new());
        let audit = AuditLog::start(&config.data_dir, settings.audit_file.as_deref(), &metrics)?;
        let shared = Arc::new(Shared {
            authority: Arc::new(Authority::new(
                issuer.verifier(),
                revocations,
                &settings,
                Arc::clone(&metrics),
            )),
            issuer,
            limits: Limits::new(&settings),
            audit,
            admin: AdminState::open(&config.data_dir)?,
            registry: Registry::new(),
            waiting: WaitingRoom::default(),
            dial_pace: DialPace::default(),
            tls,
            address_caps: AddressCaps::default(),
            settings: ArcSwap::from_pointee(settings),
            reload: Reload::new(),
            metrics,
            draining: CancellationToken::new(),
            callers_leave: CancellationToken::new(),
            closing: CancellationToken::new(),
            drained: CancellationToken::new(),
            hard: CancellationToken::new(),
            connections: TaskTracker::new(),
            sessions: TaskTracker::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared.authority).run(shared.hard.clone()));
        tasks.spawn(listener::accept(listener, Arc::clone(&shared)));
        tasks.spawn(Limits::sweep_until_the_end(Arc::clone(&shared)));
        tasks.spawn(tls::keep(Arc::clone(&shared)));
        let over = shared.hard.clone();
        let admin = axum::serve(admin_listener, admin::service(Arc::clone(&shared)))
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
        let follows_file = config.settings_file.is_some();
        if let Some(path) = config.settings_file {
            tasks.spawn(reload::follow(Arc::clone(&shared), path));
        }
        let patience = Patience::new(config.grace, config.drain_notice);
        tasks.spawn(drain(Arc::clone(&shared), patience));
        info!(listen = %listen_addr, admin = %admin_addr, "listening");
        Ok(Self { shared, listen_addr, admin_addr, follows_file, tasks })
    }

    /// Returns where callers and desktops are taken.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen_addr
    }

    /// Returns where operators are taken.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Reads the settings file and the certificate anew whenever the count changes, as
    /// [`tunnel_runtime::Lifecycle::hangups`] does.
    pub fn reload_on(&mut self, mut hangups: watch::Receiver<u64>) {
        let (shared, follows_file) = (Arc::clone(&self.shared), self.follows_file);
        self.tasks.spawn(async move {
            let asked = async {
                while hangups.changed().await.is_ok() {
                    if follows_file {
                        shared.reload.ask();
                    } else {
                        // Whoever follows the file tells it, once that was read.
                        shared.tls.reload();
                    }
                }
            };
            tokio::select! {
                () = asked => {}
                () = shared.hard.cancelled() => {}
            }
        });
    }

    /// Returns what is to be known of the certificate.
    pub fn tls(&self) -> TlsStatus {
        self.shared.tls.status()
    }

    /// Returns how many tunnel sessions there are.
    pub fn sessions(&self) -> usize {
        self.shared.registry.counts().sessions
    }

    /// Begins the orderly end: not ready, no new tunnels, streams finish within the grace time.
    pub fn shutdown(&self) {
        self.shared.draining.cancel();
    }

    /// Returns a token that is cancelled when the orderly end begins, whoever asked for it: an operator may, too.
    pub fn draining(&self) -> CancellationToken {
        self.shared.draining.clone()
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
        self.shared.audit.finish().await;
    }
}
