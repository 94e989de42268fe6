//! `POST /api/tunnel/start`, `stop`, `restart`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tunnel_api::{TunnelAnswer, TunnelState};

use super::Api;
use super::error::ApiError;
use super::query::Query;
use crate::tunnel::{Order, Rejected, TunnelReport};

type Answer = Result<Json<TunnelAnswer>, ApiError>;

/// The query of an order.
#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    /// Seconds to wait until the order's state is reached. None: answer once the order is accepted.
    wait: Option<String>,
}

/// Longest `?wait=`, in seconds.
const MAX_WAIT_S: f64 = 3600.0;

pub(super) async fn start(State(api): State<Api>, Query(wait): Query<Wait>) -> Answer {
    let wait = wait.parse()?;
    give(&api, Order::Start, wait, TunnelState::Connected).await?;
    Ok(success(if wait.is_some() { "the tunnel is up" } else { "the tunnel is being opened" }))
}

pub(super) async fn stop(State(api): State<Api>, Query(wait): Query<Wait>) -> Answer {
    let wait = wait.parse()?;
    give(&api, Order::Stop, wait, TunnelState::Disconnected).await?;
    let drained = "the tunnel is down";
    Ok(success(if wait.is_some() {
        drained
    } else {
        "the tunnel is closed once its running requests have ended"
    }))
}

pub(super) async fn restart(State(api): State<Api>, Query(wait): Query<Wait>) -> Answer {
    let wait = wait.parse()?;
    give(&api, Order::Restart, wait, TunnelState::Connected).await?;
    Ok(success(if wait.is_some() { "the tunnel is up again" } else { "the tunnel is being opened anew" }))
}

fn success(message: &str) -> Json<TunnelAnswer> {
    Json(TunnelAnswer::success(message, Timestamp::now()))
}

/// Gives the order and, if asked to, waits for its state.
async fn give(api: &Api, order: Order, wait: Option<Duration>, goal: TunnelState) -> Result<(), ApiError> {
    api.tunnel.give(order).await.map_err(rejected)?;
    let Some(wait) = wait else { return Ok(()) };
    let mut reports = api.tunnel.reports();
    let reached = reports.wait_for(|report| report.tunnel.state == goal);
    match tokio::time::timeout(wait, reached).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(rejected(Rejected::ShuttingDown)),
        Err(_) => Err(timed_out(&api.tunnel.report(), wait)),
    }
}

fn rejected(rejected: Rejected) -> ApiError {
    let (status, code) = match rejected {
        Rejected::Disabled => (StatusCode::CONFLICT, "cloud_proxy_disabled"),
        Rejected::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
    };
    ApiError::new(status, code, rejected.to_string())
}

fn timed_out(report: &TunnelReport, wait: Duration) -> ApiError {
    let state = report.tunnel.state;
    let why = report.tunnel.last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
    let sentence = format!("the tunnel is still {state} after {} s{why}", wait.as_secs_f64());
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", sentence)
}

impl Wait {
    fn parse(self) -> Result<Option<Duration>, ApiError> {
        let Some(text) = self.wait else { return Ok(None) };
        let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=MAX_WAIT_S).contains(seconds));
        let Some(seconds) = seconds else {
            let sentence = format!("wait takes seconds between 0 and {MAX_WAIT_S}");
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence));
        };
        Ok(Some(Duration::from_secs_f64(seconds)))
    }
}
