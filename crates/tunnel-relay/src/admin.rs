//! The admin address: liveness, readiness, metrics. For operators only, without authentication.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tunnel_runtime::metrics::Exposition;

use crate::relay::Shared;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/readyz/callers", get(ready_for_callers))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

/// 200 while the relay takes new tunnels, 503 once it drains.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.draining.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
    } else {
        "ready\n".into_response()
    }
}

/// 200 while callers are best served here: also while the relay drains, until its desktops have moved.
async fn ready_for_callers(State(shared): State<Arc<Shared>>) -> Response {
    if shared.callers_leave.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "leaving\n").into_response()
    } else {
        "ready\n".into_response()
    }
}

async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let exposition = Exposition::of_accept(accept);
    let page = shared.metrics.page(shared.registry.counts(), exposition);
    ([(CONTENT_TYPE, exposition.content_type())], page).into_response()
}
