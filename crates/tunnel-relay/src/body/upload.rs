//! Requests on their way from a caller to a device.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::pace::{Pace, TooSlow};
use super::toll::Toll;
use crate::headers;
use crate::limits::Throttle;
use crate::metrics::Metrics;

/// What a request's body may be.
#[derive(Clone, Debug)]
pub(crate) struct UploadTerms {
    /// Most bytes; `None`: any number.
    pub(crate) max_bytes: Option<u64>,
    /// Least bytes a second while the desktop is ready for more; 0: any pace.
    pub(crate) least_per_second: u64,
    /// The tenant's bytes a second.
    pub(crate) throttle: Option<Arc<Throttle>>,
}

/// A request body on its way from a caller to a device. One that breaks off resets the stream, so that the desktop can
/// never take it for a complete one.
#[derive(Debug)]
pub(crate) struct Upload<B> {
    body: B,
    /// `None` for requests without a body, which is most.
    running: Option<Box<Running>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Running {
    progress: Arc<Progress>,
    max_bytes: u64,
    n_bytes: u64,
    pace: Pace,
    /// Made when the caller first keeps the desktop waiting.
    timer: Option<Pin<Box<Sleep>>>,
    toll: Option<Toll>,
}

/// Why an upload ended before it was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UploadFault {
    #[error("the caller broke its request off")]
    BrokenOff,
    #[error("the request is longer than allowed")]
    TooLarge,
    #[error("the request came too slowly")]
    TooSlow,
}

/// How far an upload has come: while it runs, the device owes nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    last_ms: AtomicU64,
    throttled: AtomicBool,
    /// 0: none.
    fault: AtomicU8,
}

const FAULTS: [UploadFault; 3] = [UploadFault::BrokenOff, UploadFault::TooLarge, UploadFault::TooSlow];

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    pub(crate) fn new(body: B, terms: UploadTerms, metrics: Arc<Metrics>) -> Self {
        let running = (!body.is_end_stream()).then(|| {
            Box::new(Running {
                progress: Arc::new(Progress {
                    started: Instant::now(),
                    last_ms: AtomicU64::new(0),
                    throttled: AtomicBool::new(false),
                    fault: AtomicU8::new(0),
                }),
                max_bytes: terms.max_bytes.unwrap_or(u64::MAX),
                n_bytes: 0,
                pace: Pace::new(terms.least_per_second),
                timer: None,
                toll: terms.throttle.map(Toll::new),
            })
        });
        Self { body, running, metrics }
    }

    pub(crate) fn progress(&self) -> Option<Arc<Progress>> {
        self.running.as_ref().map(|running| Arc::clone(&running.progress))
    }
}

impl Progress {
    /// Returns when the last piece came from the caller; now, while one waits for its turn here.
    pub(crate) fn last(&self) -> Instant {
        if self.throttled.load(Ordering::Relaxed) {
            return Instant::now();
        }
        self.started + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// Tells why the upload ended too early, if it did.
    pub(crate) fn fault(&self) -> Option<UploadFault> {
        let index = usize::from(self.fault.load(Ordering::Relaxed)).checked_sub(1)?;
        FAULTS.get(index).copied()
    }

    fn moved(&self, now: Instant) {
        let ms = u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    fn fail(&self, fault: UploadFault) -> UploadFault {
        let index = FAULTS.iter().position(|known| *known == fault).map_or(0, |index| index + 1);
        self.fault.store(u8::try_from(index).unwrap_or(1), Ordering::Relaxed);
        fault
    }
}

impl Running {
    /// Judges a piece that came.
    fn came(&mut self, frame: &Frame<Bytes>) -> Result<(), UploadFault> {
        let now = Instant::now();
        self.progress.moved(now);
        let n_bytes = frame.data_ref().map_or(0, Bytes::len);
        self.n_bytes += n_bytes as u64;
        if self.n_bytes > self.max_bytes {
            return Err(UploadFault::TooLarge);
        }
        self.pace.came(n_bytes, now).map_err(|TooSlow| UploadFault::TooSlow)
    }

    /// Ready when the caller has sent too little for too long.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let Some(at) = self.pace.waiting(now) else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            // Moved only when it fires: pieces that come in time do not touch it.
            ready!(timer.as_mut().poll(cx));
            if at <= now && self.pace.overdue(now).is_err() {
                return Poll::Ready(());
            }
            let Some(at) = self.pace.waiting(now) else { return Poll::Pending };
            timer.as_mut().reset(at);
        }
    }

    fn poll_toll(&mut self, frame: Option<Frame<Bytes>>, cx: &mut Context<'_>) -> Poll<Frame<Bytes>> {
        let polled = match (&mut self.toll, frame) {
            (Some(toll), Some(frame)) => toll.pass(frame, cx),
            (Some(toll), None) => toll.poll_held(cx),
            (None, Some(frame)) => Poll::Ready(frame),
            (None, None) => Poll::Pending,
        };
        if self.toll.is_some() {
            self.progress.throttled.store(polled.is_pending(), Ordering::Relaxed);
            self.progress.moved(Instant::now());
        }
        polled
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        let this = &mut *self;
        let Some(running) = &mut this.running else {
            let polled = ready!(Pin::new(&mut this.body).poll_frame(cx));
            return Poll::Ready(polled.map(|frame| frame.map_err(|_| UploadFault::BrokenOff)));
        };
        if running.toll.as_ref().is_some_and(Toll::is_holding) {
            return running.poll_toll(None, cx).map(|frame| Some(Ok(frame)));
        }
        let fault = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => match running.came(&frame) {
                Ok(()) => {
                    let frame = headers::strip_trailers(frame, headers::strip_request);
                    this.metrics.bytes_in(frame.data_ref().map_or(0, Bytes::len));
                    return running.poll_toll(Some(frame), cx).map(|frame| Some(Ok(frame)));
                }
                Err(fault) => fault,
            },
            Poll::Ready(Some(Err(_))) => UploadFault::BrokenOff,
            Poll::Ready(None) => {
                running.progress.moved(Instant::now());
                return Poll::Ready(None);
            }
            Poll::Pending => {
                ready!(running.poll_too_slow(cx));
                UploadFault::TooSlow
            }
        };
        Poll::Ready(Some(Err(running.progress.fail(fault))))
    }

    fn is_end_stream(&self) -> bool {
        let holding =
            self.running.as_ref().and_then(|running| running.toll.as_ref()).is_some_and(Toll::is_holding);
        !holding && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
