//! The status hub: joins what the parts publish into one snapshot, without asking them.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tunnel_api::{Status, Warning};
use tunnel_broker::BackendStatus;

use crate::config::ConfigState;
use crate::tunnel::TunnelReport;
use crate::view::{Parts, snapshot};

/// Listens to all parts and publishes a new snapshot after each change.
pub(crate) struct StatusHub {
    backends: watch::Receiver<Arc<Vec<BackendStatus>>>,
    tunnel: watch::Receiver<TunnelReport>,
    config: watch::Receiver<Arc<ConfigState>>,
    missing: Vec<Warning>,
    soft: CancellationToken,
    status: watch::Sender<Arc<Status>>,
}

/// What the hub listens to.
pub(crate) struct Sources {
    pub(crate) backends: watch::Receiver<Arc<Vec<BackendStatus>>>,
    pub(crate) tunnel: watch::Receiver<TunnelReport>,
    pub(crate) config: watch::Receiver<Arc<ConfigState>>,
    /// What was found missing at the start, such as a directory for the control socket.
    pub(crate) missing: Vec<Warning>,
    pub(crate) soft: CancellationToken,
}

impl StatusHub {
    /// Makes the hub with its first snapshot.
    pub(crate) fn new(sources: Sources) -> (Self, watch::Receiver<Arc<Status>>) {
        let Sources { backends, tunnel, config, missing, soft } = sources;
        let (status, reader) = watch::channel(Arc::default());
        let mut hub = Self { backends, tunnel, config, missing, soft, status };
        hub.publish();
        (hub, reader)
    }

    /// Runs until the tunnel's supervisor has ended, which is the last that has news.
    pub(crate) async fn run(mut self) {
        loop {
            let stopping = self.soft.is_cancelled();
            tokio::select! {
                Ok(()) = self.backends.changed() => {}
                changed = self.tunnel.changed() => if changed.is_err() { return },
                Ok(()) = self.config.changed() => {}
                () = self.soft.cancelled(), if !stopping => {}
            }
            self.publish();
        }
    }

    fn publish(&mut self) {
        let parts = Parts {
            backends: &self.backends.borrow_and_update(),
            tunnel: &self.tunnel.borrow_and_update(),
            config: &self.config.borrow_and_update(),
            missing: &self.missing,
            stopping: self.soft.is_cancelled(),
        };
        let status = snapshot(&parts, Timestamp::now());
        self.status.send_replace(Arc::new(status));
    }
}
