//! Keeps one session: serves it, and gives it a new socket each time its link is cut.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};
use tunnel_api::Warning;
use tunnel_transport::{Backoff, Closed, Desktop, LinkState, Retry, Session, SessionId};

use super::dialler::{Dialler, Failure, Next};
use super::service::TunnelService;
use crate::secrets::Token;

/// A session that is being kept, as the supervisor sees it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) session: Session,
    pub(super) dialler: Dialler,
    /// The version of the token that it was dialled with, which the relay has found good.
    pub(super) opened_with: u64,
    /// The version of the token that the relay was told of last. Whether it could judge that one is not known.
    token: u64,
    pub(super) progress: watch::Receiver<Progress>,
    nudge: Arc<Notify>,
    wake: Arc<Notify>,
}

/// What a session was dialled with.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) dialler: Dialler,
    /// The token's version.
    pub(super) token: u64,
}

/// Where a session's link stands.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) link: Link,
    /// How often the link was cut and came back.
    pub(super) resumes: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Link {
    Up,
    Resuming,
    /// Waits before the next attempt to resume, for this reason.
    Waiting(Option<Warning>),
}

/// A session that is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) session: SessionId,
    pub(super) why: Why,
    /// Handed on, so that an outage is one outage whatever is tried in it.
    pub(super) backoff: Backoff,
}

#[derive(Debug)]
pub(super) enum Why {
    Closed(Closed),
    /// The session could not be resumed, and was given up.
    Failed(Failure),
}

impl Kept {
    /// Starts to serve a session that was just dialled; the future runs until the session is over.
    pub(super) fn start(
        desktop: Desktop,
        shown: Shown,
        service: TunnelService,
        backoff: Backoff,
        tracker: &TaskTracker,
    ) -> (Self, impl Future<Output = Ended> + use<>) {
        let Desktop { session, server } = desktop;
        let Shown { dialler, token } = shown;
        let (tx, progress) = watch::channel(Progress { link: Link::Up, resumes: 0 });
        let (nudge, wake) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        // In a task of its own: serving is the hot path, and shares its wake-ups with nothing.
        let serving =
            AbortOnDropHandle::new(tracker.spawn(server.serve(hyper::service::service_fn(move |request| {
                let service = service.clone();
                // Boxed: hyper moves a handler several times on its way into a task, and this one is large.
                Box::pin(async move { Ok(service.answer(request).await) })
            }))));
        let keeper = Keeper {
            session: session.clone(),
            dialler: dialler.clone(),
            backoff,
            progress: tx,
            nudge: Arc::clone(&nudge),
            wake: Arc::clone(&wake),
        };
        (Self { session, dialler, opened_with: token, token, progress, nudge, wake }, keeper.keep(serving))
    }

    pub(super) fn id(&self) -> SessionId {
        self.session.id()
    }

    /// Cuts a wait before the next attempt to resume short.
    pub(super) fn nudge(&self) {
        self.nudge.notify_waiters();
    }

    /// Takes note that the path to the relay may be another one: a socket that looks up has to prove it, one that is
    /// lost is replaced at once, unless the relay itself has asked for a wait.
    pub(super) fn wake(&self) {
        self.session.probe();
        self.wake.notify_waiters();
    }

    /// Tells the relay of a token, if it has another one for the session; returns whether it had.
    pub(super) fn take_token(&mut self, token: &Token) -> bool {
        let is_news = token.version != self.token;
        if is_news {
            self.token = token.version;
            self.session.refresh_token(&token.secret);
        }
        is_news
    }

    pub(super) fn is_detached(&self) -> bool {
        matches!(*self.session.link().borrow(), LinkState::Detached { .. })
    }
}

struct Keeper {
    session: Session,
    dialler: Dialler,
    backoff: Backoff,
    progress: watch::Sender<Progress>,
    nudge: Arc<Notify>,
    wake: Arc<Notify>,
}

/// What a change of the world means while the keeper waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnWake {
    Resume,
    Ignore,
}

