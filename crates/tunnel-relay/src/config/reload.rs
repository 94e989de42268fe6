//! Other settings while the relay runs: read anew on SIGHUP, when somebody asks, and when the file changes.
//!
//! A file with faults changes nothing: what was in force stays, and the log, the metrics and the operators' page say why.
//! Only another place for the audit log needs a restart; sessions that are up keep the grace time and the window that
//! they were promised.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};
use tunnel_runtime::file_watch::{Due, FileWatch};
use tunnel_runtime::systemd;

use super::Settings;
use crate::relay::Shared;

/// How often the file is looked at unasked, where nothing tells that it changed: a network's file system, no watches
/// left, a directory above that was moved away.
const LOOK: Duration = Duration::from_secs(30);

/// Which settings are in force, and what is wrong with those that are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigState {
    /// When those in force were taken over.
    pub(crate) loaded_at: Timestamp,
    /// What is wrong with the file as it is now, one sentence each. Empty: it is in force.
    pub(crate) faults: Vec<String>,
}

/// The order to read the file, and what came of it.
#[derive(Debug)]
pub(crate) struct Reload {
    asked: Notify,
    state: watch::Sender<Arc<ConfigState>>,
}

impl Reload {
    pub(crate) fn new() -> Self {
        let state = ConfigState { loaded_at: Timestamp::now(), faults: Vec::new() };
        Self { asked: Notify::new(), state: watch::Sender::new(Arc::new(state)) }
    }

    /// Asks for the file to be read. Several in a row may be one.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Returns which settings are in force.
    pub(crate) fn state(&self) -> Arc<ConfigState> {
        Arc::clone(&self.state.borrow())
    }
}

/// Follows the file until the relay ends.
pub(crate) async fn follow(shared: Arc<Shared>, path: PathBuf) {
    let mut watch = on_disk(FileWatch::start).await;
    let events = watch.changed();
    // It may have changed since it was read for the start.
    watch = look(&shared, watch, &path, false).await;
    let mut looks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due: Option<Due> = None;
    loop {
        tokio::select! {
            () = shared.hard.cancelled() => return,
            () = shared.reload.asked.notified() => {
                systemd::reloading();
                watch = look(&shared, watch, &path, true).await;
                // Also after a faulty one, which the log tells.
                systemd::ready();
            }
            () = events.notified() => due = Some(Due::after(due, Instant::now())),
            () = Due::reached(due) => {
                due = None;
                watch = look(&shared, watch, &path, false).await;
            }
            _ = looks.tick() => watch = look(&shared, watch, &path, false).await,
        }
    }
}

/// An editor that truncates and writes, or a disk that is full, leaves nothing for a moment or for good.
const EMPTIED: &str =
    "the file is empty, which is taken for a save that went wrong; for the defaults write a comment into it";
/// Tokens would go over the public address in clear.
const TLS_OFF: &str = "TLS cannot be switched off while the relay runs; restart it without [tls] and [acme]";

/// Reads the file and takes it over, if it is another one and a good one. `asked`: by somebody who means the certificate,
/// too.
async fn look(shared: &Arc<Shared>, mut watch: FileWatch, path: &Path, asked: bool) -> FileWatch {
    let path = path.to_owned();
    let (watch, loaded) = on_disk(move || {
        watch.aim(std::slice::from_ref(&path));
        // Read once: what is looked at for emptiness is what is taken over.
        let text = Settings::read(&path);
        (watch, text.and_then(|text| Ok((Settings::parse(&text, &path)?, text.trim().is_empty()))))
    })
    .await;
    let (before, in_force) = (shared.reload.state(), Arc::clone(&shared.settings()));
    let loaded = loaded.map_err(|error| error.faults()).and_then(|(settings, emptied)| match () {
        () if emptied && settings != **shared.settings() => Err(vec![EMPTIED.to_owned()]),
        () if settings.edge.tls.is_none() && shared.settings().edge.tls.is_some() => {
            Err(vec![TLS_OFF.to_owned()])
        }
        () => Ok(settings),
    });
    match loaded {
        Ok(settings) if settings == **shared.settings() => {
            if !before.faults.is_empty() {
                info!("the settings file is usable again, and what is in force already");
                told(shared, ConfigState { faults: Vec::new(), ..ConfigState::clone(&before) });
            }
        }
        Ok(settings) => {
            // Where an issuer's keys are a file, it is read.
            let taking = Arc::clone(shared);
            on_disk(move || taking.take_over(settings)).await;
            shared.metrics.reloaded(true);
            info!("settings reloaded");
            shared.settings().log_warnings();
            told(shared, ConfigState { loaded_at: Timestamp::now(), faults: Vec::new() });
        }
        Err(faults) => {
            // Once for each set of faults, not at each look.
            if before.faults != faults {
                shared.metrics.reloaded(false);
                for fault in &faults {
                    warn!(fault, "the settings file is not usable, what was in force stays");
                }
                told(shared, ConfigState { faults, ..ConfigState::clone(&before) });
            }
        }
    }
    // Last, for the settings say where it lies; and once, whatever it is for.
    if asked || !Arc::ptr_eq(&in_force, &shared.settings()) {
        shared.tls.reload();
    }
    watch
}

fn told(shared: &Shared, state: ConfigState) {
    shared.metrics.config_faults.set(i64::try_from(state.faults.len()).unwrap_or(i64::MAX));
    shared.reload.state.send_replace(Arc::new(state));
}

/// Runs what looks at files where it may wait for them; they are small, but may lie on a network.
async fn on_disk<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(look).await {
        Ok(seen) => seen,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
