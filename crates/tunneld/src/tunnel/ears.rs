//! What the supervisor listens to, whatever state it is in.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::settings::Settings;
use super::{Command, Rejected};

/// Where the supervisor hears from.
pub(super) struct Ears {
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) soft: CancellationToken,
}

pub(super) enum Heard {
    Command(Command),
    Settings,
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
            // All senders are gone: the daemon is being taken down without a word.
            else => Heard::Shutdown,
        }
    }
}

impl Heard {
    /// Tells the one who gave the order what comes of it.
    pub(super) fn take(self, answer: Result<(), Rejected>) {
        if let Self::Command(command) = self {
            // Who does not wait for the answer does not need it.
            let _gone = command.answer.send(answer);
        }
    }
}
