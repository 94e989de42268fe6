//! The control API: the same router behind the control socket and the control port.

mod connections;
pub(crate) mod error;
mod health;
mod status;
mod tunnel;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::middleware::{self, Next};
use axum::routing::{MethodRouter, get, post};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tunnel_api::Status;
use tunnel_broker::Broker;

use crate::doors::accept::Handler;
use crate::doors::peer::Peer;
use crate::guard::{Effect, Guards, Verdict};
use crate::tunnel::TunnelHandle;
use error::ApiError;

/// What the endpoints look at and order. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) tunnel: TunnelHandle,
    pub(crate) broker: Broker,
    pub(crate) guards: Arc<Guards>,
    pub(crate) started: Instant,
    /// Cancelled when the daemon shuts down: not ready any more.
    pub(crate) stopping: CancellationToken,
}

/// The door through which a request came and whose process sent it: what the guard judges by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) entrance: Entrance,
    pub(crate) peer: Peer,
}

/// The two doors of the control API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    Socket,
    Port,
}

/// The bodies that control requests have are small or absent.
const MAX_BODY_BYTES: usize = 64 * 1024;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const VERSION: HeaderName = HeaderName::from_static(tunnel_api::VERSION_HEADER);

/// Every endpoint, so that a test can walk them all.
fn routes() -> Vec<(&'static str, MethodRouter<Api>)> {
    vec![
        ("/livez", get(health::livez)),
        ("/readyz", get(health::readyz)),
        ("/api/health", get(health::health)),
        ("/api/version", get(health::version)),
        ("/api/status", get(status::status)),
        ("/api/connections", get(connections::connections)),
        ("/api/tunnel/start", post(tunnel::start)),
        ("/api/tunnel/stop", post(tunnel::stop)),
        ("/api/tunnel/restart", post(tunnel::restart)),
    ]
}

/// Returns the router, the guard around all of it: no route can be added beside it.
pub(crate) fn router(api: Api) -> Router {
    let mut router = Router::new();
    for (path, methods) in routes() {
        router = router.route(path, methods);
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(api.clone(), guarded))
        .with_state(api)
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {} here", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let sentence = format!("{} does not take {method}; see the Allow header", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", sentence)
}

/// Judges each request, gives it an id, and finishes each answer: version, CORS, the body of an error.
async fn guarded(State(api): State<Api>, request: Request<Body>, next: Next) -> Response<Body> {
    // A request that came through no door of ours is nobody's.
    let caller = request.extensions().get::<Caller>().copied();
    let peer = caller.map_or(Peer::Stranger, |caller| caller.peer);
    let request_id = format!("{:032x}", rand::random::<u128>());
    let verdict = match caller.map(|caller| caller.entrance) {
        Some(Entrance::Socket) => api.guards.socket().check(peer, &request, effect),
        Some(Entrance::Port) | None => api.guards.control().check(peer, &request, effect),
    };
    let (mut response, cors) = match verdict {
        Verdict::Pass(cors) => (next.run(request).await, cors),
        Verdict::Preflight(granted) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = crate::guard::Preflight::STATUS;
            granted.apply(response.headers_mut());
            (response, None)
        }
        Verdict::Refuse(refusal) => (ApiError::from(refusal).into_marker(), None),
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        *response.body_mut() = error.body(&request_id).into();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let headers = response.headers_mut();
    headers.insert(VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::try_from(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(cors) = cors {
        cors.apply(headers);
    }
    response
}

fn effect(method: &Method, _: &Uri) -> Effect {
    if method.is_safe() { Effect::Reads } else { Effect::Changes }
}

/// Feeds connections of one door into the router.
#[derive(Debug, Clone)]
pub(crate) struct ControlDoor {
    router: Router,
    entrance: Entrance,
}

impl ControlDoor {
    pub(crate) fn new(router: Router, entrance: Entrance) -> Self {
        Self { router, entrance }
    }
}

impl Handler for ControlDoor {
    type Body = Body;

    async fn handle(&self, peer: Peer, mut request: Request<Incoming>) -> Response<Body> {
        request.extensions_mut().insert(Caller { entrance: self.entrance, peer });
        match self.router.clone().oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests;