impl Keeper {
    async fn keep(mut self, mut serving: AbortOnDropHandle<Closed>) -> Ended {
        let mut link = self.session.link();
        let why = loop {
            tokio::select! {
                biased;
                closed = &mut serving => break Why::Closed(closed.unwrap_or_else(|_| broken())),
                () = until(&mut link, |state| matches!(state, LinkState::Detached { .. })) => {}
            }
            tokio::select! {
                biased;
                closed = &mut serving => break Why::Closed(closed.unwrap_or_else(|_| broken())),
                outcome = self.resume() => if let Err(failure) = outcome {
                    // Its streams are lost; they end at once rather than with the grace time.
                    drop(serving);
                    break Why::Failed(failure);
                }
            }
            // The socket was handed over; the link says so itself.
            let attached = until(&mut link, |state| !matches!(state, LinkState::Detached { .. }));
            if tokio::time::timeout(ATTACH_LIMIT, attached).await.is_err() {
                debug!(session = %self.session.id(), "the new socket was lost at once");
            }
        };
        Ended { session: self.session.id(), why, backoff: self.backoff }
    }

    /// Tries until the session has a socket again, or cannot have one.
    async fn resume(&mut self) -> Result<(), Failure> {
        info!(session = %self.session.id(), "link lost, resuming");
        let mut wait = (self.backoff.lost(Instant::now(), &mut rand::rng()), OnWake::Resume);
        let mut reason = None;
        loop {
            self.wait(wait, reason.take()).await;
            self.show(Link::Resuming);
            match self.attempt().await {
                Ok(()) => {
                    self.backoff.up(Instant::now());
                    self.progress.send_modify(|progress| {
                        progress.link = Link::Up;
                        progress.resumes += 1;
                    });
                    info!(session = %self.session.id(), "link resumed");
                    return Ok(());
                }
                Err(failure) => {
                    let now = Instant::now();
                    wait = match failure.next() {
                        // A token file may just be being rewritten; the grace time bounds the wait for it.
                        Next::Retry(Retry::Backoff) | Next::AwaitToken => {
                            (self.backoff.next(now, &mut rand::rng()), OnWake::Resume)
                        }
                        Next::Retry(Retry::After(after)) => {
                            (self.backoff.asked(after, now, &mut rand::rng()), OnWake::Ignore)
                        }
                        Next::Retry(Retry::Fresh | Retry::Never) | Next::Refused | Next::TakenOver => {
                            return Err(failure);
                        }
                    };
                    let advice = failure.advice();
                    debug!(session = %self.session.id(), error = %advice.message, "resume failed");
                    reason = Some(advice);
                }
            }
        }
    }

    /// Tries once. An attempt that is old when the world changes begins anew.
    async fn attempt(&self) -> Result<(), Failure> {
        loop {
            let stale = async {
                let old = tokio::time::sleep(STALE_ATTEMPT);
                self.wake.notified().await;
                old.await;
            };
            tokio::select! {
                outcome = self.dialler.resume(&self.session) => return outcome,
                () = stale => debug!(session = %self.session.id(), "the network has changed, trying anew"),
            }
        }
    }

    async fn wait(&self, (wait, on_wake): (Duration, OnWake), reason: Option<Warning>) {
        if wait.is_zero() {
            return;
        }
        self.show(Link::Waiting(reason));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.nudge.notified() => {}
            () = self.wake.notified(), if on_wake == OnWake::Resume => {}
        }
    }

    fn show(&self, link: Link) {
        self.progress.send_modify(|progress| progress.link = link);
    }
}

async fn until(link: &mut watch::Receiver<LinkState>, reached: impl Fn(&LinkState) -> bool) {
    // Cannot fail: the keeper's own handle keeps the session's state alive.
    let _state = link.wait_for(|state| reached(state)).await;
}

/// An attempt that is older than this when the network changes most likely waits for an answer that the old network
/// has swallowed, up to the limit for a connection. A younger one may just be about to succeed: it gets this long.
pub(super) const STALE_ATTEMPT: Duration = Duration::from_secs(5);
/// A socket that was handed to the link is taken up at its next turn.
const ATTACH_LIMIT: Duration = Duration::from_secs(1);

/// Serving ended by a panic, which its task has reported.
pub(super) fn broken() -> Closed {
    Closed::new(tunnel_transport::CloseCode::Unknown(0), "an internal error ended the session")
}
