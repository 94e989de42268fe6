//! The admin address, for operators only.
//!
//! Liveness, readiness and metrics ask for nothing, so that any monitoring can read them: they name nobody. What does
//! name tenants, or changes something, is below `/admin/v1` and asks for the token in the data directory.

mod api;
mod guard;
mod problem;
mod revocation;
mod views;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use secrecy::SecretString;
use tunnel_runtime::metrics::Exposition;

use crate::private_file::{self, PrivateFileError};
use crate::relay::Shared;

/// What the admin address keeps.
#[derive(Debug)]
pub(crate) struct AdminState {
    token: SecretString,
}

impl AdminState {
    /// Reads the operators' token, or makes it at the first start.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, PrivateFileError> {
        let token = private_file::secret(&token_path(data_dir))?.into();
        Ok(Self { token })
    }
}

/// Returns where the operators' token lies.
pub(crate) fn token_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin-token")
}

/// Returns where a running relay has written its addresses.
pub(crate) fn addresses_path(data_dir: &Path) -> PathBuf {
    data_dir.join("addresses.json")
}

pub(crate) fn service(shared: Arc<Shared>) -> IntoMakeServiceWithConnectInfo<Router, SocketAddr> {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/readyz/callers", get(ready_for_callers))
        .route("/metrics", get(metrics))
        .nest("/admin/v1", api::router(&shared))
        .with_state(shared)
        .into_make_service_with_connect_info()
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
    let page = shared.metrics.page(shared.registry.counts(), &shared.tls.status(), exposition);
    ([(CONTENT_TYPE, exposition.content_type())], page).into_response()
}
