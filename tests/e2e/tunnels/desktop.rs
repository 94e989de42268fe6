//! A desktop without a daemon around it: the daemon's own end of the tunnel, and its own way of dialling again.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tunnel_transport::{
    Backoff, CloseCode, Closed, Connector, ConnectorConfig, DialError, LinkState, RelayUrl, Retry, Session,
};

/// What a daemon waits for an answer to its dial, unless configured otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A socket that was handed to the link is taken up at its next turn.
const ATTACH_LIMIT: Duration = Duration::from_secs(1);

/// When each dial of all desktops began.
#[derive(Clone, Debug, Default)]
pub(super) struct Dials {
    at: Arc<Mutex<Vec<Instant>>>,
}

impl Dials {
    fn note(&self) {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
    }

    /// Forgets those so far.
    pub(super) fn clear(&self) {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The most within a second.
    pub(super) fn peak(&self) -> usize {
        most_in_a_second(self.at.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// One desktop, which stays up until it is dropped.
#[derive(Debug)]
pub(super) struct Desktop {
    /// Since when it has its session; none while it has no attached one.
    up: watch::Receiver<Option<Instant>>,
    downs: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Desktop {
    /// Starts to dial the relay, and to dial again for ever, as a daemon does.
    pub(super) fn start(relay: SocketAddr, token: &str, device: &str, dials: Dials) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let connector = Connector::new(ConnectorConfig {
            relay: RelayUrl::parse(&format!("http://{relay}"))?,
            device: device.parse()?,
            token: token.to_owned().into(),
            agent: "test/1".to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            tls: Arc::new(tls),
            proxy: None,
        });
        let (shown, up) = watch::channel(None);
        let downs = Arc::default();
        let keeper = Keeper {
            connector,
            device: device.to_owned().into(),
            backoff: Backoff::default(),
            dials,
            shown,
            downs: Arc::clone(&downs),
        };
        let task = AbortOnDropHandle::new(tracker().spawn(keeper.run()));
        Ok(Self { up, downs, _task: task })
    }

    /// Waits until its tunnel is up, and tells since when it is.
    pub(super) async fn up(&self, limit: Duration) -> Result<Instant> {
        let mut up = self.up.clone();
        let waited = tokio::time::timeout(limit, up.wait_for(Option::is_some)).await;
        waited.context("its tunnel is not up in time")??.context("it is up")
    }

    /// Waits until its tunnel is up anew, later than `since`.
    pub(super) async fn up_since(&self, since: Instant, limit: Duration) -> Result<Instant> {
        let mut up = self.up.clone();
        let newer = up.wait_for(|up| up.is_some_and(|at| at > since));
        tokio::time::timeout(limit, newer)
            .await
            .context("its tunnel is not back in time")??
            .context("it is up")
    }

    /// Tells whether it has been up without a break since it first was.
    pub(super) fn has_stayed_up(&self) -> bool {
        self.up.borrow().is_some() && self.downs.load(Ordering::Relaxed) == 0
    }
}

/// What a daemon's supervisor and keeper do, without what only a user or a network can make them do.
struct Keeper {
    connector: Connector,
    device: Bytes,
    backoff: Backoff,
    dials: Dials,
    shown: watch::Sender<Option<Instant>>,
    downs: Arc<AtomicUsize>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            self.dials.note();
            let desktop = match self.connector.dial().await {
                Ok(desktop) => desktop,
                Err(error) => {
                    let wait = self.after(&error);
                    tokio::time::sleep(wait).await;
                    continue;
                }
            };
            self.came_up();
            let device = self.device.clone();
            let service = service_fn(move |_request: Request<Incoming>| {
                let answer = Response::new(Full::new(device.clone()));
                async move { Ok::<_, Infallible>(answer) }
            });
            let session = desktop.session;
            let mut serving = AbortOnDropHandle::new(tracker().spawn(desktop.server.serve(service)));
            let wait = tokio::select! {
                closed = &mut serving => match closed {
                    Ok(closed) => self.lost(&closed),
                    Err(_panicked) => return,
                },
                failed = self.keep(&session) => match failed.retry() {
                    Retry::Fresh => Duration::ZERO,
                    _ => self.after(&failed),
                },
            };
            self.went_down();
            tokio::time::sleep(wait).await;
        }
    }

    /// Resumes the session as often as its link is lost, until that cannot be.
    async fn keep(&mut self, session: &Session) -> DialError {
        let mut link = session.link();
        // A session begins without a socket, which is taken up when it is first driven.
        drop(link.wait_for(|state| !matches!(state, LinkState::Detached { .. })).await);
        loop {
            let lost = link.wait_for(|state| matches!(state, LinkState::Detached { .. })).await.is_ok();
            if !lost {
                std::future::pending().await
            }
            self.went_down();
            let mut wait = self.backoff.lost(Instant::now(), &mut rand::rng());
            loop {
                tokio::time::sleep(wait).await;
                self.dials.note();
                match self.connector.resume(session).await {
                    Ok(()) => {
                        let attached = link.wait_for(|state| !matches!(state, LinkState::Detached { .. }));
                        let in_time = tokio::time::timeout(ATTACH_LIMIT, attached).await.is_ok();
                        if in_time {
                            self.came_up();
                        }
                        break;
                    }
                    Err(error) if matches!(error.retry(), Retry::Backoff | Retry::After(_)) => {
                        wait = self.after(&error);
                    }
                    Err(error) => return error,
                }
            }
        }
    }

    fn after(&mut self, error: &DialError) -> Duration {
        let now = Instant::now();
        match error.retry() {
            Retry::After(after) => self.backoff.asked(after, now, &mut rand::rng()),
            Retry::Never | Retry::Fresh | Retry::Backoff => self.backoff.next(now, &mut rand::rng()),
        }
    }

    fn lost(&mut self, closed: &Closed) -> Duration {
        let wait = self.backoff.lost(Instant::now(), &mut rand::rng());
        match closed.code {
            CloseCode::Restarting => {
                wait + closed.reason.parse().map_or(Duration::ZERO, Duration::from_millis)
            }
            _ => wait,
        }
    }

    fn came_up(&mut self) {
        self.backoff.up(Instant::now());
        self.shown.send_replace(Some(Instant::now()));
    }

    fn went_down(&self) {
        if self.shown.send_replace(None).is_some() {
            self.downs.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Gives this process, and the relays that it starts from now on, room for as many sockets.
pub(super) fn raise_file_limit(n: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = n as u64 + 1_000;
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= needed),
        "{n} tunnels need {needed} files, and this machine allows {:?}; raise the hard limit (ulimit -Hn)",
        limit.maximum
    );
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("raising the limit of open files")
}

/// Desktops end by being dropped; nobody waits for their tasks.
fn tracker() -> TaskTracker {
    TaskTracker::new()
}

/// The most of these moments that lie within one second.
pub(super) fn most_in_a_second(mut at: Vec<Instant>) -> usize {
    at.sort_unstable();
    let within = |from: usize| {
        at[from..].iter().take_while(|moment| **moment - at[from] < Duration::from_secs(1)).count()
    };
    (0..at.len()).map(within).max().unwrap_or_default()
}
