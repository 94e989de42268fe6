use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::affinity::ServerId;
use crate::config::{BackendConfig, BackendKind};
use crate::conn::Conn;
use crate::connect::{ConnectError, connect};
use crate::dialect::Listing;
use crate::load::Load;
use crate::origin::Origin;
use crate::outcomes::Outcomes;
use crate::pool::Pool;
use crate::status::BackendState;

/// A model server: its connections, its load, and what its prober last saw.
///
/// Outlives a change of the configuration that leaves id, kind and URL as they are.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) id: ServerId,
    pub(crate) kind: BackendKind,
    url: Url,
    pub(crate) origin: Origin,
    pub(crate) pool: Pool,
    pub(crate) in_flight: AtomicUsize,
    /// How quickly it begins its answers.
    pub(crate) load: Load,
    pub(crate) outcomes: Outcomes,
    /// Replaced after each probe; read when the table is built, not by requests.
    report: RwLock<Arc<Report>>,
    /// Counts the probes that were ordered.
    orders: watch::Sender<u64>,
    /// Counts the orders that have been carried out.
    done: watch::Sender<u64>,
    /// Ends the prober.
    pub(crate) stop: CancellationToken,
}

/// What a prober last saw.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) state: BackendState,
    /// Whether the last probe failed, whatever the state.
    pub(crate) failing: bool,
    pub(crate) version: Option<String>,
    pub(crate) latency: Option<Duration>,
    pub(crate) last_check: Option<SystemTime>,
    pub(crate) error: Option<String>,
    /// What it listed last; none when no probe has ever succeeded.
    pub(crate) listing: Option<Arc<Listing>>,
}

impl Upstream {
    pub(crate) fn new(config: &BackendConfig, stop: CancellationToken) -> Self {
        Self {
            id: ServerId::new(),
            kind: config.kind,
            url: config.url.clone(),
            origin: Origin::new(config.kind, &config.url),
            pool: Pool::default(),
            in_flight: AtomicUsize::new(0),
            load: Load::default(),
            outcomes: Outcomes::default(),
            report: RwLock::new(Arc::new(Report {
                state: BackendState::Connecting,
                failing: false,
                version: None,
                latency: None,
                last_check: None,
                error: None,
                listing: None,
            })),
            orders: watch::Sender::new(0),
            done: watch::Sender::new(0),
            stop,
        }
    }

    /// Tells whether this is the same server as the configured one.
    pub(crate) fn is(&self, config: &BackendConfig) -> bool {
        self.kind == config.kind && self.url == config.url
    }

    pub(crate) fn report(&self) -> Arc<Report> {
        Arc::clone(&self.report.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_report(&self, report: Report) {
        *self.report.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self, limit: Duration) -> Result<Conn, ConnectError> {
        let io = connect(&self.origin, limit).await?;
        Conn::handshake(io).await.map_err(|why| ConnectError::Io {
            at: self.origin.shown.clone(),
            why: std::io::Error::other(why),
        })
    }

    /// Orders a probe; orders that come before it starts are one.
    pub(crate) fn order_probe(&self) -> u64 {
        let mut order = 0;
        self.orders.send_modify(|n| {
            *n += 1;
            order = *n;
        });
        order
    }

    pub(crate) fn orders(&self) -> watch::Receiver<u64> {
        self.orders.subscribe()
    }

    pub(crate) fn carried_out(&self, order: u64) {
        self.done.send_replace(order);
    }

    /// Waits until the order has been carried out.
    pub(crate) async fn probed(&self, order: u64) {
        let mut done = self.done.subscribe();
        // Cannot fail: the sender is a field of `self`.
        drop(done.wait_for(|n| *n >= order).await);
    }
}
