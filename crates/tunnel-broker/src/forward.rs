//! The way of one request: to a backend, to another one if need be, and its response back.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tracing::debug;

use crate::body::{Body, Streamed};
use crate::broker::Ingress;
use crate::call::Call;
use crate::conn::Conn;
use crate::connect::ConnectError;
use crate::error::Failure;
use crate::exchange::{ExchangeError, exchange};
use crate::headers;
use crate::idle::Idle;
use crate::inband::InBand;
use crate::media::Media;
use crate::path::Dialect;
use crate::permit::Permit;
use crate::prefix::Payload;
use crate::route::{NoRoute, Spread};
use crate::shared::Shared;
use crate::table::{Route, Table, Wanted};
use crate::track::Hold;
use crate::upstream::Upstream;

// Futures that are rarely awaited are boxed: what is awaited for each request stays small, and is moved less.

/// Forwards a request. Tries another backend as long as nothing of a response has been passed on.
pub(crate) async fn forward(
    shared: &Shared,
    mut call: Box<Call>,
    payload: Payload,
    spread: Spread,
) -> Response<Body> {
    let mut payload = Some(payload);
    let mut tried: Vec<Arc<Upstream>> = Vec::new();
    let mut last = None;
    loop {
        let route = match decide(shared, &call, spread, &tried).await {
            Ok(route) => route,
            // The backend that failed is a better reason than that there is no other.
            Err(failure) => {
                let table = shared.table.load();
                let known = call.model.as_deref().and_then(|model| table.catalog.find(model).first());
                if let Some(served) = known {
                    call.meter.meant(&served.name);
                }
                return refuse(&mut call, last.unwrap_or(failure));
            }
        };
        let settings = shared.settings();
        let upstream = Arc::clone(&route.backend.upstream);
        let Some(mut permit) = Permit::acquire(&route.backend, settings.pool_size) else {
            last.get_or_insert_with(|| Failure::Full(route.backend.config.id.clone()));
            tried.push(upstream);
            continue;
        };
        if call.manages {
            permit.probe_after();
        }
        call.meter.attempt(&route);
        let limits = Limits { connect: settings.connect_timeout, first_byte: settings.first_byte_timeout };
        match attempt(&upstream, &call, &mut payload, limits).await {
            Ok((response, conn)) => {
                tried.push(upstream);
                let replayable = payload.as_ref().is_some_and(Payload::is_whole);
                if replayable
                    && !may_pass(&call, response.status())
                    && can_another(shared, &call, spread, &tried)
                {
                    permit.failed();
                    continue;
                }
                let idle = Idle::new(settings.first_byte_timeout, settings.idle_timeout);
                return pass(call, &route, response, Streaming { conn, permit, idle });
            }
            Err(error) => {
                if error.is_the_backends() {
                    permit.failed();
                } else {
                    drop(permit);
                }
                if matches!(error, AttemptError::Connect(_)) {
                    // Its prober should know before its next turn.
                    upstream.order_probe();
                }
                tried.push(upstream);
                let again = error.is_worth_another() && payload.is_some();
                let failure = error.failure(&route, &limits);
                debug!(
                    request_id = ?call.request_id, backend = %route.backend.config.id, error = failure.code(), again,
                    "attempt failed"
                );
                if !again {
                    return refuse(&mut call, failure);
                }
                last = Some(failure);
            }
        }
    }
}

