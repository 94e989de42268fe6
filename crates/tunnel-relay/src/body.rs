//! The bodies that pass through the relay: watched, counted, never buffered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::{Instant, Sleep};
use tunnel_transport::{BodyError, ResponseBody};

use crate::auth::standing::Holder;
use crate::error::openai_error;
use crate::metrics::{Metrics, Outcome};
use crate::registry::{StreamPermit, Tunnel};

/// What the relay sends to a caller.
#[derive(Debug)]
pub(crate) enum RelayBody {
    /// Made by the relay.
    Own(Option<Bytes>),
    /// From a device.
    Forwarded(Forwarded),
}

/// Why a response ends abnormally. hyper cuts the connection when it sees one, which is what the caller must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BrokenOff {
    #[error("the device broke the response off")]
    Reset,
    #[error("the tunnel to the device was lost")]
    TunnelLost,
    #[error("the device sent nothing for {}s", .0.as_secs())]
    Idle(Duration),
    #[error("the caller's token was revoked")]
    Revoked,
}

impl RelayBody {
    pub(crate) fn empty() -> Self {
        Self::Own(None)
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::Own(Some(bytes))
    }
}

impl Body for RelayBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Forwarded(forwarded) => forwarded.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Forwarded(forwarded) => forwarded.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Forwarded(forwarded) => forwarded.body.size_hint(),
        }
    }
}

/// A response body on its way from a device to a caller.
///
/// Holds the request's permit. When the device breaks off, the caller's dialect is told so in the body before the
/// connection is cut.
#[derive(Debug)]
pub(crate) struct Forwarded {
    body: ResponseBody,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flowing,
    /// The error was told; hyper shall write it out before the connection is cut.
    Flushing(BrokenOff),
    Cut(BrokenOff),
    Done,
}

/// How a caller can be told, in a body that has begun, that it will not be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastWords {
    /// Server-sent events.
    Sse,
    /// One JSON object a line.
    Ndjson,
    /// Nothing would be understood: the cut must do.
    None,
}

/// How far a body has come that can be told its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Where an event or a line may begin.
    Start,
    /// After one line of an event.
    LineEnd,
    Inside,
}

impl LastWords {
    fn of(headers: &HeaderMap) -> Self {
        // Text in a compressed body is noise, and a length that was promised leaves no room.
        if headers.contains_key(CONTENT_ENCODING) || headers.contains_key(CONTENT_LENGTH) {
            return Self::None;
        }
        let content_type =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("text/event-stream") {
            Self::Sse
        } else if ["application/x-ndjson", "application/ndjson", "application/jsonl"]
            .iter()
            .any(|lines| essence.eq_ignore_ascii_case(lines))
        {
            Self::Ndjson
        } else {
            Self::None
        }
    }

    /// Returns how far a body has come that was at `at` before `data`.
    fn after(self, at: At, data: &[u8]) -> At {
        match (self, data) {
            (_, []) => at,
            (Self::Ndjson, [.., b'\n']) => At::Start,
            (Self::Sse, [.., b'\n', b'\n'] | [.., b'\n', b'\r', b'\n']) => At::Start,
            // The blank line, or its end, comes by itself.
            (Self::Sse, [b'\n'] | [b'\r', b'\n']) if at != At::Inside => At::Start,
            (Self::Sse, [.., b'\n']) => At::LineEnd,
            _ => At::Inside,
        }
    }

    fn about(self, broken: BrokenOff, device: &str, at: At) -> Option<Bytes> {
        let (code, sentence) = match broken {
            BrokenOff::Reset => (
                "backend_unreachable",
                format!("The model server on the device {device} broke off in the middle of the response."),
            ),
            BrokenOff::TunnelLost => (
                "tunnel_lost",
                format!("The connection to the device {device} was lost in the middle of the response."),
            ),
            BrokenOff::Revoked => (
                "token_invalid",
                "The token of this request was revoked in the middle of the response.".to_owned(),
            ),
            BrokenOff::Idle(limit) => (
                "idle_timeout",
                format!(
                    "The device {device} sent nothing for {} s in the middle of the response.",
                    limit.as_secs()
                ),
            ),
        };
        // What was cut in the middle of a line or an event must not swallow the error.
        let text = match self {
            Self::Sse => {
                let error = openai_error(StatusCode::BAD_GATEWAY, code, &sentence);
                let cut = match at {
                    At::Start => "",
                    At::LineEnd => "\n",
                    At::Inside => "\n\n",
                };
                format!("{cut}data: {error}\n\n")
            }
            Self::Ndjson => {
                let cut = if at == At::Start { "" } else { "\n" };
                format!("{cut}{}\n", json!({ "error": sentence }))
            }
            Self::None => return None,
        };
        Some(text.into())
    }
}

