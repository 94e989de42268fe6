//! Plugins that somebody else starts: asked what they are, and asked again when they have been away.

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tunnel_broker::{BackendState, Broker};

use super::backends::Backends;
use super::describe::{self, At};
use super::supervise::Supervision;

/// Asks one plugin.
pub(super) struct Visitor {
    pub(super) id: String,
    pub(super) at: At,
    pub(super) broker: Broker,
    pub(super) backends: Backends,
    pub(super) stop: CancellationToken,
    pub(super) soft: CancellationToken,
}

impl Visitor {
    /// Runs until the entry is gone or the daemon ends. That nobody answers is the broker's to tell.
    pub(super) async fn run(self) {
        tokio::select! {
            () = self.visit() => {}
            () = self.stop.cancelled() => self.backends.forget(&self.id),
            () = self.soft.cancelled() => {}
        }
    }

    async fn visit(&self) {
        let mut told = None;
        loop {
            let mut waits = Supervision::default();
            let description = loop {
                match describe::ask(&self.at).await {
                    Ok(description) => break description,
                    Err(error) => {
                        let why = error.to_string();
                        // Once for each reason: it may be away for weeks.
                        if !error.may_pass() && told.as_ref() != Some(&why) {
                            warn!(plugin = self.id, "plugin cannot be used as it describes itself: {why}");
                            told = Some(why);
                        }
                        sleep(waits.ended(Instant::now(), rand::random())).await;
                    }
                }
            };
            info!(plugin = self.id, "plugin has described itself");
            self.backends.described(&self.id, description);
            self.broker.probe(&self.id).await;
            self.away().await;
        }
    }

    /// Waits until the broker finds it down: what comes back may be another version.
    async fn away(&self) {
        let mut backends = self.broker.status();
        loop {
            let down = backends.borrow_and_update().iter().any(|backend| {
                backend.id == self.id
                    && matches!(backend.state, BackendState::Disconnected | BackendState::Error)
            });
            if down {
                return;
            }
            if backends.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