/// Finds a backend; waits for a first probe, or asks anew what there is, where that may help.
async fn decide(
    shared: &Shared,
    call: &Call,
    spread: Spread,
    tried: &[Arc<Upstream>],
) -> Result<Route, Failure> {
    let mut waited = false;
    let mut refreshed = !tried.is_empty();
    let pin = call.pin.as_deref();
    let concerns = |id: &str| pin.is_none_or(|pin| pin == id);
    loop {
        let wanted = wanted(call, spread, tried);
        let table = shared.table.load();
        let no_route = match table.route(&wanted) {
            Ok(route) => return Ok(route),
            Err(no_route) => no_route,
        };
        if pin.is_some_and(|pin| table.backend(pin).is_none()) {
            return Err(Failure::UnknownConnection(shorten(pin.unwrap_or_default())));
        }
        if table.backends.is_empty() {
            return Err(Failure::NoBackend);
        }
        match no_route {
            NoRoute::Pending if !waited => {
                waited = true;
                let limit = table.settings.connect_timeout;
                drop(table);
                let known = |table: &Table| !matches!(table.route(&wanted), Err(NoRoute::Pending));
                Box::pin(shared.wait_until(limit, known)).await;
            }
            // A model may just have been pulled, and a server may just have come back.
            NoRoute::Nobody | NoRoute::Down(_) if !refreshed => {
                refreshed = true;
                drop(table);
                Box::pin(shared.refresh(|backend| concerns(&backend.config.id))).await;
            }
            no_route => return Err(explain(&table, call, no_route)),
        }
    }
}

fn wanted<'a>(call: &'a Call, spread: Spread, tried: &'a [Arc<Upstream>]) -> Wanted<'a> {
    Wanted { dialect: call.dialect, pin: call.pin.as_deref(), model: call.model.as_deref(), spread, tried }
}

/// Says why a request has no backend.
pub(crate) fn explain(table: &Table, call: &Call, no_route: NoRoute) -> Failure {
    let id = |index: usize| table.backends[index].config.id.clone();
    match no_route {
        NoRoute::Nobody => match &call.model {
            Some(model) => Failure::UnknownModel(shorten(model)),
            None => Failure::NoBackend,
        },
        NoRoute::WrongDialect(index) => Failure::WrongDialect {
            subject: match &call.model {
                Some(model) => format!("model '{}' is on connection '{}', which", shorten(model), id(index)),
                None => format!("connection '{}'", id(index)),
            },
            instead: match call.dialect {
                Dialect::Ollama => "OpenAI's API at /v1, such as /v1/chat/completions",
                Dialect::OpenAi | Dialect::Other => "Ollama's API at /api, such as /api/chat",
            },
        },
        NoRoute::Full(index) => Failure::Full(id(index)),
        NoRoute::Down(index) => {
            Failure::Down { id: id(index), why: table.backends[index].report.error.clone() }
        }
        NoRoute::Pending => {
            let id = table.backends.iter().find(|backend| backend.is_new()).map(|b| b.config.id.clone());
            Failure::Down { id: id.unwrap_or_default(), why: Some("it has not answered yet".to_owned()) }
        }
    }
}

/// Keeps what a caller sent at a length that an error message can hold.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 200;
    text.chars().take(LONGEST).collect()
}

/// Tells whether a response may be passed on although another backend could be asked.
fn may_pass(call: &Call, status: StatusCode) -> bool {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => false,
        // A path that not every server has, on no model in particular: the next one may have it.
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            call.model.is_some() || call.dialect == Dialect::Ollama
        }
        _ => true,
    }
}

fn can_another(shared: &Shared, call: &Call, spread: Spread, tried: &[Arc<Upstream>]) -> bool {
    shared.table.load().route(&wanted(call, spread, tried)).is_ok()
}

#[derive(Clone, Copy)]
struct Limits {
    connect: Duration,
    first_byte: Duration,
}

enum AttemptError {
    Connect(ConnectError),
    Exchange(ExchangeError),
}

/// Sends the request to one backend: on a connection that is there, else on a new one.
async fn attempt(
    upstream: &Upstream,
    call: &Call,
    payload: &mut Option<Payload>,
    limits: Limits,
) -> Result<(Response<Incoming>, Conn), AttemptError> {
    // A body that can be sent once only gets a new connection: one from the pool may be closed already.
    let replayable = payload.as_ref().is_some_and(Payload::is_whole);
    let pooled = if replayable { upstream.pool.take() } else { None };
    if let Some(mut conn) = pooled {
        match send(upstream, call, payload, &mut conn, limits.first_byte).await {
            Ok(response) => return Ok((response, conn)),
            // Closed by the backend while it was idle, most likely: that is no failure of this request.
            Err(ExchangeError::Lost) => {}
            Err(error) => return Err(AttemptError::Exchange(error)),
        }
    }
    let connecting = Box::pin(upstream.connect(limits.connect));
    let mut conn = connecting.await.map_err(AttemptError::Connect)?;
    let response =
        send(upstream, call, payload, &mut conn, limits.first_byte).await.map_err(AttemptError::Exchange)?;
    Ok((response, conn))
}

