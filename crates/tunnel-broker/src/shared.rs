use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::affinity::Affinity;
use crate::backend::Backend;
use crate::books::Books;
use crate::budget::Budget;
use crate::config::BrokerConfig;
use crate::memory::{self, KeptWarm};
use crate::prober::Prober;
use crate::queue::Queue;
use crate::room::Room;
use crate::status::BackendStatus;
use crate::table::Table;
use crate::unread;
use crate::upstream::Upstream;

/// What all clones of a broker have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What requests look at: no lock.
    pub(crate) table: ArcSwap<Table>,
    /// What the table is built from; held while a new one is built, so that none is lost.
    source: Mutex<Source>,
    pub(crate) status: watch::Sender<Arc<Vec<BackendStatus>>>,
    /// The models that are kept in memory. Written by their keeper only.
    pub(crate) kept_warm: watch::Sender<Arc<Vec<KeptWarm>>>,
    pub(crate) books: Arc<Books>,
    /// What may be spent on asking another backend after one has failed.
    pub(crate) budget: Budget,
    pub(crate) queue: Arc<Queue>,
    /// Memory for bodies whose model comes late.
    pub(crate) room: Room,
    /// Who served which conversation.
    pub(crate) affinity: Arc<Affinity>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

#[derive(Debug)]
struct Source {
    settings: Arc<BrokerConfig>,
    /// Those of the enabled backends, in their order.
    upstreams: Vec<Arc<Upstream>>,
}

/// Longest wait for an answer about what backends have, before what is known must do.
pub(crate) const REFRESH_WAIT: Duration = Duration::from_secs(1);

impl Shared {
    pub(crate) fn start(
        config: BrokerConfig,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let source = Source { settings: Arc::new(BrokerConfig::default()), upstreams: Vec::new() };
        let table = Table::new(Arc::clone(&source.settings), &[]);
        let shared = Arc::new(Self {
            table: ArcSwap::from_pointee(table),
            source: Mutex::new(source),
            status: watch::Sender::new(Arc::new(Vec::new())),
            kept_warm: watch::Sender::new(Arc::new(Vec::new())),
            books: Arc::new(Books::new()),
            budget: Budget::new(Instant::now()),
            queue: Arc::default(),
            room: Room::default(),
            affinity: Arc::new(Affinity::new()),
            tracker,
            shutdown,
        });
        shared.reconfigure(config);
        let keeper = memory::keep(Arc::clone(&shared), shared.shutdown.clone());
        shared.tracker.spawn(keeper.instrument(tracing::debug_span!("keeper")));
        shared.tracker.spawn(unread::watch(Arc::clone(&shared.books), shared.shutdown.clone()));
        shared
    }

    /// Takes over a configuration: keeps the upstreams that stay, starts new ones, ends the others' probers.
    pub(crate) fn reconfigure(self: &Arc<Self>, config: BrokerConfig) {
        let mut source = self.source();
        // By id and address: an id that now means another server starts anew.
        let mut old: Vec<(String, Arc<Upstream>)> = {
            let upstreams = std::mem::take(&mut source.upstreams);
            let enabled = source.settings.backends.iter().filter(|config| config.enabled);
            enabled.map(|config| config.id.clone()).zip(upstreams).collect()
        };
        // A shorter interval counts from now on, not from the end of the longer one.
        let hurry = config.probe_interval < source.settings.probe_interval;
        let ca_file = config.ca_file.as_deref();
        let mut fresh = Vec::new();
        let mut asked_anew = Vec::new();
        for config in config.backends.iter().filter(|config| config.enabled) {
            let kept = old.iter().position(|(id, upstream)| *id == config.id && upstream.is(config, ca_file));
            let before = source.settings.backends.iter().find(|before| before.id == config.id);
            // Whether a server without a list is fine depends on them.
            let others = kept.is_some() && before.is_none_or(|before| before.models != config.models);
            let upstream = kept.map(|at| old.swap_remove(at).1).unwrap_or_else(|| {
                let upstream = Arc::new(Upstream::new(
                    config,
                    ca_file.map(Path::to_owned),
                    Arc::clone(&self.queue),
                    self.shutdown.child_token(),
                ));
                fresh.push(Prober {
                    id: config.id.clone(),
                    upstream: Arc::clone(&upstream),
                    shared: Arc::clone(self),
                });
                upstream
            });
            upstream.slots.set_limit(config.max_concurrent.map(|max| max.get() as usize));
            asked_anew.extend(others.then(|| Arc::clone(&upstream)));
            source.upstreams.push(upstream);
        }
        self.books.measure(config.metrics_enabled);
        source.settings = Arc::new(config);
        self.publish_from(&source);
        let current = source.upstreams.clone();
        drop(source);
        self.queue.forget(&current);
        // There may be more slots than before.
        self.queue.serve(&current);
        for (_, upstream) in old {
            upstream.stop.cancel();
        }
        for upstream in asked_anew {
            upstream.order_probe();
        }
        if hurry {
            for backend in &self.table.load().backends {
                backend.upstream.order_probe();
            }
        }
        for prober in fresh {
            let span = tracing::debug_span!("prober", backend = %prober.id);
            self.tracker.spawn(prober.run().instrument(span));
        }
    }

    /// Builds the table and the status anew from what is known.
    pub(crate) fn publish(&self) {
        self.publish_from(&self.source());
    }

    fn publish_from(&self, source: &Source) {
        let table = Table::new(Arc::clone(&source.settings), &source.upstreams);
        let status = table.backends.iter().map(|backend| backend.status()).collect();
        self.table.store(Arc::new(table));
        self.status.send_replace(Arc::new(status));
    }

    pub(crate) fn settings(&self) -> Arc<BrokerConfig> {
        Arc::clone(&self.table.load().settings)
    }

    /// Tells whether the configuration names the models of a backend.
    pub(crate) fn declares_models(&self, id: &str) -> bool {
        self.table.load().backend(id).is_some_and(|backend| !backend.config.models.is_empty())
    }

    /// Waits until `enough` holds of the table, no longer than `limit`.
    pub(crate) async fn wait_until(&self, limit: Duration, enough: impl Fn(&Table) -> bool) {
        let mut changes = self.status.subscribe();
        // Timing out is one of the two expected ends, and the sender is a field of `self`.
        drop(tokio::time::timeout(limit, changes.wait_for(|_| enough(&self.table.load()))).await);
    }

    /// Has the backends probed that `concerns` accepts, and waits for the answers for a moment.
    ///
    /// Requests that ask for this at the same time share the probes.
    pub(crate) async fn refresh(&self, concerns: impl Fn(&Backend) -> bool) {
        let table = self.table.load_full();
        // One whose questions may cost is asked when it is its turn, and not because somebody asks us.
        let asked = |backend: &&Arc<Backend>| {
            concerns(backend) && (!backend.profile().is_rarely_asked() || is_stale(backend))
        };
        let ordered = table.backends.iter().filter(asked).map(|backend| {
            let order = backend.upstream.order_probe();
            backend.upstream.probed(order)
        });
        drop(tokio::time::timeout(REFRESH_WAIT, join_all(ordered)).await);
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        // Replaced field by field from values that exist: sound after a panic.
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether a backend has been asked lately enough for a list to be called current.
pub(crate) fn is_stale(backend: &Backend) -> bool {
    const FRESH: Duration = Duration::from_secs(1);
    let Some(at) = backend.report.last_check else { return false };
    let fresh = FRESH.max(backend.profile().least_interval);
    SystemTime::now().duration_since(at).is_ok_and(|age| age > fresh)
}
