//! Responses on their way from a device to a caller.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tunnel_transport::{BodyError, ResponseBody};

use super::BrokenOff;
use super::last_words::{At, LastWords};
use super::toll::Toll;
use super::unread::Reader;
use crate::auth::standing::Holder;
use crate::headers;
use crate::limits::Throttle;
use crate::metrics::{Metrics, Outcome};
use crate::registry::{StreamPermit, Tunnel};

/// A response body on its way from a device to a caller.
///
/// Holds the request's permit. When the device breaks off, the caller's dialect is told so in the body before the
/// connection is cut.
#[derive(Debug)]
pub(crate) struct Forwarded {
    body: ResponseBody,
    toll: Option<Box<Toll>>,
    reader: Arc<Reader>,
    last_words: LastWords,
    state: State,
    /// How far the bytes so far have come.
    at: At,
    /// Bytes that are still to come, where the response said how many.
    remaining: Option<u64>,
    /// The limit that holds now.
    idle_limit: Duration,
    /// The one that holds from the first byte on.
    idle_limit_then: Duration,
    /// Since when the device has owed bytes.
    waiting_since: Option<Instant>,
    /// Made when the device first keeps the caller waiting, and moved only when it fires.
    timer: Option<Pin<Box<Sleep>>>,
    permit: StreamPermit,
    /// The caller's token.
    holder: Holder,
    metrics: Arc<Metrics>,
    outcome: Option<Outcome>,
}

/// How long a cut is put off: hyper drops what it has not written when a body fails, and cannot be asked when it has.
/// Far longer than a write takes on a machine that is out of breath, and too short to be noticed.
const FLUSH_TIME: Duration = Duration::from_millis(20);

/// How long a device may owe bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdleLimits {
    /// Until the first byte of the body.
    pub(crate) first: Duration,
    /// After that one.
    pub(crate) then: Duration,
}

/// How long a response's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is none, whatever the headers say: the answer to a HEAD, 204, 304.
    None,
    /// As the headers say, or up to its end.
    AsSaid,
}

/// What a response holds, and what it is held to, until its end.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) idle: IdleLimits,
    /// The tenant's bytes a second.
    pub(crate) throttle: Option<Arc<Throttle>>,
    /// Whoever is to read it.
    pub(crate) reader: Arc<Reader>,
    pub(crate) permit: StreamPermit,
    /// The caller's token.
    pub(crate) holder: Holder,
    pub(crate) metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flowing,
    /// The error was told; hyper shall write it out before the connection is cut.
    Flushing(BrokenOff),
    Cut(BrokenOff),
    Done,
}

