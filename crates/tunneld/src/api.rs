//! The control API: the same router behind the control socket and the control port.

mod auth;
mod author;
mod body;
mod config;
mod connections;
mod credentials;
mod devices;
mod diagnosis;
pub(crate) mod error;
mod events;
mod explain;
mod health;
mod keys;
mod log_level;
pub(crate) mod metrics;
mod models;
mod openapi;
mod path;
mod query;
mod requests;
mod status;
mod tunnel;
mod usage;
mod warnings;
pub(crate) mod ws;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, State};
use axum::middleware::{self, Next};
use axum::routing::{MethodRouter, delete, get, post, put};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, info};
use tunnel_api::Status;
use tunnel_broker::Broker;
use tunnel_runtime::LogLevel;
use tunnel_runtime::telemetry::LogPlace;

use crate::config::ConfigHandle;
use crate::detect::Detector;
use crate::diagnosis::Examiner;
use crate::doors::accept::Handler;
use crate::doors::peer::Peer;
use crate::guard::{Effect, Guards, Verdict};
use crate::keys::Keys;
use crate::login::LoginHandle;
use crate::resources::SharedReading;
use crate::secrets::{TokenHandle, Vault};
use crate::store::{ApiOutcome, RecorderHandle, Store};
use crate::tunnel::{Settings, TunnelHandle};
use author::programs_only;
use error::ApiError;
use metrics::LastAnswer;
use ws::Clients;

/// What the endpoints look at and order. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) config: ConfigHandle,
    pub(crate) tunnel: TunnelHandle,
    /// Where the relay is.
    pub(crate) relay: watch::Receiver<Arc<Settings>>,
    pub(crate) token: TokenHandle,
    pub(crate) vault: Vault,
    pub(crate) login: LoginHandle,
    pub(crate) keys: Keys,
    pub(crate) broker: Broker,
    pub(crate) guards: Arc<Guards>,
    pub(crate) store: Store,
    pub(crate) recorder: RecorderHandle,
    /// Everything that `GET /metrics` shows.
    pub(crate) page: Arc<Registry>,
    pub(crate) resources: SharedReading,
    pub(crate) last_answer: Arc<LastAnswer>,
    pub(crate) clients: Clients,
    pub(crate) detector: Detector,
    pub(crate) examiner: Examiner,
    /// None where the log is not ours, as in a test.
    pub(crate) log_level: Option<LogLevel>,
    pub(crate) log_place: Option<LogPlace>,
    pub(crate) started: Instant,
    pub(crate) started_at: Timestamp,
    /// Waits for the clients of `/ws` at the end.
    pub(crate) tracker: TaskTracker,
    /// Cancelled when the daemon shuts down: not ready any more.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when what still runs has to end.
    pub(crate) hard: CancellationToken,
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

/// Whether the caller may change something over the WebSocket that it asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MayChange(pub(crate) bool);

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
        ("/api/connections/detect", post(connections::detect)),
        ("/api/connections/{id}/test", post(connections::test)),
        ("/api/credentials", get(credentials::list)),
        ("/api/credentials/{name}", programs_only(put(credentials::store).delete(credentials::remove))),
        ("/api/diagnosis", post(diagnosis::examine)),
        ("/api/warnings", get(warnings::warnings)),
        ("/api/devices", get(devices::devices)),
        ("/api/models", get(models::models)),
        ("/api/explain", get(explain::asked).post(explain::posted)),
        ("/api/models/load", post(models::load)),
        ("/api/models/unload", post(models::unload)),
        ("/api/models/aliases/{name}", put(models::alias).delete(models::unalias)),
        ("/api/models/warm/{model}", put(models::warm).delete(models::cool)),
        ("/api/requests", get(requests::list)),
        ("/api/requests/{id}", delete(requests::cancel)),
        ("/api/metrics", get(metrics::metrics)),
        ("/api/usage", get(usage::usage)),
        ("/api/events", get(events::events)),
        ("/api/log-level", put(log_level::set)),
        ("/api/config", get(config::show).put(config::replace).patch(config::patch)),
        ("/api/config/origins", get(config::origins)),
        ("/api/config/schema", get(config::schema)),
        ("/api/config/backups", get(config::backups)),
        ("/api/config/validate", post(config::validate)),
        ("/api/config/reload", post(config::reload)),
        ("/api/config/backup", post(config::back_up)),
        ("/api/config/restore", post(config::restore)),
        ("/api/config/import", programs_only(post(config::import))),
        ("/api/auth", get(auth::status)),
        ("/api/auth/token", programs_only(put(auth::store)).delete(auth::remove)),
        (
            "/api/auth/login",
            programs_only(post(auth::begin_login)).get(auth::login_status).delete(auth::cancel_login),
        ),
        ("/api/auth/logout", post(auth::logout)),
        ("/api/keys", programs_only(post(keys::create)).get(keys::list)),
        ("/api/keys/{id}", programs_only(delete(keys::revoke))),
        ("/api/tunnel/start", post(tunnel::start)),
        ("/api/tunnel/stop", post(tunnel::stop)),
        ("/api/tunnel/restart", post(tunnel::restart)),
        ("/metrics", get(metrics::page)),
        ("/openapi.json", get(openapi::document)),
        ("/ws", get(ws::upgrade)),
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

