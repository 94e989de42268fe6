//! `GET /api/requests`, `DELETE /api/requests/{id}`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use tunnel_api::request::{Ingress, Request, RequestState};
use tunnel_api::{Requests, TunnelAnswer};
use tunnel_broker::RunningRequest;

use super::Api;
use super::error::ApiError;
use super::path::Path;

pub(super) async fn list(State(api): State<Api>) -> Json<Requests> {
    let requests = api.broker.requests().into_iter().map(shown).collect();
    Json(Requests { requests, timestamp: Timestamp::now() })
}

pub(super) async fn cancel(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<TunnelAnswer>, ApiError> {
    if api.broker.cancel(&id) {
        Ok(Json(TunnelAnswer::success("the request is cancelled", Timestamp::now())))
    } else {
        let sentence = "no request with this id runs; it may have ended meanwhile";
        Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_request", sentence))
    }
}

/// Whether a path is one of the model servers' own: others are the caller's to write, and may be anything.
fn is_known(path: &str) -> bool {
    const KNOWN: [&str; 12] = [
        "/api/pull",
        "/api/push",
        "/api/create",
        "/api/copy",
        "/api/delete",
        "/api/show",
        "/api/tags",
        "/api/ps",
        "/api/version",
        "/v1/models",
        // Of the control API; the broker lists them with the others.
        "/api/models/load",
        "/api/models/unload",
    ];
    KNOWN.contains(&path)
}

fn shown(request: RunningRequest) -> Request {
    Request {
        id: request.id,
        ingress: match request.ingress {
            tunnel_broker::Ingress::Local => Ingress::Local,
            tunnel_broker::Ingress::Tunnel => Ingress::Tunnel,
            tunnel_broker::Ingress::Lan => Ingress::Lan,
        },
        key: request.caller.map(|caller| caller.to_string()),
        connection: request.connection,
        model: request.model,
        path: if request.class.is_some() || is_known(&request.path) {
            request.path
        } else {
            "other".to_owned()
        },
        state: match request.state {
            tunnel_broker::RequestState::Waiting => RequestState::Waiting,
            tunnel_broker::RequestState::Queued => RequestState::Queued,
            tunnel_broker::RequestState::Connecting => RequestState::Connecting,
            tunnel_broker::RequestState::FirstByte => RequestState::FirstByte,
            tunnel_broker::RequestState::Streaming => RequestState::Streaming,
        },
        queue_position: request.queue_position.map(|position| position as u64),
        waiting_for: request.waiting_for,
        started: Timestamp::try_from(request.started).unwrap_or_default(),
        duration_ms: u64::try_from(request.age.as_millis()).unwrap_or(u64::MAX),
        bytes_out: request.bytes_out,
        tokens: request.tokens,
    }
}
