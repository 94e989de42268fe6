//! Notifications that a client of `/ws` has taken over.

use tokio::sync::watch;

use super::plan::Teller;

/// Knows whether a client tells of the tunnel and the connections itself. Clones share it.
///
/// It counts them.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeftToClients(watch::Sender<usize>);

/// A client tells until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken(watch::Sender<usize>);

impl LeftToClients {
    /// Leaves these notifications to one more client.
    pub(crate) fn take(&self) -> Taken {
        self.0.send_modify(|clients| *clients += 1);
        Taken(self.0.clone())
    }

    /// Returns who tells at this moment.
    pub(super) fn teller(&self) -> Teller {
        if *self.0.borrow() == 0 { Teller::Daemon } else { Teller::Client }
    }

    /// Changes with each client that comes or goes.
    pub(super) fn follow(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.send_modify(|clients| *clients -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemon_tells_again_once_the_last_client_has_gone() {
        let left = LeftToClients::default();
        let (one, other) = (left.take(), left.take());
        assert_eq!(left.teller(), Teller::Client);
        drop(one);
        assert_eq!(left.teller(), Teller::Client);
        drop(other);
        assert_eq!(left.teller(), Teller::Daemon);
    }
}
