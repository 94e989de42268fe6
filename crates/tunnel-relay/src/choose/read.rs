//! Reads the beginning of a body for the model that it names.

use std::time::Duration;

use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;
use tunnel_sniff::{Gather, ModelScan, StrictScan, decode};

use super::bounds::{Bounds, fault};
use crate::body::kept;
use crate::caller_body::{Begun, CallerBody};
use crate::error::Refusal;
use crate::registry::Held;

/// Most of a body that is held for its model.
const PREFIX_MAX_BYTES: usize = 1 << 20;
/// Longest wait for the model. After that the request goes where one without a model goes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A body, and the model that its beginning names.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) model: Option<String>,
    pub(super) body: CallerBody,
}

impl Read {
    pub(super) fn parts(self) -> (Option<String>, CallerBody) {
        (self.model, self.body)
    }
}

/// Reads until the model is known, or cannot be.
///
/// # Errors
///
/// The caller's upload broke off; the tenant has too much held already.
pub(super) async fn loose(body: Incoming, held: Held) -> Result<Read, Refusal> {
    let mut reader = Reader::new(body, held);
    let mut scan = ModelScan::default();
    let mut more = More::Piece;
    while scan.span().is_none() && !scan.is_done() && more == More::Piece {
        more = reader.more().await?;
        scan.scan(reader.gather.bytes());
    }
    if more == More::Full && scan.span().is_none() && !scan.is_done() {
        return Err(Refusal::TooMuchWaiting);
    }
    let span = scan.span().or_else(|| scan.name_span());
    let model = span.and_then(|span| decode(reader.gather.bytes().get(span)?).map(|name| name.into_owned()));
    let model = model.filter(|name| !name.is_empty());
    Ok(Read { model, body: reader.body(None) })
}

/// Reads until it is certain that the body names one of the models in `bounds` and no other: to its end, or, where it
/// is longer than what is held, up to there, and the rest is looked through on its way.
///
/// # Errors
///
/// The body names none of them, or is such that it could be read in several ways; the caller's upload broke off; the tenant has
/// too much held already.
pub(super) async fn strict(body: Incoming, held: Held, bounds: Bounds<'_>) -> Result<Read, Refusal> {
    let mut reader = Reader::new(body, held);
    let mut scan = StrictScan::default();
    let mut looked_at = 0;
    loop {
        let more = reader.more().await?;
        let bytes = reader.gather.bytes();
        scan.push(&bytes[looked_at..]).map_err(fault)?;
        looked_at = bytes.len();
        if more == More::Piece {
            continue;
        }
        if more == More::Full && !scan.is_complete() {
            return Err(Refusal::TooMuchWaiting);
        }
        let model = scan.model().map(str::to_owned);
        if more == More::End && !scan.is_complete() {
            return Err(fault(tunnel_sniff::Fault::NotJson));
        }
        bounds.check(model.as_deref())?;
        let watch = (more != More::End).then_some(scan);
        return Ok(Read { model, body: reader.body(watch) });
    }
}

struct Reader {
    rest: Incoming,
    gather: Gather,
    trailers: Option<HeaderMap>,
    held: Held,
    deadline: Instant,
}

/// What came of reading on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    /// Something came.
    Piece,
    /// There is no more.
    End,
    /// There may be more, and it is not waited for: it took too long, or this is as much as is looked at.
    Enough,
    /// Something came, and the tenant has no room for more.
    Full,
}

impl Reader {
    fn new(rest: Incoming, held: Held) -> Self {
        let deadline = Instant::now() + PATIENCE;
        Self { rest, gather: Gather::default(), trailers: None, held, deadline }
    }

    async fn more(&mut self) -> Result<More, Refusal> {
        if self.trailers.is_some() || self.rest.is_end_stream() {
            return Ok(More::End);
        }
        if self.gather.len() >= PREFIX_MAX_BYTES {
            return Ok(More::Enough);
        }
        let frame = match tokio::time::timeout_at(self.deadline, self.rest.frame()).await {
            Ok(Some(frame)) => frame.map_err(|_| Refusal::BadUpload)?,
            Ok(None) => return Ok(More::End),
            Err(_) => return Ok(More::Enough),
        };
        match frame.into_data() {
            Ok(data) => {
                // What has come is looked at all the same: most bodies name their model at once.
                let has_room = self.held.grow(data.len());
                self.gather.push(data);
                Ok(if has_room { More::Piece } else { More::Full })
            }
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
                Ok(More::Piece)
            }
        }
    }

    fn body(self, watch: Option<StrictScan>) -> CallerBody {
        let prefix = kept(self.gather.freeze(), self.held);
        let begun = Begun { prefix, trailers: self.trailers, watch };
        CallerBody::begun(begun, self.rest)
    }
}
