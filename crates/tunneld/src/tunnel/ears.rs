//! What the supervisor listens to, whatever state it is in.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::settings::Settings;
use super::{Command, Rejected};
use crate::store::RecorderHandle;
use crate::world::{Cause, Wake};

/// Where the supervisor hears from.
pub(super) struct Ears {
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) wakes: watch::Receiver<Wake>,
    pub(super) soft: CancellationToken,
}

pub(super) enum Heard {
    Command(Command),
    Settings,
    /// The network, the machine or its clock is not what it was.
    Wake(Cause),
    Shutdown,
}

impl Ears {
    /// Waits for the next thing to act on. Loses nothing when dropped.
    pub(super) async fn heard(&mut self) -> Heard {
        tokio::select! {
            biased;
            () = self.soft.cancelled() => Heard::Shutdown,
            Some(command) = self.commands.recv() => Heard::Command(command),
            Ok(()) = self.settings.changed() => Heard::Settings,
            Ok(()) = self.wakes.changed() => Heard::Wake(self.wakes.borrow_and_update().cause),
            // All senders are gone: the daemon is being taken down without a word.
            else => Heard::Shutdown,
        }
    }
}

impl Heard {
    /// Takes the order: keeps in `record` what is wanted from now on, then tells the one who gave it.
    ///
    /// In this order, and here: who gave it may be gone, and two orders are kept in the sequence in which they are
    /// carried out.
    pub(super) fn accept(self, record: &RecorderHandle) {
        if let Self::Command(Command { order, answer }) = self {
            record.target(order.target(), Timestamp::now());
            // Who does not wait for the answer does not need it.
            let _gone = answer.send(Ok(()));
        }
    }

    /// Tells the one who gave the order why nothing comes of it.
    pub(super) fn reject(self, why: Rejected) {
        if let Self::Command(Command { answer, .. }) = self {
            let _gone = answer.send(Err(why));
        }
    }
}
