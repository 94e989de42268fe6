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
use crate::room::{Held, Share};
use crate::upload::Rest;

/// The most of a body that is held in any case, to find its model and to be able to send it again.
const LARGEST_PREFIX: usize = 1 << 20;
/// The most that is held of a body whose model comes later, as that of a question about images or documents does
/// whose client writes `messages` first. It takes [`Room`].
pub(crate) const LARGEST_SEARCHED: usize = 64 << 20;
/// How much is looked at before others have their turn: well under a millisecond.
const STEP: usize = 1 << 20;
/// How long a body may be in coming until its model is known, once it takes room that others wait for: 5 Mbit/s are
/// enough for the longest.
const LONGEST_HOLD: Duration = Duration::from_secs(120);
/// How long the rest of a body is waited for once the model is known. A body that came in one piece can be
/// sent again; one that a slow caller is still writing must not wait for its end.
const PATIENCE: Duration = Duration::from_millis(20);

/// A caller's body, as far as it has been read.
pub(crate) enum Payload {
    /// All of it.
    Whole { bytes: Bytes, trailers: Option<HeaderMap>, held: Option<Held> },
    /// Its beginning, and the part that is still to come.
    Begun { prefix: Bytes, rest: Rest, held: Option<Held> },
}

impl Payload {
    /// Returns how much of it has been read.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Whole { bytes, .. } => bytes.len(),
            Self::Begun { prefix, .. } => prefix.len(),
        }
    }

    /// Tells whether its model was looked for as far as it may be, and more is to come.
    pub(crate) fn is_too_long(&self) -> bool {
        !self.is_whole() && self.len() >= LARGEST_SEARCHED
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
        return Payload::Whole { bytes: Bytes::new(), trailers: None, held: None };
    }
    Payload::Begun { prefix: Bytes::new(), rest: boxed(body), held: None }
}

/// Reads a body until its end, or until its model is known and the rest is long or slow in coming.
///
/// `stall` is the longest wait for any one frame before the model is known. `room` is there for a model that comes after
/// the first 1 MiB; none where the model makes no difference: such a body flows on at once.
///
/// # Errors
///
/// The caller's fault: it has gone, has not kept to HTTP, or has stopped sending. Or there is no room.
pub(crate) async fn read<B>(
    body: B,
    stall: Duration,
    room: Option<Share<'_>>,
) -> Result<(Payload, Option<NamedModel>), Failure>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut reader = Reader::default();
    if body.is_end_stream() {
        return Ok(reader.whole());
    }
    let length = body.size_hint();
    // It cannot be held as a whole: the sooner it flows the better.
    let long = length.lower() > LARGEST_PREFIX as u64;
    let mut rest = boxed(body);
    // One timer for all limits keeps the future small: the patience replaces the other limit.
    let mut timer = std::pin::pin!(None::<tokio::time::Sleep>);
    let mut hurried = false;
    loop {
        // What is not an object names no model, however much of it is read.
        let hopeless = reader.scan.is_done() && reader.scan.span().is_none();
        let found = reader.scan.span().is_some();
        let n_read = reader.read.len();
        // With room most of it is here, and to be able to send it again is worth a moment.
        if hopeless || n_read >= LARGEST_SEARCHED || (long && found && reader.held.is_none()) {
            return Ok(reader.begun(rest));
        }
        if n_read >= LARGEST_PREFIX && reader.held.is_none() {
            let Some(room) = room.filter(|_| !found) else { return Ok(reader.begun(rest)) };
            let length = length.exact().and_then(|length| usize::try_from(length).ok());
            let most = length.map_or(LARGEST_SEARCHED, |length| length.min(LARGEST_SEARCHED));
            let held = Box::pin(room.take(most));
            reader.held = Some(held.await?);
            reader.read.reserve(most);
            timer.set(Some(tokio::time::sleep(LONGEST_HOLD.min(stall))));
        }
        if found && !hurried {
            hurried = true;
            timer.set(Some(tokio::time::sleep(PATIENCE)));
        } else if !found && reader.held.is_none() {
            timer.set(None);
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
        while reader.looks_on() {
            tokio::task::yield_now().await;
        }
        if rest.is_end_stream() {
            return Ok(reader.whole());
        }
    }
}

#[derive(Default)]
struct Reader {
    read: Gather,
    scan: ModelScan,
    trailers: Option<HeaderMap>,
    /// Where others last had their turn.
    rested_at: usize,
    held: Option<Held>,
}

impl Reader {
    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.read.push(data),
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }

    /// Looks at what has come; tells whether others are to have their turn, and this to be called again.
    fn looks_on(&mut self) -> bool {
        let text = self.read.bytes();
        let end = text.len().min(self.rested_at + STEP);
        self.scan.scan(&text[..end]);
        let full = end == self.rested_at + STEP;
        if full {
            self.rested_at = end;
        }
        full
    }

    fn whole(mut self) -> (Payload, Option<NamedModel>) {
        let held = self.held();
        let bytes = self.read.freeze();
        let model = named(&self.scan, &bytes);
        (Payload::Whole { bytes, trailers: self.trailers, held }, model)
    }

    fn begun(mut self, rest: Rest) -> (Payload, Option<NamedModel>) {
        let held = self.held();
        let prefix = self.read.freeze();
        let model = named(&self.scan, &prefix);
        (Payload::Begun { prefix, rest, held }, model)
    }

    /// Takes the room that is needed from now on.
    fn held(&mut self) -> Option<Held> {
        let mut held = self.held.take();
        if let Some(held) = &mut held {
            held.shrink(self.read.len());
        }
        held
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

#[cfg(test)]
mod tests;
