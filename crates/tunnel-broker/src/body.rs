use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::conn::Conn;
use crate::idle::Idle;
use crate::inband::InBand;
use crate::meter::Meter;

/// The error of bodies that pass through the broker.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response: made here, or streamed from a backend.
///
/// Holds the backend's connection. Dropped before its end it closes that connection at once, which is how a
/// model is told to stop; at its end the connection goes back into the pool.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Full(Bytes),
    Streamed(Streamed),
    /// The response failed: what is left to do before the error.
    Failing(Failing),
    Done,
}

/// Why a response that had begun did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The backend closed the connection, or sent something that is not HTTP.
    #[error("the model server broke off its response")]
    BackendLost,
    /// The backend was silent for longer than it may be between two chunks.
    #[error("the model server stopped sending")]
    IdleTimeout,
    /// Somebody cancelled the request: [`Broker::cancel`](crate::Broker::cancel).
    #[error("the request was cancelled on the machine that serves it")]
    Cancelled,
}

impl BodyError {
    /// The machine-readable reason, as it stands in an in-band error.
    pub fn code(self) -> &'static str {
        match self {
            Self::BackendLost => "backend_lost",
            Self::IdleTimeout => "idle_timeout",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Body {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self(Kind::Full(bytes))
    }

    /// Makes the body of a response that has not come to its end: what there is of it, and an error.
    pub(crate) fn part(bytes: Bytes, error: BodyError, mut meter: Meter) -> Self {
        meter.passed(&bytes);
        meter.broke(error);
        Self(Kind::Failing(Failing { error, step: Step::Say(bytes), _meter: meter }))
    }

    pub(crate) fn empty() -> Self {
        Self(Kind::Done)
    }

    pub(crate) fn streamed(streamed: Streamed) -> Self {
        Self(Kind::Streamed(streamed))
    }
}

/// A response that is under way.
pub(crate) struct Streamed {
    pub(crate) incoming: Incoming,
    pub(crate) conn: Conn,
    pub(crate) idle: Idle,
    /// How a failure is told to a local caller; none where the next hop tells it, or where nothing can.
    pub(crate) in_band: Option<InBand>,
    /// Whether only its text tells if it has come to its end.
    pub(crate) may_be_cut: bool,
    /// Follows the request until the body is gone.
    pub(crate) meter: Meter,
}

#[derive(Debug)]
struct Failing {
    error: BodyError,
    step: Step,
    _meter: Meter,
}

#[derive(Debug)]
enum Step {
    Say(Bytes),
    /// Gives the server time to send what it has.
    Flush(Pin<Box<Sleep>>),
}

/// How long the end of a response that failed is put off. The server drops what it has not sent when a body fails, and
/// cannot be asked when it has: the last words and the tokens before them would be lost now and then. Far longer than
/// a write takes on a machine that is out of breath, and too short to be noticed.
const FLUSH_TIME: Duration = Duration::from_millis(20);

impl Step {
    fn flush() -> Self {
        Self::Flush(Box::pin(tokio::time::sleep(FLUSH_TIME)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match &mut self.0 {
                Kind::Full(bytes) => {
                    let bytes = std::mem::take(bytes);
                    self.0 = Kind::Done;
                    return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
                }
                Kind::Streamed(streamed) => {
                    let (polled, ended) = match streamed.poll(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(polled) => polled,
                    };
                    if ended.is_none() {
                        return Poll::Ready(polled.map(Ok));
                    }
                    let Kind::Streamed(streamed) = std::mem::replace(&mut self.0, Kind::Done) else {
                        continue;
                    };
                    match ended {
                        Some(Err(error)) => self.0 = Kind::Failing(streamed.fail(error)),
                        _ => {
                            streamed.finish();
                            return Poll::Ready(polled.map(Ok));
                        }
                    }
                }
                Kind::Failing(failing) => match &mut failing.step {
                    Step::Say(words) => {
                        let words = std::mem::take(words);
                        failing.step = Step::flush();
                        return Poll::Ready(Some(Ok(Frame::data(words))));
                    }
                    Step::Flush(time) => {
                        ready!(time.as_mut().poll(cx));
                        let error = failing.error;
                        self.0 = Kind::Done;
                        return Poll::Ready(Some(Err(error.into())));
                    }
                },
                Kind::Done => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Streamed(_) | Kind::Failing(_) => false,
            Kind::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Streamed(streamed) => http_body::Body::size_hint(&streamed.incoming),
            Kind::Failing(_) => SizeHint::default(),
            Kind::Done => SizeHint::with_exact(0),
        }
    }
}

type Ended = Option<Result<(), BodyError>>;

impl Streamed {
    /// Returns the next frame, and how the response ended if it did.
    fn poll(&mut self, cx: &Context<'_>) -> Poll<(Option<Frame<Bytes>>, Ended)> {
        let cancelled = Poll::Ready((None, Some(Err(BodyError::Cancelled))));
        if self.meter.is_cancelled() {
            return cancelled;
        }
        let Self { incoming, conn, .. } = self;
        let polled = conn.poll_while(cx, |cx| http_body::Body::poll_frame(Pin::new(&mut *incoming), cx));
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.heard();
                if let Some(data) = frame.data_ref() {
                    self.meter.passed(data);
                    if let Some(in_band) = &mut self.in_band {
                        in_band.sent(data);
                    }
                }
                // With a known length the server asks for no further frame: this is the last chance to pool.
                let ended = http_body::Body::is_end_stream(&self.incoming).then_some(Ok(()));
                Poll::Ready((Some(frame), ended))
            }
            // Another thread may have cut the connection: that ends the response too, and even like a proper end.
            _ if self.meter.is_cancelled() => cancelled,
            Poll::Ready(None) if self.may_be_cut && self.meter.lacks_end() => {
                Poll::Ready((None, Some(Err(BodyError::BackendLost))))
            }
            Poll::Ready(None) => Poll::Ready((None, Some(Ok(())))),
            Poll::Ready(Some(Err(_))) => Poll::Ready((None, Some(Err(BodyError::BackendLost)))),
            Poll::Pending if self.conn.poll_past(self.idle.deadline()) => {
                Poll::Ready((None, Some(Err(BodyError::IdleTimeout))))
            }
            Poll::Pending => {
                self.meter.waits_for_backend();
                Poll::Pending
            }
        }
    }

    fn finish(mut self) {
        self.meter.complete();
        let badly = self.meter.answered_badly();
        match self.meter.release() {
            Some(permit) if badly => permit.answered_badly(self.conn),
            Some(permit) => permit.succeeded(self.conn),
            None => {}
        }
    }

    fn fail(mut self, error: BodyError) -> Failing {
        self.meter.broke(error);
        match (error, self.meter.release()) {
            (BodyError::BackendLost | BodyError::IdleTimeout, Some(permit)) => permit.failed(),
            (BodyError::Cancelled, _) | (_, None) => {}
        }
        let words = self.in_band.map(|in_band| in_band.words(error));
        Failing { error, step: words.map_or_else(Step::flush, Step::Say), _meter: self.meter }
    }
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").field("idle", &self.idle).finish_non_exhaustive()
    }
}
