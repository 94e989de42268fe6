//! The tunnel's supervisor: holds the link to the relay up for as long as the user wants it.

pub(crate) mod advice;
mod dialler;
mod ears;
mod keeper;
mod moving;
mod presence;
mod service;
mod sessions;
mod settings;
mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tunnel_api::tunnel::Target;
use tunnel_api::{Tunnel, Warning};
use tunnel_broker::Broker;
use tunnel_runtime::CriticalTasks;
use tunnel_transport::Session;

use crate::world::Wake;

pub(crate) use dialler::tls;
pub(crate) use settings::Settings;

use crate::keys::KeyRing;
use crate::secrets::TokenHandle;
use crate::store::RecorderHandle;

/// What can be ordered of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Be up from now on; dials at once, also after a refusal or a takeover.
    Start,
    /// Let the running requests end, then stay away.
    Stop,
    /// Open a new session; the running requests end on the old one.
    Restart,
}

impl Order {
    /// What the user wants from then on.
    fn target(self) -> Target {
        match self {
            Self::Start | Self::Restart => Target::Up,
            Self::Stop => Target::Down,
        }
    }
}

/// Why an order is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("the tunnel is switched off in the config; set enableCloudProxy to true")]
    Disabled,
    #[error("tunneld is shutting down")]
    ShuttingDown,
}

/// An order on its way, with the way back for the answer.
#[derive(Debug)]
struct Command {
    order: Order,
    answer: oneshot::Sender<Result<(), Rejected>>,
}

/// How the tunnel stands, and what its user should do about it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TunnelReport {
    pub(crate) tunnel: Tunnel,
    /// Explains why the tunnel is not up.
    pub(crate) warning: Option<Warning>,
}

/// What the supervisor works with.
pub(crate) struct Deps {
    pub(crate) settings: watch::Receiver<Arc<Settings>>,
    /// Whether a tunnel is wanted at the start.
    pub(crate) wanted: bool,
    pub(crate) token: TokenHandle,
    pub(crate) broker: Broker,
    /// The keys whose limits hold for callers of the tunnel.
    pub(crate) ring: KeyRing,
    /// Where it is kept what the user wants, over a crash and a restart.
    pub(crate) record: RecorderHandle,
    /// Tells when the path to the relay may be another one; nothing is missed if its sender is gone.
    pub(crate) wakes: watch::Receiver<Wake>,
    pub(crate) soft: CancellationToken,
    pub(crate) hard: CancellationToken,
}

/// Gives orders to the supervisor and follows it. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct TunnelHandle {
    commands: mpsc::Sender<Command>,
    report: watch::Receiver<TunnelReport>,
    session: watch::Receiver<Option<Session>>,
}

/// Longest wait for the answer to a ping. A socket that does not answer is given up sooner.
pub(crate) const ROUND_TRIP_LIMIT: Duration = Duration::from_secs(5);
/// Orders that wait for the supervisor, which never takes long: a sender waits for room.
const MAX_WAITING_COMMANDS: usize = 16;

/// Starts the supervisor, one of `tasks`; it ends, drained, after `soft`.
pub(crate) fn start(deps: Deps, tasks: &CriticalTasks) -> TunnelHandle {
    let (commands, arriving) = mpsc::channel(MAX_WAITING_COMMANDS);
    let (tx, report) = watch::channel(TunnelReport::default());
    let (showing, session) = watch::channel(None);
    let soft = deps.soft.clone();
    let shown = supervisor::Shows { report: tx, session: showing };
    let supervisor = supervisor::Supervisor::new(deps, arriving, shown, tasks.tracker().clone());
    tasks.spawn("tunnel supervisor", soft, supervisor.run());
    TunnelHandle { commands, report, session }
}

impl TunnelHandle {
    /// Gives an order; returns once the supervisor has taken it, not when its goal is reached.
    ///
    /// An order that was sent is carried out and kept, also if its giver does not wait for the answer.
    pub(crate) async fn give(&self, order: Order) -> Result<(), Rejected> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Rejected::ShuttingDown;
        self.commands.send(Command { order, answer }).await.map_err(|_| Rejected::ShuttingDown)?;
        answered.await.map_err(gone)?
    }

    /// Measures a round trip to the relay now, within [`ROUND_TRIP_LIMIT`]. None while the tunnel is not up, or when
    /// no answer comes.
    pub(crate) async fn round_trip(&self) -> Option<Duration> {
        let session = self.session.borrow().clone()?;
        tokio::time::timeout(ROUND_TRIP_LIMIT, session.round_trip()).await.ok().flatten()
    }

    /// Follows the tunnel.
    pub(crate) fn reports(&self) -> watch::Receiver<TunnelReport> {
        self.report.clone()
    }

    /// Returns how the tunnel stands now.
    pub(crate) fn report(&self) -> TunnelReport {
        self.report.borrow().clone()
    }
}

#[cfg(test)]
mod tests;
