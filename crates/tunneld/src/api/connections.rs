//! `GET /api/connections`, `POST /api/connections/{id}/test`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use tunnel_api::Connections;
use tunnel_api::connection::{CLOUD_ID, ConnectionTest};

use super::Api;
use super::error::ApiError;
use super::path::Path;
use crate::view;

pub(super) async fn connections(State(api): State<Api>) -> Json<Connections> {
    let status = view::current(&api.status.borrow(), &api.broker);
    Json(Connections::new(status.connections.into_values(), status.timestamp))
}

/// Probes a model server; of the cloud it tells how the tunnel stands, whose heartbeat is younger than any answer.
pub(super) async fn test(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<ConnectionTest>, ApiError> {
    let unknown = || {
        let sentence = "there is no connection with this id; GET /api/connections lists them";
        ApiError::new(StatusCode::NOT_FOUND, "unknown_connection", sentence)
    };
    let connection = if id == CLOUD_ID {
        api.status.borrow().connections.get(CLOUD_ID).cloned().ok_or_else(unknown)?
    } else {
        view::connection(&api.broker.probe(&id).await.ok_or_else(unknown)?)
    };
    let now = Timestamp::now();
    let report = connection.into_report(now);
    Ok(Json(ConnectionTest {
        ok: report.connection.connected,
        message: report.status_description.clone(),
        connection: report,
        timestamp: now,
    }))
}