async fn send(
    upstream: &Upstream,
    call: &Call,
    payload: &mut Option<Payload>,
    conn: &mut Conn,
    first_byte: Duration,
) -> Result<Response<Incoming>, ExchangeError> {
    let (request, watch) = call.request(payload, &upstream.origin).ok_or(ExchangeError::UploadFailed)?;
    call.meter.connected();
    exchange(conn, request, watch.as_deref(), first_byte).await
}

impl AttemptError {
    /// Tells whether the backend is to blame: callers that break off must not make it look bad.
    fn is_the_backends(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Exchange(error) => match error {
                ExchangeError::Lost | ExchangeError::NotHttp | ExchangeError::Silent => true,
                ExchangeError::UploadStalled | ExchangeError::UploadFailed => false,
            },
        }
    }

    /// Tells whether another backend may do better.
    fn is_worth_another(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Exchange(error) => match error {
                ExchangeError::Lost | ExchangeError::NotHttp => true,
                // The caller has waited long enough, and the model may be at work.
                ExchangeError::Silent | ExchangeError::UploadStalled | ExchangeError::UploadFailed => false,
            },
        }
    }

    fn failure(&self, route: &Route, limits: &Limits) -> Failure {
        let id = route.backend.config.id.clone();
        match self {
            Self::Connect(error) => Failure::Unreachable { id, why: error.to_string() },
            Self::Exchange(error) => match error {
                ExchangeError::Lost => Failure::Lost(id),
                ExchangeError::NotHttp => Failure::NotHttp(id),
                ExchangeError::Silent => Failure::FirstByteTimeout { id, after: limits.first_byte },
                ExchangeError::UploadStalled => Failure::UploadStalled,
                ExchangeError::UploadFailed => Failure::UploadFailed,
            },
        }
    }
}

struct Streaming {
    conn: Conn,
    permit: Permit,
    idle: Idle,
}

/// Turns a backend's response into the caller's.
fn pass(
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
    headers::clean_response(&mut head.headers);
    sign(&mut head.headers, &call, Some(route));
    let Streaming { conn, permit, idle } = streaming;
    let media = Media::of(&head.headers);
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
            Ingress::Local => media.and_then(|media| InBand::of(media, &head.headers)),
            Ingress::Tunnel => None,
        };
        call.meter.hold(Hold { cutter: conn.cutter(), permit });
        Body::streamed(Streamed { incoming, conn, idle, in_band, meter: call.meter })
    };
    Response::from_parts(head, body)
}

/// Answers with an error of our own.
pub(crate) fn refuse(call: &mut Call, failure: Failure) -> Response<Body> {
    call.meter.refused(&failure);
    debug!(request_id = ?call.request_id, status = failure.status().as_u16(), error = failure.code(), "refused");
    let mut response = failure.response(call.dialect);
    sign(response.headers_mut(), call, None);
    response
}

/// Says whose answer it is.
pub(crate) fn sign(headers: &mut HeaderMap, call: &Call, route: Option<&Route>) {
    number(headers, &call.request_id);
    let Some(route) = route else { return };
    if let Some(id) = &route.backend.id_header {
        headers.insert(headers::CONNECTION_ID, id.clone());
    }
    if let Some(name) = route.model.as_ref().and_then(|model| model.header.as_ref()) {
        headers.insert(headers::MODEL, name.clone());
    }
}

/// Says which request is answered.
pub(crate) fn number(headers: &mut HeaderMap, request_id: &HeaderValue) {
    let mut request_id = request_id.clone();
    // Never the same twice: in a tunnel it must not push others out of HPACK's table.
    request_id.set_sensitive(true);
    headers.insert(headers::REQUEST_ID, request_id);
}
