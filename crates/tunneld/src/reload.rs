//! Takes over a changed configuration while the daemon runs.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tunnel_api::Config;
use tunnel_broker::Broker;
use tunnel_runtime::{LogLevel, systemd};

use crate::config::{ConfigState, LoadError, Loaded, Options};
use crate::guard::Guards;
use crate::tunnel::Settings;

/// Reads the configuration anew when asked to, and tells each part its section.
///
/// A configuration with faults changes nothing: what was loaded before stays in force, the status says why.
pub(crate) struct Reloader {
    pub(crate) options: Options,
    /// What the doors were opened with.
    pub(crate) running: Config,
    pub(crate) broker: Broker,
    pub(crate) guards: Arc<Guards>,
    pub(crate) settings: watch::Sender<Arc<Settings>>,
    pub(crate) state: watch::Sender<Arc<ConfigState>>,
    pub(crate) log_level: Option<LogLevel>,
}

impl Reloader {
    /// Reloads on each SIGHUP until `soft` ends.
    pub(crate) async fn run(self, mut hangups: watch::Receiver<u64>, soft: CancellationToken) {
        loop {
            tokio::select! {
                asked = hangups.changed() => if asked.is_err() { return },
                () = soft.cancelled() => return,
            }
            systemd::reloading();
            let options = self.options.clone();
            // Reads files; small ones, but they may lie on a network.
            match tokio::task::spawn_blocking(move || Loaded::load(&options)).await {
                Ok(Ok(loaded)) => self.apply(loaded),
                Ok(Err(error)) => self.keep(&error),
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
            systemd::ready("configuration reloaded");
        }
    }

    fn apply(&self, loaded: Loaded) {
        let restart_required = ConfigState::restart_required(&self.running, &loaded.config);
        for key in &restart_required {
            warn!(key, "the change takes effect after a restart");
        }
        if let Some(log_level) = &self.log_level {
            log_level.set(loaded.log_level());
        }
        let (control_port, gateway_port) =
            (self.running.api_server_port.get(), self.running.gateway_port.get());
        self.guards.replace(control_port, gateway_port, &loaded.config.allowed_origins);
        let state = loaded.state(restart_required);
        self.broker.reconfigure(loaded.broker);
        self.settings.send_if_modified(|settings| {
            let changed = **settings != loaded.tunnel;
            *settings = Arc::new(loaded.tunnel);
            changed
        });
        self.state.send_replace(Arc::new(state));
        info!("configuration reloaded");
    }

    fn keep(&self, error: &LoadError) {
        let told = error.to_string();
        warn!(error = told, "the configuration is not usable, the one before stays in force");
        self.state.send_modify(|state| {
            let mut kept = ConfigState::clone(state);
            kept.status.last_error = Some(told);
            *state = Arc::new(kept);
        });
    }
}
