use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tunnel_sniff::{Gather, ModelScan, decode};

use crate::body::BoxError;
use crate::error::Failure;
use crate::upload::Rest;

/// The most of a body that is held in order to find its model and to be able to send it again.
const LARGEST_PREFIX: usize = 1 << 20;
/// How long the rest of a body is waited for once the model is known. A body that came in one piece can be
/// sent again; one that a slow caller is still writing must not wait for its end.
const PATIENCE: Duration = Duration::from_millis(20);

/// A caller's body, as far as it has been read.
pub(crate) enum Payload {
    /// All of it.
    Whole { bytes: Bytes, trailers: Option<HeaderMap> },
    /// Its beginning, and the part that is still to come.
    Begun { prefix: Bytes, rest: Rest },
}

impl Payload {
    /// Returns how much of it has been read.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Whole { bytes, .. } => bytes.len(),
            Self::Begun { prefix, .. } => prefix.len(),
        }
    }

    /// Tells whether it can be sent more than once.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole { .. })
    }
}

/// The model that a body names, and where.
pub(crate) struct NamedModel {
    pub(crate) name: String,
    /// Its place in the body's first bytes, quotes included.
    pub(crate) span: std::ops::Range<usize>,
}

/// Boxes a body of which nothing is read here.
pub(crate) fn unread<B>(body: B) -> Payload
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return Payload::Whole { bytes: Bytes::new(), trailers: None };
    }
    Payload::Begun { prefix: Bytes::new(), rest: boxed(body) }
}

/// Reads a body until its end, or until its model is known and the rest is long or slow in coming.
///
/// `stall` is the longest wait for any one frame before the model is known.
///
/// # Errors
///
/// The caller's fault: it has gone, has not kept to HTTP, or has stopped sending.
pub(crate) async fn read<B>(body: B, stall: Duration) -> Result<(Payload, Option<NamedModel>), Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut reader = Reader { read: Gather::default(), scan: ModelScan::default(), trailers: None };
    if body.is_end_stream() {
        return Ok(reader.whole());
    }
    // It cannot be held as a whole: the sooner it flows the better.
    let long = body.size_hint().lower() > LARGEST_PREFIX as u64;
    let mut rest = boxed(body);
    // One timer for both limits keeps the future small: the patience replaces the other limit.
    let mut timer = std::pin::pin!(None::<tokio::time::Sleep>);
    let mut hurried = false;
    loop {
        // What is not an object names no model, however much of it is read.
        let hopeless = reader.scan.is_done() && reader.scan.span().is_none();
        let found = reader.scan.span().is_some();
        if hopeless || (long && found) || reader.read.len() >= LARGEST_PREFIX {
            return Ok(reader.begun(rest));
        }
        if !found {
            timer.set(None);
        } else if !hurried {
            hurried = true;
            timer.set(Some(tokio::time::sleep(PATIENCE)));
        }
        let next = poll_fn(|cx| {
            if let Poll::Ready(frame) = rest.as_mut().poll_frame(cx) {
                return Poll::Ready(Some(frame));
            }
            // Only now: most bodies are there already, and need no timer.
            if timer.is_none() {
                timer.set(Some(tokio::time::sleep(stall)));
            }
            match timer.as_mut().as_pin_mut() {
                Some(sleep) => sleep.poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        });
        match next.await {
            None if found => return Ok(reader.begun(rest)),
            None => return Err(Failure::UploadStalled),
            Some(None) => return Ok(reader.whole()),
            Some(Some(frame)) => reader.take(frame.map_err(|_| Failure::UploadFailed)?),
        }
        if rest.is_end_stream() {
            return Ok(reader.whole());
        }
    }
}

struct Reader {
    read: Gather,
    scan: ModelScan,
    trailers: Option<HeaderMap>,
}

impl Reader {
    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => {
                self.read.push(data);
                self.scan.scan(self.read.bytes());
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }

    fn whole(self) -> (Payload, Option<NamedModel>) {
        let bytes = self.read.freeze();
        let model = named(&self.scan, &bytes);
        (Payload::Whole { bytes, trailers: self.trailers }, model)
    }

    fn begun(self, rest: Rest) -> (Payload, Option<NamedModel>) {
        let prefix = self.read.freeze();
        let model = named(&self.scan, &prefix);
        (Payload::Begun { prefix, rest }, model)
    }
}

fn named(scan: &ModelScan, text: &[u8]) -> Option<NamedModel> {
    let span = scan.span()?;
    let name = decode(text.get(span.clone())?)?.into_owned();
    // Ollama takes an empty name for none, and says so better than we could.
    (!name.is_empty()).then_some(NamedModel { name, span })
}

fn boxed<B>(body: B) -> Rest
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Box::pin(body.map_err(Into::into))
}
