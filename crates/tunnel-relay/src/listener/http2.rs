//! HTTP/2 of callers: its numbers, and what a caller may not do with it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::task::TaskTracker;
use tracing::debug;
use tunnel_transport::{FrameMeter, MeteredPeer};

use super::watched::Patience;
use crate::metrics::Metrics;

/// Requests at once on one connection. A page or an app has few; who needs more opens another connection.
const MAX_STREAMS: u32 = 256;
/// What an upload may have on its way, each and all together: prompts with pictures, not files.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bigger frames cost less each, smaller ones let a token pass an upload sooner.
const FRAME: u32 = 16 * 1024;
/// What one stream may buffer before it is sent: a slow reader costs so much.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that were reset before they were looked at, and that were reset here: more of them is an attack
/// (CVE-2023-44487, CVE-2025-8671), and the connection ends.
const RESETS: usize = 64;
/// How often a silent connection is asked whether it is still there, and how long it has to answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WAIT: Duration = Duration::from_secs(10);
/// How long a stream that broke off has to get its last words through before it is reset: h2 drops what waits.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Returns what serves a connection. The tasks of its streams belong to `tasks`.
pub(super) fn builder(tasks: TaskTracker, header_list: usize) -> http2::Builder<Tracked> {
    let mut builder = http2::Builder::new(Tracked(tasks));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // It would grow the windows, and with them what a caller may make us keep.
        .adaptive_window(false)
        .max_frame_size(FRAME)
        .max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WAIT);
    builder
}

/// Runs hyper's stream tasks where they can be waited for.
#[derive(Clone, Debug)]
pub(super) struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// How many requests of a connection are under way.
#[derive(Debug, Default)]
pub(super) struct Streams(AtomicUsize);

/// One of them.
#[derive(Debug)]
pub(super) struct Stream(Arc<Streams>);

impl Streams {
    pub(super) fn begin(self: &Arc<Self>) -> Stream {
        self.0.fetch_add(1, Ordering::Relaxed);
        Stream(Arc::clone(self))
    }

    fn none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body on a stream: counted, and not reset before its last words had a chance to leave.
#[derive(Debug)]
pub(super) struct OnStream<B: Body> {
    body: B,
    broken: Option<(B::Error, Pin<Box<Sleep>>)>,
    _stream: Stream,
}

impl<B: Body> OnStream<B> {
    pub(super) fn new(body: B, stream: Stream) -> Self {
        Self { body, broken: None, _stream: stream }
    }
}

impl<B: Body + Unpin> Body for OnStream<B>
where
    B::Error: Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        if this.broken.is_none() {
            match std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Err(error)) => {
                    this.broken = Some((error, Box::pin(tokio::time::sleep(LAST_WORDS))));
                }
                other => return Poll::Ready(other),
            }
        }
        if let Some((_, wait)) = &mut this.broken {
            std::task::ready!(wait.as_mut().poll(cx));
        }
        Poll::Ready(this.broken.take().map(|(error, _)| Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that ends when its caller abuses HTTP/2 or takes too long for what it has begun.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    socket: S,
    meter: FrameMeter,
    patience: Patience,
    streams: Arc<Streams>,
    metrics: Arc<Metrics>,
    /// Since when there has been no request, as far as it was noticed.
    idle_since: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
}

impl<S> Guarded<S> {
    pub(super) fn new(socket: S, patience: Patience, streams: Arc<Streams>, metrics: Arc<Metrics>) -> Self {
        let now = Instant::now();
        Self {
            socket,
            meter: FrameMeter::new(MeteredPeer::Caller, now.into_std()),
            patience,
            streams,
            metrics,
            idle_since: Some(now),
            alarm: Box::pin(tokio::time::sleep_until(now + Self::step(patience))),
        }
    }

    /// How often the clocks are looked at.
    fn step(patience: Patience) -> Duration {
        (patience.head / 4).max(Duration::from_millis(10))
    }

    /// Tells what has taken too long.
    fn overdue(&mut self, now: Instant) -> Option<&'static str> {
        if let Some(since) = self.meter.open_since()
            && now.into_std().saturating_duration_since(since) >= self.patience.head
        {
            return Some("head not complete in time");
        }
        if !self.streams.none() {
            self.idle_since = None;
            return None;
        }
        let since = *self.idle_since.get_or_insert(now);
        (now.saturating_duration_since(since) >= self.patience.idle).then_some("no request in a long time")
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.meter.takes_turns() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.socket).poll_read(cx, buf) {
            read?;
            let now = Instant::now();
            if let Err(flood) = this.meter.read(&buf.filled()[before..], now.into_std()) {
                debug!(%flood, "caller cut off");
                this.metrics.cut_off("flood");
                return Poll::Ready(Err(io::Error::other(flood)));
            }
            return Poll::Ready(Ok(()));
        }
        while this.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(what) = this.overdue(now) {
                debug!(what, "caller cut off");
                this.metrics.cut_off("timeout");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
            }
            let step = Self::step(this.patience);
            this.alarm.as_mut().reset(now + step);
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let wrote = std::task::ready!(Pin::new(&mut this.socket).poll_write(cx, buf))?;
        this.meter.wrote(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let wrote = std::task::ready!(Pin::new(&mut this.socket).poll_write_vectored(cx, bufs))?;
        this.meter.wrote(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
