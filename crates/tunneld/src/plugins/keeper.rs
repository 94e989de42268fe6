//! The owner of one plugin: starts its program, waits until it answers, watches it, starts it again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tunnel_broker::Broker;

use super::backends::Backends;
use super::describe::{self, At, Description, NotReady};
use super::launch::{Launched, Launcher, Running};
use super::spec::PluginSpec;
use super::supervise::Supervision;
use super::told::{Failing, Told, Trouble};
use super::watching::{Patience, fallen};
use crate::config::ConfigState;
use crate::daemon::chain;

/// Between two questions whether it is ready. One costs a connection on this machine.
const ASK_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Keeper {
    pub(super) spec: PluginSpec,
    pub(super) launcher: Arc<Launcher>,
    pub(super) broker: Broker,
    pub(super) config: watch::Receiver<Arc<ConfigState>>,
    pub(super) told: Arc<Told>,
    pub(super) backends: Backends,
    /// Ends when the entry is removed, switched off or changed.
    pub(super) stop: CancellationToken,
    pub(super) soft: CancellationToken,
    pub(super) hard: CancellationToken,
}

/// How one life of the program came to its end.
enum Life {
    /// We have ended it, for good.
    Over,
    /// It has failed, for a reason and with a next step.
    Failed { why: String, next_step: String },
}

impl Keeper {
    /// Keeps the program running until the entry is gone or the daemon has finished its work.
    pub(super) async fn run(self) {
        // It may have been replaced before its turn came.
        if !self.stop.is_cancelled() {
            self.live_on().await;
        }
        self.told.forget(&self.spec.id);
        if self.stop.is_cancelled() {
            self.backends.forget(&self.spec.id);
        }
        // A start that failed half-way, and an end that nobody confirmed, may have left one.
        if !self.is_left_to_systemd() {
            self.clear().await;
        }
    }

    /// Lets it live, again and again, until it is over.
    async fn live_on(&self) {
        let mut supervision = Supervision::default();
        let mut trouble = Trouble::default();
        while let Life::Failed { why, next_step } = self.live(&mut supervision, &mut trouble).await {
            let wait = supervision.ended(Instant::now(), rand::random());
            let (plugin, failures, again_ms) = (&self.spec.id, supervision.failures(), wait.as_millis());
            warn!(plugin, failures, again_ms, "plugin is not up: {why}");
            trouble.failing =
                supervision.needs_a_person().then_some(Failing { why, times: failures, next_step });
            self.told.set(&self.spec.id, trouble.clone());
            tokio::select! {
                () = sleep(wait) => {}
                // No request runs on it, so there is nothing to wait for.
                () = self.stop.cancelled() => break,
                () = self.soft.cancelled() => break,
            }
        }
    }

    async fn live(&self, supervision: &mut Supervision, trouble: &mut Trouble) -> Life {
        let Launched { mut running, unsandboxed } = match self.launcher.start(&self.spec).await {
            Ok(launched) => launched,
            Err(error) => {
                return Life::Failed { why: error.to_string(), next_step: error.next_step().to_owned() };
            }
        };
        trouble.unsandboxed = unsandboxed;
        self.told.set(&self.spec.id, trouble.clone());
        let next_step = running.log();
        // What takes longer, such as loading a model, is for after the first answer.
        let limit = self.config.borrow().config.connection_timeout;
        let at = At::Socket(self.spec.socket.clone());
        let answer = tokio::select! {
            end = running.ended() => return Life::Failed { why: end.to_string(), next_step },
            answer = ready(&at, limit) => answer,
            () = self.is_over() => return self.end(running).await,
        };
        match answer {
            Ok(description) => self.backends.described(&self.spec.id, description),
            Err(error) => {
                running.stop().await;
                let why = if error.may_pass() {
                    format!("it was not ready within {} s (connectionTimeout): {error}", limit.as_secs())
                } else {
                    error.to_string()
                };
                return Life::Failed { why, next_step };
            }
        }
        supervision.ready(Instant::now());
        info!(plugin = self.spec.id, "plugin is up");
        trouble.failing = None;
        self.told.set(&self.spec.id, trouble.clone());
        tokio::select! {
            end = running.ended() => Life::Failed { why: end.to_string(), next_step },
            why = self.hangs() => {
                running.stop().await;
                Life::Failed { why: format!("it runs, but does not answer: {why}"), next_step }
            }
            () = self.is_over() => self.end(running).await,
        }
    }

    /// Waits until the program is not wanted any more: its entry is gone, or the daemon ends and no request runs.
    async fn is_over(&self) {
        let finished = async {
            self.soft.cancelled().await;
            loop {
                let changed = self.broker.load_changes();
                if self.broker.in_flight() == 0 {
                    return;
                }
                changed.await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = finished => {}
            () = self.hard.cancelled() => {}
        }
    }

    async fn end(&self, running: Running) -> Life {
        if !(self.is_left_to_systemd() && matches!(running, Running::Unit(_))) {
            running.stop().await;
        }
        Life::Over
    }

    /// systemd ends it after the daemon; to wait for that here would be to wait for ourselves.
    fn is_left_to_systemd(&self) -> bool {
        self.soft.is_cancelled() && self.launcher.is_bound()
    }

    /// Waits until the broker has found it down often enough, and returns why.
    async fn hangs(&self) -> String {
        let patience = || {
            let config = &self.config.borrow().config;
            Patience {
                failures: config.max_retries.get(),
                delay: config.retry_delay,
                longest: config.health_check_interval,
            }
        };
        fallen(&self.broker, &self.spec.id, patience).await
    }

    /// Sees to it that no unit is left under the plugin's name. Tries until it is done or the daemon ends: what it cannot do
    /// then the next daemon does.
    async fn clear(&self) {
        let mut waits = Supervision::default();
        while let Err(error) = self.launcher.clear(&self.spec.id).await {
            let wait = waits.ended(Instant::now(), rand::random());
            let unit = self.launcher.unit(&self.spec.id);
            if waits.failures() == 1 {
                warn!(
                    unit,
                    error = chain(&error),
                    "plugin may run on though its entry is gone; systemd is asked again"
                );
            }
            if self.soft.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }
}

/// Waits until the program answers as a plugin; returns why it does not when it never will, or takes too long.
async fn ready(at: &At, limit: Duration) -> Result<Description, NotReady> {
    let deadline = Instant::now() + limit;
    loop {
        match describe::ask(at).await {
            Ok(description) => return Ok(description),
            Err(error) if !error.may_pass() || Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(ASK_AGAIN).await,
        }
    }
}
