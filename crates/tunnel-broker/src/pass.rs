//! What the caller gets: a backend's response, or an error of our own.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tracing::debug;

use crate::body::{Body, BodyError, Streamed};
use crate::broker::Ingress;
use crate::call::Call;
use crate::class::EndpointClass;
use crate::conn::Conn;
use crate::error::Failure;
use crate::headers;
use crate::idle::Idle;
use crate::inband::InBand;
use crate::kept::Kept;
use crate::media::Media;
use crate::permit::Permit;
use crate::table::Route;
use crate::track::Hold;

/// What a response holds until its end.
pub(crate) struct Streaming {
    pub(crate) conn: Conn,
    pub(crate) permit: Permit,
    pub(crate) idle: Idle,
}

/// Turns a backend's response into the caller's.
pub(crate) fn pass(
    mut call: Box<Call>,
    route: &Route,
    response: Response<Incoming>,
    streaming: Streaming,
) -> Response<Body> {
    let (mut head, incoming) = response.into_parts();
    debug!(
        request_id = ?call.request_id, backend = %route.backend.config.id, status = head.status.as_u16(),
        model = route.model.as_ref().map(|model| &*model.text), "answered"
    );
    head.version = Version::HTTP_11;
    // Its end is that of the connection then, which a server that dies closes as well.
    let by_close = !head.headers.contains_key(TRANSFER_ENCODING) && incoming.size_hint().exact().is_none();
    headers::clean_response(&mut head.headers);
    sign(&mut head.headers, &call, Some(route));
    let Streaming { conn, permit, idle } = streaming;
    let media = Media::of(&head.headers);
    let may_be_cut = by_close && EndpointClass::marks_its_end(call.target.path());
    call.meter.answered(head.status, media, incoming.size_hint().exact());
    let body = if incoming.is_end_stream() {
        call.meter.complete();
        if call.meter.answered_badly() {
            permit.answered_badly(conn)
        } else {
            permit.succeeded(conn)
        }
        Body::empty()
    } else {
        // Through the tunnel the relay says it: the outermost hop writes the in-band error.
        let in_band = match call.ingress {
            Ingress::Local | Ingress::Lan => media.and_then(|media| InBand::of(media, &head.headers)),
            Ingress::Tunnel => None,
        };
        call.meter.hold(Hold { cutter: conn.cutter(), permit });
        Body::streamed(Streamed { incoming, conn, idle, in_band, may_be_cut, meter: call.meter })
    };
    Response::from_parts(head, body)
}

/// Passes on an answer that was put aside.
pub(crate) fn pass_kept(mut call: Box<Call>, kept: Kept) -> Response<Body> {
    let Kept { route, mut head, body, whole } = kept;
    if !call.meter.is_at(&route) {
        // Others were asked since, and failed.
        call.meter.attempt(&route);
    }
    head.version = Version::HTTP_11;
    headers::clean_response(&mut head.headers);
    sign(&mut head.headers, &call, Some(&route));
    if !whole {
        // What the server meant to send is not what is sent here: a caller would wait for the rest.
        head.headers.remove(CONTENT_LENGTH);
        call.meter.answered(head.status, Media::of(&head.headers), None);
        return Response::from_parts(head, Body::part(body, BodyError::BackendLost, call.meter));
    }
    call.meter.answered(head.status, Media::of(&head.headers), Some(body.len() as u64));
    call.meter.passed(&body);
    call.meter.complete();
    Response::from_parts(head, Body::full(body))
}

/// Answers with an error of our own.
pub(crate) fn refuse(call: &mut Call, failure: Failure) -> Response<Body> {
    let failure = if call.is_own() { failure } else { failure.for_strangers() };
    let failure = if call.manager_chosen { failure.for_managers() } else { failure };
    call.meter.refused(&failure);
    debug!(request_id = ?call.request_id, status = failure.status().as_u16(), error = failure.code(), "refused");
    let mut response = failure.response(call.dialect);
    sign(response.headers_mut(), call, None);
    response
}

/// Says whose answer it is.
pub(crate) fn sign(headers: &mut HeaderMap, call: &Call, route: Option<&Route>) {
    number(headers, &call.request_id);
    tell_wait(headers, call);
    let Some(route) = route else { return };
    if let Some(id) = &route.backend.id_header {
        headers.insert(headers::CONNECTION_ID, id.clone());
    }
    if let Some(name) = route.model.as_ref().and_then(|model| model.header.as_ref()) {
        headers.insert(headers::MODEL, name.clone());
    }
}

/// Says how long the request waited for its turn, and how many were to be served first; nothing if it did not.
fn tell_wait(headers: &mut HeaderMap, call: &Call) {
    let waited = call.meter.track().queued();
    if waited.is_zero() {
        return;
    }
    let number = |n: u64| {
        let mut value = HeaderValue::from(n);
        // As with the request's id.
        value.set_sensitive(true);
        value
    };
    let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    headers.insert(headers::QUEUED_MS, number(ms));
    if let Some(position) = call.meter.track().first_position() {
        headers.insert(headers::QUEUE_POSITION, number(position));
    }
}

/// Says which request is answered.
pub(crate) fn number(headers: &mut HeaderMap, request_id: &HeaderValue) {
    let mut request_id = request_id.clone();
    // Never the same twice: in a tunnel it must not push others out of HPACK's table.
    request_id.set_sensitive(true);
    headers.insert(headers::REQUEST_ID, request_id);
}
