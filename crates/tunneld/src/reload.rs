//! The owner of the configuration: takes over a changed one while the daemon runs.
//!
//! The file, SIGHUP and the API all end in the same: parse, check, compare, publish. A configuration with faults
//! changes nothing; what was loaded before stays in force, the status says why.

mod consumers;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tunnel_api::config::Fault;
use tunnel_runtime::file_watch::{Due, FileWatch};
use tunnel_runtime::systemd;

pub(crate) use self::consumers::Consumers;
use crate::config::{
    Applied, Change, ChangeError, ConfigState, LoadError, Loaded, Options, Order, Source, Task,
};

/// How often the file is looked at unasked, where nothing tells that it changed: a network's file system, no
/// watches left, a directory above that was moved away.
const LOOK: Duration = Duration::from_secs(30);

/// Reads the configuration anew when it may have changed, and tells each part its section.
#[derive(Debug)]
pub(crate) struct Reloader {
    pub(crate) options: Arc<Options>,
    pub(crate) consumers: Consumers,
    pub(crate) state: watch::Sender<Arc<ConfigState>>,
    pub(crate) orders: mpsc::Receiver<Order>,
}

impl Reloader {
    /// Runs until `soft` ends.
    pub(crate) async fn run(mut self, mut hangups: watch::Receiver<u64>, soft: CancellationToken) {
        let mut watch = match tokio::task::spawn_blocking(FileWatch::start).await {
            Ok(watch) => watch,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let events = watch.changed();
        // The file may have changed since it was read for the start.
        watch = self.look(watch).await.0;
        let mut looks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due: Option<Due> = None;
        loop {
            tokio::select! {
                () = soft.cancelled() => return,
                changed = hangups.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    systemd::reloading();
                    watch = self.look(watch).await.0;
                    // Also after a faulty one, which the status line and the warnings tell.
                    systemd::ready();
                }
                order = self.orders.recv() => match order {
                    Some(order) => watch = self.obey(order, watch).await,
                    None => return,
                },
                () = events.notified() => due = Some(Due::after(due, Instant::now())),
                () = Due::reached(due) => {
                    due = None;
                    watch = self.look(watch).await.0;
                }
                _ = looks.tick() => watch = self.look(watch).await.0,
            }
        }
    }

    async fn obey(&self, order: Order, watch: FileWatch) -> FileWatch {
        let Order { task, answer, taken } = order;
        // Who asked has been told that it was not done, or hung up.
        if answer.is_closed() || taken.send(()).is_err() {
            return watch;
        }
        let (watch, outcome) = match task {
            Task::Reload => self.look(watch).await,
            Task::Change(change) => self.change(change, watch).await,
        };
        // Who asked may be gone by now.
        let _told = answer.send(outcome);
        watch
    }

    /// Reads everything anew and takes it over, if it is another configuration and a good one.
    async fn look(&self, mut watch: FileWatch) -> (FileWatch, Result<Applied, ChangeError>) {
        let (options, in_force) = (Arc::clone(&self.options), Arc::clone(&self.state.borrow()));
        let (watch, loaded) = on_disk(move || {
            watch.aim(&Source::places(&options));
            let load = || {
                let source = Source::read(&options)?;
                in_force.refuse_emptied(&source)?;
                Loaded::of(&options, &source)
            };
            (watch, load())
        })
        .await;
        let outcome = match loaded {
            Ok(loaded) => Ok(self.applied(loaded).await),
            Err(error) => {
                self.keep(&error);
                Err(refused(&self.options, error))
            }
        };
        (watch, outcome)
    }

    async fn change(
        &self,
        change: Change,
        mut watch: FileWatch,
    ) -> (FileWatch, Result<Applied, ChangeError>) {
        let (options, in_force) = (Arc::clone(&self.options), Arc::clone(&self.state.borrow()));
        let (watch, written) = on_disk(move || {
            let written = change.make(&options, &in_force, Timestamp::now());
            // A file that was made just now has another way to it.
            watch.aim(&Source::places(&options));
            (watch, written)
        })
        .await;
        let outcome = match written {
            Ok(written) => Ok(Applied {
                changed: written.changed,
                backup: written.backup,
                overridden: written.overridden,
                ..self.applied(written.loaded).await
            }),
            Err(error) => Err(error),
        };
        (watch, outcome)
    }

    /// Takes over what was loaded, as far as it is another thing than what is in force.
    async fn applied(&self, loaded: Loaded) -> Applied {
        let changed = self.take(loaded).await;
        let state = Arc::clone(&self.state.borrow());
        Applied { changed, backup: None, overridden: Vec::new(), state }
    }

    /// Returns whether another configuration is in force after it.
    async fn take(&self, loaded: Loaded) -> bool {
        let old = Arc::clone(&self.state.borrow());
        let was_faulty = old.status.last_error.is_some();
        let same = *old.config == loaded.config && *old.origins == loaded.origins;
        // Also when nothing has changed: a port that was taken may be free by now.
        let restart_required = self.consumers.apply_doors(&loaded.config).await;
        let doors_same = restart_required == old.status.restart_required;
        if same && old.revision == loaded.revision && !was_faulty && doors_same {
            return false;
        }
        let mut state = loaded.state(restart_required);
        if same {
            // Other blanks in the file, or a mended one that says what is in force.
            state.status.loaded_at = old.status.loaded_at;
            if was_faulty {
                info!("the configuration is usable again, and what is in force already");
            }
        } else {
            self.consumers.apply(&old.config, &loaded);
            for key in &state.status.restart_required {
                if !old.status.restart_required.contains(key) {
                    warn!(key, "the change takes effect after a restart");
                }
            }
            info!("configuration reloaded");
        }
        self.state.send_replace(Arc::new(state));
        !same
    }

    /// Says, once for each error, why what is in force stays.
    fn keep(&self, error: &LoadError) {
        let told = error.to_string();
        if self.state.borrow().status.last_error.as_ref() == Some(&told) {
            return;
        }
        warn!(error = told, "the configuration is not usable, the one before stays in force");
        self.state.send_modify(|state| {
            let mut kept = ConfigState::clone(state);
            kept.status.last_error = Some(told);
            *state = Arc::new(kept);
        });
    }
}

/// What the API says to a configuration that cannot be taken over.
fn refused(options: &Options, error: LoadError) -> ChangeError {
    match error {
        LoadError::Faults { faults, .. } => ChangeError::Invalid(faults),
        LoadError::Layers(_) => {
            let path = Source::place(options).map(|file| file.path.display().to_string()).unwrap_or_default();
            ChangeError::Invalid(vec![Fault { key: path, rule: error.to_string(), ..Fault::default() }])
        }
    }
}

/// Runs what looks at files where it may wait for them; they are small, but may lie on a network.
async fn on_disk<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(look).await {
        Ok(seen) => seen,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

#[cfg(test)]
mod tests;
