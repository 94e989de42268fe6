//! Programs of the user's that stand behind connections of type `plugin`: started, watched, started again.
//!
//! Each has a task of its own, its [`keeper`]. Where the user has a systemd they run as transient units of it, each in a
//! sandbox; elsewhere they are children of the daemon. `docs/plugins.md` is the contract with those programs.

mod backends;
mod child;
mod describe;
mod keeper;
mod launch;
mod place;
mod spec;
mod supervise;
mod told;
mod unit;
mod visitor;
mod watching;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::debug;
use tunnel_api::Config;
use tunnel_api::config::ConnectionType;
use tunnel_broker::Broker;

use crate::config::ConfigState;
use crate::daemon::chain;
use crate::warnings::Reports;
pub(crate) use backends::Backends;
use describe::At;
use keeper::Keeper;
pub(crate) use launch::Launcher;
pub(crate) use place::Place;
use spec::PluginSpec;
pub(crate) use told::PART;
use told::Told;
use visitor::Visitor;

/// What the plugins' owner works with.
pub(crate) struct Deps {
    pub(crate) config: watch::Receiver<Arc<ConfigState>>,
    pub(crate) place: Place,
    pub(crate) launcher: Launcher,
    pub(crate) broker: Broker,
    pub(crate) backends: Backends,
    pub(crate) reports: Reports,
    pub(crate) tracker: TaskTracker,
    pub(crate) soft: CancellationToken,
    pub(crate) hard: CancellationToken,
}

/// Longest wait for the end of a plugin before the next one under its id begins: longer than all that systemd is asked for.
const LONGEST_END: Duration = Duration::from_secs(40);
/// Between two looks for what an earlier daemon has left, while systemd does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What became of the plugins that an earlier daemon has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leftovers {
    Ended,
    /// Systemd is there, and has not told, or not done as it was told.
    Unseen,
}

/// A plugin that is looked after.
struct Kept {
    wanted: Wanted,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What the configuration says of a plugin. Two that are equal are the same, and nothing has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// A program to keep running.
    Program(PluginSpec),
    /// One that somebody else starts.
    Visited { id: String, at: At },
}

impl Wanted {
    fn all(config: &Config, place: &Place) -> Vec<Self> {
        let visited = config.connections.iter().filter_map(|entry| {
            let url = entry.url.as_ref().filter(|_| entry.enabled && entry.kind == ConnectionType::Plugin)?;
            Some(Self::Visited { id: entry.id.clone(), at: At::of(url)? })
        });
        PluginSpec::all(config, place).into_iter().map(Self::Program).chain(visited).collect()
    }

    fn id(&self) -> &str {
        match self {
            Self::Program(spec) => &spec.id,
            Self::Visited { id, .. } => id,
        }
    }
}

/// Looks after the configured plugins until the daemon ends. One whose entry stays as it is is not touched.
pub(crate) async fn keep(mut deps: Deps) {
    let told = Arc::new(Told::new(deps.reports.clone()));
    let launcher = Arc::new(deps.launcher.clone());
    let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
    // Those that were told to end and may not have ended yet.
    let mut leaving: BTreeMap<String, JoinHandle<()>> = BTreeMap::new();
    let mut leftovers = deps.soft.run_until_cancelled(deps.end_leftovers()).await == Some(Leftovers::Unseen);
    loop {
        let wanted = Wanted::all(&deps.config.borrow_and_update().config, &deps.place);
        leaving.retain(|_, task| !task.is_finished());
        let gone = kept.values().filter(|kept| !wanted.contains(&kept.wanted));
        let gone: Vec<String> = gone.map(|kept| kept.wanted.id().to_owned()).collect();
        for id in gone {
            if let Some(Kept { stop, task, .. }) = kept.remove(&id) {
                stop.cancel();
                leaving.insert(id, task);
            }
        }
        for wanted in wanted {
            let id = wanted.id().to_owned();
            if kept.contains_key(&id) {
                continue;
            }
            let stop = CancellationToken::new();
            let looking = deps.look_after(&wanted, &stop, &told, &launcher);
            let predecessor = leaving.remove(&id);
            let task = deps.tracker.spawn(async move {
                // They share a socket and a unit's name.
                if let Some(predecessor) = predecessor {
                    let mut predecessor = AbortOnDropHandle::new(predecessor);
                    if timeout(LONGEST_END, &mut predecessor).await.is_err() {
                        // It asks a systemd that does not answer. The new one begins by asking the same.
                        predecessor.abort();
                        let _ended = predecessor.await;
                    }
                }
                looking.await;
            });
            kept.insert(id, Kept { wanted, stop, task });
        }
        tokio::select! {
            changed = deps.config.changed() => if changed.is_err() { return },
            () = sleep(LOOK_AGAIN), if leftovers => leftovers = deps.end_leftovers().await == Leftovers::Unseen,
            // The tasks hear of it themselves.
            () = deps.soft.cancelled() => return,
        }
    }
}

impl Deps {
    async fn end_leftovers(&self) -> Leftovers {
        let config = Arc::clone(&self.config.borrow());
        let wanted = PluginSpec::all(&config.config, &self.place);
        match self.launcher.end_leftovers(&wanted).await {
            Ok(()) => Leftovers::Ended,
            Err(error) => {
                debug!(error = chain(&error), "plugins of an earlier daemon may still run");
                Leftovers::Unseen
            }
        }
    }

    fn look_after(
        &self,
        wanted: &Wanted,
        stop: &CancellationToken,
        told: &Arc<Told>,
        launcher: &Arc<Launcher>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match wanted.clone() {
            Wanted::Program(spec) => {
                let keeper = Keeper {
                    spec,
                    launcher: Arc::clone(launcher),
                    broker: self.broker.clone(),
                    config: self.config.clone(),
                    told: Arc::clone(told),
                    backends: self.backends.clone(),
                    stop: stop.clone(),
                    soft: self.soft.clone(),
                    hard: self.hard.clone(),
                };
                Box::pin(keeper.run())
            }
            Wanted::Visited { id, at } => {
                let (broker, backends) = (self.broker.clone(), self.backends.clone());
                let (stop, soft) = (stop.clone(), self.soft.clone());
                Box::pin(Visitor { id, at, broker, backends, stop, soft }.run())
            }
        }
    }
}
