use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::body::BoxError;
use crate::room::Held;
use crate::track::Track;

/// The part of a caller's body that has not been read yet.
pub(crate) type Rest = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// The body of a request to a backend.
pub(crate) enum Upload {
    Empty,
    /// All of it is here. It can be sent again.
    Whole(Bytes, Option<Box<HeaderMap>>),
    /// The beginning, then what the caller still sends.
    Streamed(Box<Streamed>),
}

pub(crate) struct Streamed {
    prefix: Option<Bytes>,
    /// The room that the prefix takes.
    held: Option<Held>,
    rest: Rest,
    watch: Arc<UploadWatch>,
    /// Counts what is still read of the caller's body.
    track: Arc<Track>,
    /// Of all of it, prefix included.
    length: Option<u64>,
}

impl Upload {
    /// `length` is what the request's content-length says; none where the body itself must tell, if it can.
    pub(crate) fn streamed(
        prefix: Bytes,
        rest: Rest,
        held: Option<Held>,
        length: Option<u64>,
        track: Arc<Track>,
    ) -> (Self, Arc<UploadWatch>) {
        let known = || rest.size_hint().exact().map(|length| length + prefix.len() as u64);
        let length = length.or_else(known);
        let watch = Arc::new(UploadWatch::new());
        let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
        let streamed = Streamed { prefix, held, rest, watch: Arc::clone(&watch), track, length };
        (Self::Streamed(Box::new(streamed)), watch)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let upload = self.get_mut();
        match upload {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes, trailers) => {
                if !bytes.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
                }
                let trailers = trailers.take();
                *upload = Self::Empty;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Self::Streamed(streamed) => streamed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
            Self::Streamed(streamed) => streamed.prefix.is_none() && streamed.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes, None) => SizeHint::with_exact(bytes.len() as u64),
            // Trailers need the chunked form, which hyper chooses when the length is open.
            Self::Whole(_, Some(_)) => SizeHint::default(),
            Self::Streamed(streamed) => streamed.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match self.prefix.take() {
            Some(prefix) => Some(Ok(Frame::data(prefix))),
            None => match self.rest.as_mut().poll_frame(cx) {
                Poll::Ready(frame) => {
                    // The connection asks for more when it has written most of what it has.
                    self.held = None;
                    let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                    let n_bytes = data.map_or(0, Bytes::len) as u64;
                    self.track.bytes_in.fetch_add(n_bytes, Ordering::Relaxed);
                    frame
                }
                Poll::Pending => {
                    self.watch.waits_for_caller();
                    return Poll::Pending;
                }
            },
        };
        self.watch.note(if frame.is_some() { Upstate::WaitsForBackend } else { Upstate::Sent });
        Poll::Ready(frame)
    }
}

/// Who is waited for while a body is uploaded, and since when.
#[derive(Debug)]
pub(crate) struct UploadWatch {
    start: Instant,
    /// Milliseconds from `start` to the last change, times four, plus the state: one word, no lock.
    packed: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upstate {
    WaitsForBackend = 0,
    WaitsForCaller = 1,
    Sent = 2,
}

impl UploadWatch {
    fn new() -> Self {
        Self { start: Instant::now(), packed: AtomicU64::new(0) }
    }

    fn note(&self, state: Upstate) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX >> 2);
        self.packed.store(elapsed << 2 | state as u64, Ordering::Relaxed);
    }

    /// Notes that the caller owes bytes. Said again it starts nothing anew: a body is polled at any time.
    fn waits_for_caller(&self) {
        if self.state().0 != Upstate::WaitsForCaller {
            self.note(Upstate::WaitsForCaller);
        }
    }

    /// Returns who is waited for, and since when.
    pub(crate) fn state(&self) -> (Upstate, Instant) {
        let packed = self.packed.load(Ordering::Relaxed);
        let state = match packed & 3 {
            0 => Upstate::WaitsForBackend,
            1 => Upstate::WaitsForCaller,
            _ => Upstate::Sent,
        };
        (state, self.start + std::time::Duration::from_millis(packed >> 2))
    }
}