impl Forwarded {
    pub(crate) fn new(length: Length, headers: &HeaderMap, body: ResponseBody, terms: Terms) -> Self {
        let Terms { idle, throttle, reader, permit, holder, metrics } = terms;
        Self {
            body,
            toll: throttle.map(|throttle| Box::new(Toll::new(throttle))),
            reader,
            last_words: LastWords::of(headers),
            state: State::Flowing,
            at: At::Start,
            remaining: match length {
                Length::None => Some(0),
                Length::AsSaid => {
                    headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
                }
            },
            idle_limit: idle.first,
            idle_limit_then: idle.then,
            waiting_since: None,
            timer: None,
            permit,
            holder,
            metrics,
            outcome: None,
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self.state {
            State::Flowing => !self.is_held_up() && self.body.is_end_stream(),
            State::Done => true,
            State::Flushing(_) | State::Cut(_) => false,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// Tells whether a piece waits for the tenant's bytes a second.
    fn is_held_up(&self) -> bool {
        self.toll.as_ref().is_some_and(|toll| toll.is_holding())
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.reader.asked();
        let polled = self.poll_next(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.reader.handed_out();
        }
        polled
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.state {
            State::Flowing => {}
            State::Flushing(broken) => return self.flush(broken, cx),
            State::Cut(broken) => return self.cut(broken, cx),
            State::Done => return Poll::Ready(None),
        }
        if self.holder.is_over() {
            return self.break_off(BrokenOff::Revoked, cx);
        }
        if let Some(toll) = &mut self.toll
            && toll.is_holding()
        {
            // The device is not asked for more, so it owes nothing meanwhile.
            return toll.poll_held(cx).map(|frame| Some(Ok(self.pass(frame))));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.waiting_since = None;
                let passed = match &mut self.toll {
                    Some(toll) => toll.pass(frame, cx),
                    None => Poll::Ready(frame),
                };
                passed.map(|frame| Some(Ok(self.pass(frame))))
            }
            Poll::Ready(None) => {
                self.state = State::Done;
                self.outcome = Some(Outcome::Ok);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(BodyError::Reset(_)))) => self.break_off(BrokenOff::Reset, cx),
            Poll::Ready(Some(Err(BodyError::Lost(_)))) => self.break_off(BrokenOff::TunnelLost, cx),
            Poll::Pending if self.holder.poll_over(cx).is_ready() => self.break_off(BrokenOff::Revoked, cx),
            Poll::Pending => match self.poll_idle(cx) {
                Poll::Ready(()) => self.break_off(BrokenOff::Idle(self.idle_limit), cx),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    /// Counts a piece that goes to the caller.
    fn pass(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let frame = headers::strip_trailers(frame, headers::strip_response);
        if let Some(data) = frame.data_ref() {
            self.metrics.bytes_out(data.len());
            self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(data.len() as u64));
            self.at = self.last_words.after(self.at, data);
            if !data.is_empty() && self.idle_limit != self.idle_limit_then {
                self.idle_limit = self.idle_limit_then;
                // It may be set to a time that is too late from now on.
                self.timer = None;
            }
        }
        frame
    }

    /// Ready when the device has owed bytes for longer than it may.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        // hyper asks for more only when it has room, so a slow reader does not get here.
        let since = *self.waiting_since.get_or_insert(now);
        let timer =
            self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(since + self.idle_limit)));
        while timer.as_mut().poll(cx).is_ready() {
            let Some(deadline) = overdue(self.permit.tunnel(), since, self.idle_limit) else {
                return Poll::Ready(());
            };
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn break_off(
        &mut self,
        broken: BrokenOff,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.outcome = Some(match broken {
            BrokenOff::Reset => Outcome::BrokenOff,
            BrokenOff::TunnelLost => Outcome::TunnelLost,
            BrokenOff::Idle(_) => Outcome::IdleTimeout,
            BrokenOff::Revoked => Outcome::Revoked,
        });
        let device = self.permit.tunnel().device.as_str();
        match self.last_words.about(broken, device, self.at) {
            Some(words) => {
                self.state = State::Flushing(broken);
                Poll::Ready(Some(Ok(Frame::data(words))))
            }
            None => self.flush(broken, cx),
        }
    }

    /// Gives hyper time to write out what it has, and fails then.
    fn flush(
        &mut self,
        broken: BrokenOff,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.state = State::Cut(broken);
        self.timer = Some(Box::pin(tokio::time::sleep(FLUSH_TIME)));
        self.cut(broken, cx)
    }

    fn cut(
        &mut self,
        broken: BrokenOff,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
        }
        self.state = State::Done;
        Poll::Ready(Some(Err(broken)))
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // hyper does not ask again once a body is complete, by its own word or by its length.
        let complete = !self.is_held_up() && (self.body.is_end_stream() || self.remaining == Some(0));
        let ended = self.state == State::Flowing && complete;
        let gone = match ended {
            true => Outcome::Ok,
            false if self.reader.is_stalled() => Outcome::CallerStalled,
            false => Outcome::CallerGone,
        };
        self.reader.asked();
        self.metrics.count(self.outcome.unwrap_or(gone));
    }
}

/// Tells whether a device that has owed something since `since` has taken longer than `limit`: `None`, or when to
/// look again.
///
/// Time without a link does not count: the device cannot send then.
pub(crate) fn overdue(tunnel: &Tunnel, since: Instant, limit: Duration) -> Option<Instant> {
    let now = Instant::now();
    if !tunnel.session.is_attached() {
        return Some(now + limit);
    }
    let deadline = since.max(tunnel.attached_at()) + limit;
    (deadline > now).then_some(deadline)
}