impl Forwarded {
    pub(crate) fn new(
        length: Length,
        headers: &HeaderMap,
        body: ResponseBody,
        idle: IdleLimits,
        permit: StreamPermit,
        holder: Holder,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            body,
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

    fn is_end_stream(&self) -> bool {
        match self.state {
            State::Flowing => self.body.is_end_stream(),
            State::Done => true,
            State::Flushing(_) | State::Cut(_) => false,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.state {
            State::Flowing => {}
            State::Flushing(broken) => return self.flush(broken, cx),
            State::Cut(broken) => {
                self.state = State::Done;
                return Poll::Ready(Some(Err(broken)));
            }
            State::Done => return Poll::Ready(None),
        }
        if self.holder.is_over() {
            return self.break_off(BrokenOff::Revoked, cx);
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.waiting_since = None;
                if let Some(data) = frame.data_ref() {
                    self.metrics.bytes_out(data.len());
                    self.remaining =
                        self.remaining.map(|remaining| remaining.saturating_sub(data.len() as u64));
                    self.at = self.last_words.after(self.at, data);
                    if !data.is_empty() && self.idle_limit != self.idle_limit_then {
                        self.idle_limit = self.idle_limit_then;
                        // It may be set to a time that is too late from now on.
                        self.timer = None;
                    }
                }
                Poll::Ready(Some(Ok(frame)))
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
        cx: &Context<'_>,
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

    /// Gives hyper one turn to write out what it has, and fails in the next.
    fn flush(
        &mut self,
        broken: BrokenOff,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.state = State::Cut(broken);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // hyper does not ask again once a body is complete, by its own word or by its length.
        let complete = self.body.is_end_stream() || self.remaining == Some(0);
        let ended = self.state == State::Flowing && complete;
        let gone = if ended { Outcome::Ok } else { Outcome::CallerGone };
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

/// A request body on its way from a caller to a device.
#[derive(Debug)]
pub(crate) struct Upload {
    body: Incoming,
    /// `None` for requests without a body, which is most.
    progress: Option<Arc<Progress>>,
    metrics: Arc<Metrics>,
}

/// How far an upload has come: while it runs, the device owes nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    last_ms: AtomicU64,
    failed: AtomicBool,
}

impl Upload {
    pub(crate) fn new(body: Incoming, metrics: Arc<Metrics>) -> Self {
        let progress = (!body.is_end_stream()).then(|| {
            Arc::new(Progress {
                started: Instant::now(),
                last_ms: AtomicU64::new(0),
                failed: AtomicBool::new(false),
            })
        });
        Self { body, progress, metrics }
    }

    pub(crate) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }
}

impl Progress {
    /// Returns when the last piece came from the caller.
    pub(crate) fn last(&self) -> Instant {
        self.started + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// Tells whether the caller's upload broke off.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Ready(Some(frame)), Some(progress)) = (&polled, &self.progress) {
            let ms = u64::try_from(progress.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            progress.last_ms.store(ms, Ordering::Relaxed);
            match frame {
                Ok(frame) => self.metrics.bytes_in(frame.data_ref().map_or(0, Bytes::len)),
                Err(_) => progress.failed.store(true, Ordering::Relaxed),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(headers: &[(&str, &str)], chunks: &[&str]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let words = LastWords::of(&map);
        let at = chunks.iter().fold(At::Start, |at, chunk| words.after(at, chunk.as_bytes()));
        let words = words.about(BrokenOff::TunnelLost, "desk", at)?;
        Some(String::from_utf8(words.to_vec()).unwrap())
    }

    #[test]
    fn a_stream_is_told_in_its_own_language_that_it_broke_off() {
        let sse = words(&[("content-type", "text/event-stream; charset=utf-8")], &[]).unwrap();
        let event: serde_json::Value = serde_json::from_str(sse.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["error"]["code"], "tunnel_lost");
        assert!(sse.ends_with("}\n\n") && !sse.contains("[DONE]"));

        let ndjson = words(&[("content-type", "application/x-ndjson")], &[]).unwrap();
        let line: serde_json::Value = serde_json::from_str(&ndjson).unwrap();
        assert!(line["error"].as_str().unwrap().contains("desk"));
        assert!(ndjson.ends_with("}\n"));
    }

    #[test]
    fn an_error_after_half_a_line_or_event_starts_a_new_one() {
        let sse = |chunks| words(&[("content-type", "text/event-stream")], chunks).unwrap();
        let cases: [(&[&str], &str); 6] = [
            (&["data: 1\n\n"], "data: {"),
            (&["data: 1\r\n\r\n"], "data: {"),
            (&["data: 1\n", "\n"], "data: {"),
            (&["data: 1\n"], "\ndata: {"),
            (&["data: {\"a", "\n"], "\ndata: {"),
            (&["data: {\"a"], "\n\ndata: {"),
        ];
        for (chunks, start) in cases {
            assert!(sse(chunks).starts_with(start), "{chunks:?}");
        }
        for lines in ["application/x-ndjson", "application/ndjson", "application/jsonl"] {
            assert!(words(&[("content-type", lines)], &["{\"a"]).unwrap().starts_with("\n{"));
            assert!(words(&[("content-type", lines)], &["{}\n"]).unwrap().starts_with('{'));
        }
    }

    #[test]
    fn where_words_would_be_noise_there_are_none() {
        assert_eq!(words(&[("content-type", "application/json")], &[]), None);
        assert_eq!(words(&[], &[]), None);
        assert_eq!(words(&[("content-type", "text/event-stream"), ("content-encoding", "gzip")], &[]), None);
        assert_eq!(words(&[("content-type", "application/x-ndjson"), ("content-length", "9")], &[]), None);
    }
}
