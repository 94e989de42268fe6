//! `GET /api/health`, `/api/version`, `/livez`, `/readyz`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use tunnel_api::{API_VERSION, Health, HealthStatus, LogTarget, PROTOCOL, Version};
use tunnel_runtime::telemetry::LogPlace;

use super::Api;
use super::error::ApiError;
use crate::view;

/// The answer of a probe that went well.
#[derive(Serialize)]
pub(super) struct Probe {
    status: &'static str,
}

pub(super) async fn health(State(api): State<Api>) -> Json<Health> {
    Json(Health {
        status: view::health(&api.status.borrow()),
        uptime: api.started.elapsed().as_secs(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        timestamp: Timestamp::now(),
    })
}

pub(super) async fn version(State(api): State<Api>) -> Json<Version> {
    let (log, log_file) = match api.log_place {
        Some(LogPlace::Journal) => (LogTarget::Journal, None),
        // Absolute: who asks is somewhere else.
        Some(LogPlace::File(path)) => {
            let path = std::path::absolute(&path).unwrap_or(path);
            (LogTarget::File, Some(path.display().to_string()))
        }
        Some(LogPlace::Stderr) => (LogTarget::Stderr, None),
        None => (LogTarget::Unknown, None),
    };
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    Json(Version {
        tunnel_manager: env!("CARGO_PKG_VERSION").to_owned(),
        api_version: API_VERSION.to_owned(),
        build: format!("{profile} {}-{}", std::env::consts::ARCH, std::env::consts::OS),
        git: option_env!("TUNNELD_GIT").unwrap_or("unknown").to_owned(),
        protocol: PROTOCOL.to_owned(),
        log,
        log_file,
        timestamp: Timestamp::now(),
    })
}

/// The process runs and answers.
pub(super) async fn livez() -> Json<Probe> {
    Json(Probe { status: "ok" })
}

/// A request would be answered: some backend is up, and the daemon is not on its way out.
pub(super) async fn readyz(State(api): State<Api>) -> Result<Json<Probe>, ApiError> {
    let not_ready = |sentence: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", sentence);
    if api.stopping.is_cancelled() {
        return Err(not_ready("tunneld is shutting down"));
    }
    match view::health(&api.status.borrow()) {
        HealthStatus::Unhealthy => {
            Err(not_ready("no model server is connected; start one, or see tunnelctl status"))
        }
        HealthStatus::Healthy | HealthStatus::Degraded | HealthStatus::Unknown => {
            Ok(Json(Probe { status: "ready" }))
        }
    }
}
