//! Where the pieces of a body wait for their tenant's bytes a second.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use crate::limits::Throttle;

/// One body at its tenant's bucket. It holds one piece at most: while that waits nothing more is taken from whoever
/// sends, and flow control holds the rest back.
pub(super) struct Toll {
    throttle: Arc<Throttle>,
    held: Option<Frame<Bytes>>,
    /// Made only for a piece that has to wait.
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Toll {
    pub(super) fn new(throttle: Arc<Throttle>) -> Self {
        Self { throttle, held: None, turn: None }
    }

    /// Tells whether a piece waits here.
    pub(super) fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Lets a piece pass, or holds it until [`Self::poll_held`] gives it back.
    pub(super) fn pass(&mut self, frame: Frame<Bytes>, cx: &mut Context<'_>) -> Poll<Frame<Bytes>> {
        let n_bytes = frame.data_ref().map_or(0, Bytes::len);
        if n_bytes == 0 || self.throttle.try_take(n_bytes) {
            return Poll::Ready(frame);
        }
        self.held = Some(frame);
        self.turn = Some(Box::pin(Arc::clone(&self.throttle).take(n_bytes)));
        self.poll_held(cx)
    }

    /// Gives the piece back that waits here, once it may go. Only while [`Self::is_holding`].
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Frame<Bytes>> {
        if let Some(turn) = &mut self.turn {
            ready!(turn.as_mut().poll(cx));
            self.turn = None;
        }
        match self.held.take() {
            Some(frame) => Poll::Ready(frame),
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toll").field("holding", &self.is_holding()).finish_non_exhaustive()
    }
}
