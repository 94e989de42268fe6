//! The bodies that pass through the relay: watched, counted, never buffered.

mod forwarded;
mod gathered;
mod last_words;
mod pace;
mod toll;
mod unread;
mod upload;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

pub(crate) use self::forwarded::{Forwarded, IdleLimits, Length, Terms, overdue};
pub(crate) use self::gathered::{Gathered, kept};
pub(crate) use self::unread::{Reader, Readers};
pub(crate) use self::upload::{Progress, Upload, UploadFault, UploadTerms};

/// What the relay sends to a caller.
#[derive(Debug)]
pub(crate) enum RelayBody {
    /// Made by the relay.
    Own(Option<Bytes>),
    /// Put together from what several devices said.
    Gathered(Gathered),
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

    /// One that `reader` is to read; `cost` is given up when it is gone.
    pub(crate) fn gathered<T: Send + 'static>(bytes: Bytes, cost: T, reader: Arc<Reader>) -> Self {
        Self::Gathered(Gathered::new(bytes, cost, reader))
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
            Self::Gathered(gathered) => Poll::Ready(gathered.next().map(Ok)),
            Self::Forwarded(forwarded) => forwarded.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Gathered(gathered) => gathered.is_end_stream(),
            Self::Forwarded(forwarded) => forwarded.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Gathered(gathered) => gathered.size_hint(),
            Self::Forwarded(forwarded) => forwarded.size_hint(),
        }
    }
}