async fn not_found() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "there is no such endpoint; docs/local-api.md lists them",
    )
}

async fn method_not_allowed() -> ApiError {
    let sentence = "this endpoint does not take that method; see the Allow header";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", sentence)
}

/// Judges each request, gives it an id, and finishes each answer: version, CORS, the body of an error, the log.
async fn guarded(State(api): State<Api>, mut request: Request<Body>, next: Next) -> Response<Body> {
    let begin = Instant::now();
    // A request that came through no door of ours is nobody's.
    let caller = request.extensions().get::<Caller>().copied();
    let request_id = format!("{:032x}", rand::random::<u128>());
    let method = request.method().clone();
    // The route and not the path, which is the caller's to write.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let verdict = judge(&api, caller, &request, effect);
    let (mut response, cors) = match verdict {
        Verdict::Pass(cors) => {
            if request.headers().contains_key(UPGRADE) {
                let verdict = judge(&api, caller, &request, |_, _| Effect::Changes);
                request.extensions_mut().insert(MayChange(matches!(verdict, Verdict::Pass(_))));
            }
            (next.run(request).await, cors)
        }
        Verdict::Preflight(granted) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = crate::guard::Preflight::STATUS;
            granted.apply(response.headers_mut());
            (response, None)
        }
        Verdict::Refuse(refusal) => (ApiError::from(refusal).into_marker(), None),
    };
    let error = response.extensions_mut().remove::<ApiError>().or_else(|| ApiError::in_place_of(&response));
    if let Some(error) = error {
        *response.body_mut() = error.body(&request_id).into();
        // Of the body before.
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    note(&api, &method, route.as_ref(), response.status(), begin, &request_id);
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

fn judge(
    api: &Api,
    caller: Option<Caller>,
    request: &Request<Body>,
    effect: impl Fn(&Method, &Uri) -> Effect,
) -> Verdict {
    let peer = caller.map_or(Peer::Stranger, |caller| caller.peer);
    match caller.map(|caller| caller.entrance) {
        Some(Entrance::Socket) => api.guards.socket().check(peer, request, effect),
        Some(Entrance::Port) | None => api.guards.control().check(peer, request, effect),
    }
}

const STANDARD_METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// What is asked every few seconds for as long as the daemon runs, not least by the daemon itself for its watchdog.
/// Counted, it would hide what people ask, and the database would be written for nothing else.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// Counts an answer, and writes the access log: what changes something is worth a line, what reads only at DEBUG.
fn note(
    api: &Api,
    method: &Method,
    route: Option<&MatchedPath>,
    status: StatusCode,
    begin: Instant,
    request_id: &str,
) {
    let route = route.map_or("none", MatchedPath::as_str);
    if !PROBES.contains(&route) {
        let failed = status.is_client_error() || status.is_server_error();
        api.recorder.api(if failed { ApiOutcome::Failed } else { ApiOutcome::Ok });
        api.last_answer.now();
    }
    let safe = method.is_safe();
    // Neither are methods that nobody knows.
    let method = if STANDARD_METHODS.contains(method) { method.as_str() } else { "other" };
    let (status, ms) = (status.as_u16(), begin.elapsed().as_secs_f64() * 1e3);
    if safe {
        debug!(target: "api", method, route, status, ms, request_id, "answered");
    } else {
        info!(target: "api", method, route, status, ms, request_id, "answered");
    }
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
