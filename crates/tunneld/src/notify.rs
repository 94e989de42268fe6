//! Desktop notifications: what someone at the machine should know without looking.
//!
//! A desktop is not there on every machine, so all of this may fail in silence. Nothing waits for it.

mod bus;
mod left;
mod plan;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tunnel_api::Status;

pub(crate) use self::left::{LeftToClients, Taken};
use self::plan::{Note, Plan, Teller};
use crate::config::ConfigState;
use crate::secrets::SessionBus;
use crate::until::until;
use crate::warnings::Transition;

/// Transitions that wait while a notification service takes its time; further ones are dropped and counted.
pub(crate) const ROOM: usize = 16;

/// Shows notifications about warnings, as the configuration's `showNotifications` wants it.
pub(crate) struct Notifier {
    /// From a [`crate::warnings::Listener`].
    pub(crate) arriving: mpsc::Receiver<Transition>,
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) config: watch::Receiver<Arc<ConfigState>>,
    pub(crate) bus: SessionBus,
    /// Whether a client tells what it can tell better.
    pub(crate) left_to_clients: LeftToClients,
    pub(crate) soft: CancellationToken,
}

impl Notifier {
    /// Runs until `soft` ends, or nothing can come any more.
    pub(crate) async fn run(self) {
        let bus = self.bus.clone();
        let soft = self.soft.clone();
        let send = |note: Note| {
            // Each time anew: a desktop may come after the daemon.
            let address = bus.address();
            async move { bus::notify(address.as_deref(), &note).await }
        };
        let _stopped = soft.run_until_cancelled(self.follow(send)).await;
    }

    async fn follow<F>(mut self, send: impl Fn(Note) -> F)
    where
        F: Future<Output = Result<u32, bus::NotifyError>>,
    {
        let mut plan = Plan::default();
        let mut clients = self.left_to_clients.follow();
        loop {
            let due = plan.due();
            let note = tokio::select! {
                transition = self.arriving.recv() => match transition {
                    Some(transition) => {
                        plan.hear(transition, &self.status.borrow(), Instant::now().into_std())
                    }
                    None => return,
                },
                Ok(()) = clients.changed() => {
                    if self.left_to_clients.teller() == Teller::Daemon {
                        plan.clients_gone(Instant::now().into_std());
                    }
                    None
                }
                () = until(due) => plan.take(self.left_to_clients.teller(), Instant::now().into_std()),
            };
            let Some(note) = note.filter(|_| self.config.borrow().config.show_notifications) else {
                continue;
            };
            let (key, urgency) = (note.key.clone(), note.urgency);
            match send(note).await {
                Ok(id) => plan.shown(key, urgency, id),
                Err(error) => debug!(error = crate::daemon::chain(&error), "no notification"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
