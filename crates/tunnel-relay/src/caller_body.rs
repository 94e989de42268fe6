//! A caller's body of which the beginning may have been read already, passed on exactly as it came.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tunnel_sniff::StrictScan;

use crate::body::UploadFault;

/// The body of a request that is to be forwarded.
#[derive(Debug)]
pub(crate) struct CallerBody {
    rest: Incoming,
    /// Boxed: most bodies are not looked at.
    begun: Option<Box<Begun>>,
}

/// What was read of a body before it is known where it goes.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Counted for its tenant until it is sent.
    pub(crate) prefix: Bytes,
    /// Those that came already, at the end.
    pub(crate) trailers: Option<HeaderMap>,
    /// Looks through the rest, which is still to come, where it must not name another model.
    pub(crate) watch: Option<StrictScan>,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the caller's upload broke off")]
    Caller(#[source] hyper::Error),
    #[error("the body names several models, or is not JSON")]
    Ambiguous,
}

impl From<BodyFault> for UploadFault {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::Caller(_) => Self::BrokenOff,
            BodyFault::Ambiguous => Self::Ambiguous,
        }
    }
}

impl CallerBody {
    /// Takes a body of which nothing was read.
    pub(crate) fn untouched(body: Incoming) -> Self {
        Self { rest: body, begun: None }
    }

    /// Puts what was read in front of what is still to come.
    pub(crate) fn begun(begun: Begun, rest: Incoming) -> Self {
        Self { rest, begun: Some(Box::new(begun)) }
    }
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        let Some(begun) = &mut this.begun else {
            return Pin::new(&mut this.rest).poll_frame(cx).map_err(BodyFault::Caller);
        };
        if !begun.prefix.is_empty() {
            let prefix = std::mem::take(&mut begun.prefix);
            if begun.trailers.is_none() && begun.watch.is_none() {
                this.begun = None;
            }
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        if let Some(trailers) = begun.trailers.take() {
            this.begun = None;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let polled = Pin::new(&mut this.rest).poll_frame(cx).map_err(BodyFault::Caller);
        if let Some(watch) = &mut begun.watch {
            let fine = match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    frame.data_ref().is_none_or(|data| watch.push(data).is_ok())
                        && (!this.rest.is_end_stream() || watch.is_complete())
                }
                Poll::Ready(None) => watch.is_complete(),
                Poll::Ready(Some(Err(_))) | Poll::Pending => true,
            };
            if !fine {
                // Broken off before its end, so that nobody reads it as a whole.
                return Poll::Ready(Some(Err(BodyFault::Ambiguous)));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let nothing_held =
            self.begun.as_ref().is_none_or(|begun| begun.prefix.is_empty() && begun.trailers.is_none());
        nothing_held && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.begun.as_ref().map_or(0, |begun| begun.prefix.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(held));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }
}
