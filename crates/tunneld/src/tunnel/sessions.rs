//! All sessions that are open: the one that takes new requests, and those that finish their streams.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use tunnel_broker::Broker;
use tunnel_transport::{Backoff, CloseCode, Closed, Desktop, RelayUrl, Session, SessionId};

use super::keeper::{Ended, Kept, Shown};
use super::service::TunnelService;
use super::settings::Settings;
use crate::keys::KeyRing;
use crate::secrets::Token;

/// Longest wait for the streams of a session that was stopped or replaced by order.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(25);
/// Sessions that finish their streams at a time. Where relays send the desktop on more often than its streams end, the
/// oldest is closed.
const MAX_FINISHING: usize = 8;
/// Sessions that were closed need a moment to tell the relay.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// Owns the tasks that keep sessions, and the sessions that nobody else holds any more.
pub(super) struct Sessions {
    keepers: JoinSet<Ended>,
    by_task: HashMap<Id, SessionId>,
    /// Sessions that finish their streams beside the one that takes new requests.
    finishing: Vec<Kept>,
    opened: u64,
    /// Resumes of sessions that are over or finishing.
    past_resumes: u64,
    serves: Serves,
    moves: mpsc::Sender<SessionId>,
    serving: watch::Receiver<Option<Session>>,
    settings: watch::Receiver<Arc<Settings>>,
    tracker: TaskTracker,
}

/// What the requests of a session meet here.
#[derive(Debug, Clone)]
pub(super) struct Serves {
    pub(super) broker: Broker,
    /// Keys made from this machine, whose limits hold here: the relay knows none.
    pub(super) ring: KeyRing,
}

/// A session that is over.
pub(super) enum Settled {
    Ended(Ended),
    /// Its keeper panicked; the session is gone with it.
    Broken(Option<SessionId>),
}

impl Settled {
    pub(super) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Ended(ended) => Some(ended.session),
            Self::Broken(session) => *session,
        }
    }
}

impl Sessions {
    /// `serving` follows which of them takes requests.
    pub(super) fn new(
        serves: Serves,
        moves: mpsc::Sender<SessionId>,
        serving: watch::Receiver<Option<Session>>,
        settings: watch::Receiver<Arc<Settings>>,
        tracker: TaskTracker,
    ) -> Self {
        Self {
            keepers: JoinSet::new(),
            by_task: HashMap::new(),
            finishing: Vec::new(),
            opened: 0,
            past_resumes: 0,
            serves,
            moves,
            serving,
            settings,
            tracker,
        }
    }

    /// Starts to keep a session that was just dialled.
    pub(super) fn keep(&mut self, desktop: Desktop, shown: Shown, backoff: Backoff) -> Kept {
        self.opened += 1;
        let service = TunnelService {
            serves: self.serves.clone(),
            session: desktop.session.clone(),
            settings: self.settings.clone(),
            moves: self.moves.clone(),
            serving: self.serving.clone(),
        };
        let (kept, keeping) = Kept::start(desktop, shown, service, backoff, &self.tracker);
        let task = self.keepers.spawn(keeping);
        self.by_task.insert(task.id(), kept.id());
        kept
    }

    /// Returns how many sessions there have been.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    pub(super) fn past_resumes(&self) -> u64 {
        self.past_resumes
    }

    /// Waits for the next session to end; `None` while there is none. Losing the future loses nothing.
    pub(super) async fn ended(&mut self) -> Option<Settled> {
        let ended = self.keepers.join_next_with_id().await?;
        Some(self.settle(ended))
    }

    fn settle(&mut self, ended: Result<(Id, Ended), JoinError>) -> Settled {
        let settled = match ended {
            Ok((task, ended)) => {
                self.by_task.remove(&task);
                Settled::Ended(ended)
            }
            Err(error) => Settled::Broken(self.by_task.remove(&error.id())),
        };
        self.drop_finishing(settled.session());
        settled
    }

    /// Counts the resumes of a session that is over: the sum never falls.
    pub(super) fn retire(&mut self, kept: &Kept) {
        self.past_resumes += kept.progress.borrow().resumes;
    }

    /// Keeps a session beside the one that takes requests.
    pub(super) fn set_aside(&mut self, kept: Kept) {
        self.retire(&kept);
        self.finishing.push(kept);
        let n_over = self.finishing.len().saturating_sub(MAX_FINISHING);
        for kept in &self.finishing[..n_over] {
            kept.session.close(shutting_down());
        }
    }

    /// Tells the sessions that finish their streams at `relay` of a token: a stream may outlast the one before.
    pub(super) fn take_token(&mut self, relay: &RelayUrl, token: &Token) {
        for kept in self.finishing.iter_mut().filter(|kept| kept.dialler.settings.relay == *relay) {
            kept.take_token(token);
        }
    }

    /// Lets a session finish its streams in the background.
    pub(super) fn finish(&mut self, kept: Kept) {
        self.end(&kept);
        self.set_aside(kept);
    }

    /// Ends the sessions that finish their streams, which may be left to a relay that takes its time.
    pub(super) fn end_finishing(&self) {
        for kept in &self.finishing {
            self.end(kept);
        }
    }

    /// Has a session take no further requests, and closes it when its streams take too long.
    fn end(&self, kept: &Kept) {
        kept.session.drain();
        let session = kept.session.clone();
        let closing = async move {
            if tokio::time::timeout(STOP_LIMIT, session.closed()).await.is_err() {
                session.close(shutting_down());
            }
        };
        self.tracker.spawn(closing);
    }

    /// Returns the newest session that finishes its streams at the relay and device of `settings`.
    pub(super) fn finishing_at(&self, settings: &Settings) -> Option<SessionId> {
        self.finishing.iter().rev().find(|kept| kept.dialler.settings.same_place(settings)).map(Kept::id)
    }

    pub(super) fn drop_finishing(&mut self, session: Option<SessionId>) {
        self.finishing.retain(|kept| Some(kept.id()) != session);
    }

    /// Lets all of them finish their streams, until `hard` or their end.
    pub(super) async fn drain(&mut self, hard: &CancellationToken) {
        for kept in &self.finishing {
            kept.session.drain();
            if kept.is_detached() && self.serves.broker.in_flight() == 0 {
                // Nobody waits for this link; the drain would wait for it.
                kept.session.close(shutting_down());
            }
        }
        tokio::select! {
            () = self.all_ended() => {}
            () = hard.cancelled() => {}
        }
        for kept in &self.finishing {
            kept.session.close(shutting_down());
        }
        if tokio::time::timeout(GOODBYE_LIMIT, self.all_ended()).await.is_err() {
            debug!("a session did not end in time");
        }
    }

    async fn all_ended(&mut self) {
        while self.ended().await.is_some() {}
    }
}

pub(super) fn shutting_down() -> Closed {
    Closed::new(CloseCode::ShuttingDown, "the desktop shuts down")
}
