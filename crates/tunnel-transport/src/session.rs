//! The handle of a session, for either end.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::closed::{CloseCode, Closed};
use crate::frame::Token;
use crate::link::Socket;
use crate::link::core::{Core, Pong};
use crate::names::SessionId;

/// Where a session's link stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Carried by a socket.
    Attached {
        /// Since when.
        since: Instant,
    },
    /// Without a socket, kept for [`Session::grace`]; its streams wait.
    Detached {
        /// Since when.
        since: Instant,
    },
    /// Over. Its streams are reset.
    Closed(Closed),
}

/// A handle to one session. Cheap to clone; the session lives in the task that drives it.
#[derive(Clone, Debug)]
pub struct Session {
    shared: Arc<Shared>,
}

/// What the handle and the link share: letters one way, the link's state the other.
#[derive(Debug)]
pub(crate) struct Shared {
    id: SessionId,
    grace: Duration,
    window: u64,
    /// What a link says that ends without being told why.
    parting: CloseCode,
    has_letters: AtomicBool,
    letters: Mutex<Letters>,
    waker: AtomicWaker,
    state: watch::Sender<LinkState>,
    drain: CancellationToken,
    tokens: mpsc::Sender<SecretString>,
    /// The socket over which the link said goodbye.
    parted: Mutex<Option<Parted>>,
    received: AtomicU64,
    kept_from: AtomicU64,
    sent: AtomicU64,
    rtt_us: AtomicU32,
    /// The newest ping that has come back.
    pong: watch::Sender<Option<Pong>>,
}

/// Orders for the link. Of each kind only the newest counts.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    pub(crate) attach: Option<Attach>,
    pub(crate) token: Option<Token>,
    pub(crate) probe: bool,
    pub(crate) close: Option<Closed>,
}

/// A new socket for a link.
pub(crate) struct Attach {
    pub(crate) socket: Box<dyn Socket>,
    /// What came with the answer to the upgrade.
    pub(crate) read_ahead: Bytes,
    /// What this end told it had received.
    pub(crate) told: u64,
    /// What the other end told it had received.
    pub(crate) received: u64,
}

impl std::fmt::Debug for Attach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attach")
            .field("told", &self.told)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

/// What both ends agree on in the handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) id: SessionId,
    pub(crate) grace: Duration,
    pub(crate) window: u64,
    pub(crate) parting: CloseCode,
}

/// A socket on which only the last words are left to say.
struct Parted {
    socket: Box<dyn Socket>,
    words: Vec<u8>,
}

impl std::fmt::Debug for Parted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parted")
    }
}

/// Longest wait for the last words to leave and for the other end to close, too.
const LINGER: Duration = Duration::from_secs(2);

/// Refreshed tokens that wait to be looked at.
const TOKENS: usize = 4;

