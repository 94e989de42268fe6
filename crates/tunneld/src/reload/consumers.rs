//! Who takes over a new configuration.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tunnel_api::Config;
use tunnel_runtime::LogLevel;

use crate::config::Loaded;
use crate::doors::{Applied, Doors};
use crate::plugins::Backends;
use crate::secrets::Vault;
use crate::tunnel::Settings;
use crate::warnings::Reports;

/// The parts that are told their section; all others look at the watch of the configuration.
pub(crate) struct Consumers {
    /// None where nobody listens, as in a test.
    pub(crate) doors: Option<Doors>,
    /// Where the doors' troubles are told.
    pub(crate) reports: Reports,
    pub(crate) backends: Backends,
    /// Has the secrets of connections.
    pub(crate) vault: Vault,
    pub(crate) settings: watch::Sender<Arc<Settings>>,
    /// None where the log is not ours, as in a test.
    pub(crate) log_level: Option<LogLevel>,
}

impl Consumers {
    /// Tells each part its section; each compares it with what it has.
    pub(super) fn apply(&self, before: &Config, loaded: &Loaded) {
        // A level that was set through the API stays until the file says another one.
        if let Some(log_level) = &self.log_level
            && before.log_level != loaded.config.log_level
        {
            log_level.set(loaded.log_level());
        }
        let mut broker = loaded.broker.clone();
        self.vault.equip(&loaded.config, &mut broker);
        self.backends.configure(broker);
        self.settings.send_if_modified(|settings| {
            let changed = **settings != loaded.tunnel;
            *settings = Arc::new(loaded.tunnel.clone());
            changed
        });
    }

    /// Brings the doors to where the configuration wants them. Returns the keys for which that needs a restart.
    pub(super) async fn apply_doors(&self, config: &Config) -> Vec<String> {
        let Some(doors) = &self.doors else { return Vec::new() };
        let Applied { restart_required, conditions } = doors.apply(config).await;
        self.reports.set("doors", conditions);
        restart_required
    }
}

impl fmt::Debug for Consumers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumers").finish_non_exhaustive()
    }
}
