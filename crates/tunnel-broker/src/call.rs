use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request};

use crate::affinity::Trail;
use crate::alias::Meaning;
use crate::broker::Ingress;
use crate::class::EndpointClass;
use crate::error::Failure;
use crate::meter::Meter;
use crate::path::Dialect;
use crate::prefix::{NamedModel, Payload};
use crate::scope::CallerScope;
use crate::table::Table;
use crate::upload::{Upload, UploadWatch};
use crate::upstream::Upstream;

/// One request on its way to a backend.
pub(crate) struct Call {
    pub(crate) ingress: Ingress,
    pub(crate) dialect: Dialect,
    pub(crate) request_id: HeaderValue,
    pub(crate) method: Method,
    pub(crate) target: PathAndQuery,
    /// Cleaned: what the backend gets, but for its `Host`.
    pub(crate) headers: HeaderMap,
    /// The only backend that will do.
    pub(crate) pin: Option<String>,
    /// The name by which the request pins, where it is the model's name that does and not a header.
    pub(crate) pinned_as: Option<String>,
    /// The model that is asked for, without a pin.
    pub(crate) model: Option<String>,
    /// The user's own name for that model, if the request has it by that; without a pin, too.
    pub(crate) alias: Option<String>,
    /// What the request shows of its conversation.
    pub(crate) trail: Trail,
    /// Whether the models may be others afterwards.
    pub(crate) manages: bool,
    /// Whether the pin is our own: the connection that manages models where the request names none.
    pub(crate) manager_chosen: bool,
    /// What head and door allow of it; told where it is answered.
    pub(crate) admitted: Result<(), Failure>,
    /// What its caller may reach. None: all that the door allows.
    pub(crate) scope: Option<Arc<CallerScope>>,
    pub(crate) meter: Meter,
}

impl Call {
    /// Notes the model that the body names, has the body name it as its server does, and returns where it does that.
    ///
    /// An alias is replaced, and `<id>/<model>` pins and loses its first part.
    pub(crate) fn name(&mut self, named: NamedModel, payload: &mut Payload, table: &Table) -> Range<usize> {
        let NamedModel { name, span } = named;
        let (pin, model, alias) = {
            let meaning = Meaning::of(table, &name, self.pin.as_deref());
            if meaning.model == name && meaning.alias.is_none() {
                self.model = Some(name);
                return span;
            }
            (meaning.pin.map(str::to_owned), meaning.model.to_owned(), meaning.alias.map(str::to_owned))
        };
        let quoted = serde_json::Value::from(model.as_str()).to_string();
        let header = std::mem::replace(&mut self.pin, pin);
        self.model = Some(model);
        self.alias = alias;
        if self.pin.is_some() && header.is_none() {
            self.pinned_as = Some(name);
        }
        let before = span.len();
        let (Payload::Whole { bytes: text, .. } | Payload::Begun { prefix: text, .. }) = payload;
        *text = replaced(std::mem::take(text), &span, quoted.as_bytes());
        if let Some(length) = content_length(&self.headers) {
            // Cannot underflow: the body holds the name that is replaced.
            let length = length.saturating_sub(before as u64) + quoted.len() as u64;
            self.headers.insert(CONTENT_LENGTH, length.into());
        }
        span.start..span.start + quoted.len()
    }

    /// Tells whether a model is asked, so that it takes a slot: see [`EndpointClass::takes_slot`].
    pub(crate) fn asks(&self) -> bool {
        EndpointClass::takes_slot(self.meter.track().class, self.target.path(), self.model.is_some())
    }

    /// Tells whether nothing is done twice when it is sent twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        !self.manages && (self.model.is_some() || self.meter.track().class.is_some() || self.only_reads())
    }

    pub(crate) fn only_reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// Tells whether its caller is the machine's own user, and no key stands for somebody else.
    pub(crate) fn is_own(&self) -> bool {
        self.ingress == Ingress::Local && self.scope.is_none()
    }

    /// Builds the request for a backend; none when the payload has been given away, or when the backend's secret has.
    ///
    /// Takes a body along that cannot be sent again, and leaves one that can.
    pub(crate) fn request(&self, payload: &mut Option<Payload>, upstream: &Upstream) -> Option<Built> {
        let origin = &upstream.origin;
        let target = origin.target(&self.target)?;
        let authorization = upstream.authorization().ok()?;
        let mut headers = self.headers.clone();
        let (upload, watch) = match payload.take()? {
            Payload::Whole { bytes, trailers, held } => {
                if trailers.is_some() {
                    // Trailers need the chunked form.
                    headers.remove(CONTENT_LENGTH);
                }
                let upload = if bytes.is_empty() && trailers.is_none() {
                    Upload::Empty
                } else {
                    Upload::Whole(bytes.clone(), trailers.clone().map(Box::new))
                };
                *payload = Some(Payload::Whole { bytes, trailers, held });
                (upload, None)
            }
            Payload::Begun { prefix, rest, held } => {
                let (upload, watch) = {
                    let track = Arc::clone(self.meter.track());
                    Upload::streamed(prefix, rest, held, content_length(&headers), track)
                };
                (upload, Some(watch))
            }
        };
        headers.insert(HOST, origin.authority.clone());
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        let mut request = Request::new(upload);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target.into();
        *request.headers_mut() = headers;
        Some((request, watch))
    }
}

/// A request for a backend, and who is waited for while its body is streamed.
pub(crate) type Built = (Request<Upload>, Option<Arc<UploadWatch>>);

/// Puts something else in the place of a part. Of a long text that nobody else holds only the end is moved: where a
/// model comes late it is short.
fn replaced(text: Bytes, span: &Range<usize>, with: &[u8]) -> Bytes {
    match text.try_into_mut() {
        Ok(mut text) => {
            let end = text[span.end..].to_vec();
            text.truncate(span.start);
            text.extend_from_slice(with);
            text.extend_from_slice(&end);
            text.freeze()
        }
        Err(text) => Bytes::from([&text[..span.start], with, &text[span.end..]].concat()),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
