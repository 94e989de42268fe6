//! Plugins that somebody else starts: asked what they are, and asked again when they have been away.

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tunnel_broker::{BackendStatus, Broker, Health};

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
        let mut waits = Supervision::default();
        loop {
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
            waits.ready(Instant::now());
            self.backends.described(&self.id, description);
            self.broker.probe(&self.id).await;
            self.away().await;
            // One that describes itself and is down all the same is not asked without a pause.
            sleep(waits.ended(Instant::now(), rand::random())).await;
        }
    }

    /// Waits until the broker finds it down: what comes back may be another version.
    async fn away(&self) {
        let mut backends = self.broker.status();
        loop {
            // One that does not take our credential is there.
            let down = |backend: &BackendStatus| backend.id == self.id && backend.health == Health::Down;
            let down = backends.borrow_and_update().iter().any(down);
            if down {
                return;
            }
            if backends.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