impl Shared {
    pub(crate) fn new(terms: Terms) -> (Arc<Self>, mpsc::Receiver<SecretString>) {
        let (tokens, arriving) = mpsc::channel(TOKENS);
        let shared = Self {
            id: terms.id,
            grace: terms.grace,
            window: terms.window,
            parting: terms.parting,
            has_letters: AtomicBool::new(false),
            letters: Mutex::default(),
            waker: AtomicWaker::new(),
            state: watch::Sender::new(LinkState::Detached { since: Instant::now() }),
            drain: CancellationToken::new(),
            tokens,
            parted: Mutex::default(),
            received: AtomicU64::new(0),
            kept_from: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            rtt_us: AtomicU32::new(0),
            pong: watch::Sender::new(None),
        };
        (Arc::new(shared), arriving)
    }

    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn parting(&self) -> Closed {
        let reason = match self.parting {
            CloseCode::ShuttingDown => "the desktop shuts down",
            CloseCode::Restarting => "1000",
            _ => "the session ended",
        };
        Closed::new(self.parting, reason)
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(crate) fn has_letters(&self) -> bool {
        self.has_letters.load(Ordering::Acquire)
    }

    pub(crate) fn take_letters(&self) -> Letters {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_letters.store(false, Ordering::Release);
        std::mem::take(&mut letters)
    }

    fn post(&self, write: impl FnOnce(&mut Letters)) {
        write(&mut self.letters.lock().unwrap_or_else(PoisonError::into_inner));
        self.has_letters.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn post_attach(&self, attach: Attach) {
        self.post(|letters| letters.attach = Some(attach));
    }

    /// Makes the link's counts visible to [`Session`].
    pub(crate) fn publish(&self, core: &Core) {
        let (kept_from, sent) = core.resumable();
        self.received.store(core.received(), Ordering::Release);
        self.kept_from.store(kept_from, Ordering::Release);
        self.sent.store(sent, Ordering::Release);
        if let Some(rtt) = core.rtt() {
            // 0 stands for "not known".
            let us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
            self.rtt_us.store(us, Ordering::Relaxed);
        }
        self.pong.send_if_modified(|pong| {
            let news = *pong != core.pong();
            *pong = core.pong();
            news
        });
    }

    pub(crate) fn is_attached(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Attached { .. })
    }

    pub(crate) fn attached(&self, since: Instant) {
        self.state.send_replace(LinkState::Attached { since });
    }

    pub(crate) fn detached(&self, since: Instant) {
        self.state.send_replace(LinkState::Detached { since });
    }

    pub(crate) fn closed(&self, closed: Closed) {
        self.state.send_if_modified(|state| {
            let first = !matches!(state, LinkState::Closed(_));
            if first {
                *state = LinkState::Closed(closed);
            }
            first
        });
    }

    pub(crate) fn part_with(&self, mut socket: Box<dyn Socket>, mut words: Vec<u8>) {
        // As a rule they fit at once, and then they leave even if nobody lingers.
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(n)) = Pin::new(&mut socket).poll_write(&mut cx, &words) {
            words.drain(..n);
        }
        let _later = Pin::new(&mut socket).poll_flush(&mut cx);
        *self.parted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Parted { socket, words });
    }

    /// Says the last words and reads what still comes until the other end has closed: a socket that is dropped with
    /// unread bytes is reset, and the reset may overtake the CLOSE frame.
    pub(crate) async fn linger(&self) {
        let parted = self.parted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Parted { mut socket, words }) = parted else { return };
        let parting = async {
            socket.write_all(&words).await?;
            socket.shutdown().await?;
            let mut bin = vec![0; 16 * 1024];
            while socket.read(&mut bin).await? > 0 {}
            io::Result::Ok(())
        };
        let _late = tokio::time::timeout(LINGER, parting).await;
    }

    /// A token that finds the queue full is dropped: a desktop that refreshes so often sends another one.
    pub(crate) fn token_arrived(&self, token: Token) {
        let _full = self.tokens.try_send(SecretString::from(token.0));
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Tells whether the other end can go on from having received `offset`.
    pub(crate) fn can_resume(&self, offset: u64) -> bool {
        (self.kept_from.load(Ordering::Acquire)..=self.sent.load(Ordering::Acquire)).contains(&offset)
    }

    pub(crate) fn draining(&self) -> CancellationToken {
        self.drain.clone()
    }
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns the session's id.
    pub fn id(&self) -> SessionId {
        self.shared.id
    }

    /// Follows the link's state.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    /// Returns how long the session is kept without a socket.
    pub fn grace(&self) -> Duration {
        self.shared.grace
    }

    /// Returns the newest round-trip time to the other end; `None` before the first ping has come back.
    pub fn rtt(&self) -> Option<Duration> {
        match self.shared.rtt_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(Duration::from_micros(us.into())),
        }
    }

    /// Returns how many bytes of the stream have gone out and come in.
    pub fn bytes(&self) -> (u64, u64) {
        (self.shared.sent.load(Ordering::Relaxed), self.shared.received())
    }

    /// Ends the session: the other end is told if it can be, all streams are reset.
    pub fn close(&self, closed: Closed) {
        self.shared.post(|letters| letters.close = Some(closed));
    }

    /// Takes no new streams; the session ends when the running ones have. For the desktop's end.
    pub fn drain(&self) {
        self.shared.drain.cancel();
    }

    /// Waits until [`Self::drain`] is called, or the session is over: what has no end of its own ends then.
    pub async fn draining(&self) {
        tokio::select! {
            () = self.shared.drain.cancelled() => {}
            _ = self.closed() => {}
        }
    }

    /// Doubts the socket: a ping goes out at once, and without its pong the socket is dead within seconds.
    ///
    /// For a caller who knows that the path may have changed under it: the network did, or the machine slept, which
    /// a clock that stands still while it sleeps does not tell. Costs nothing while there is no socket.
    pub fn probe(&self) {
        self.shared.post(|letters| letters.probe = true);
    }

    /// Measures a round trip anew, by a [`Self::probe`]. None when there is no socket, or when it is lost meanwhile.
    pub async fn round_trip(&self) -> Option<Duration> {
        let mut link = self.link();
        if !self.shared.is_attached() {
            return None;
        }
        let mut pongs = self.shared.pong.subscribe();
        self.probe();
        tokio::select! {
            // Cannot fail: `self` keeps the sender alive.
            Ok(()) = pongs.changed() => pongs.borrow().map(|pong| pong.took),
            _ = link.wait_for(|state| !matches!(state, LinkState::Attached { .. })) => None,
        }
    }

    /// Hands a refreshed token to the relay. After a resume it is to be sent again.
    pub fn refresh_token(&self, token: &SecretString) {
        let token = Token(token.expose_secret().to_owned());
        self.shared.post(|letters| letters.token = Some(token));
    }

    /// Waits until the session is over and returns why.
    pub async fn closed(&self) -> Closed {
        let mut link = self.link();
        match link.wait_for(|state| matches!(state, LinkState::Closed(_))).await.as_deref() {
            Ok(LinkState::Closed(closed)) => closed.clone(),
            // Cannot happen: `self` keeps the sender alive and the condition names the variant.
            _ => self.shared.parting(),
        }
    }
}
