//! `POST /api/models/load`, `POST /api/models/unload`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use tunnel_api::{ModelMove, ModelMoves, ModelOrder};
use tunnel_broker::{KeepAlive, LoadOrder, MoveError, Moved};

use crate::api::Api;
use crate::api::body::Body;
use crate::api::error::ApiError;

/// Waits until the model is in memory. Who goes away meanwhile gives it up.
pub(in crate::api) async fn load(
    State(api): State<Api>,
    Body(order): Body<ModelOrder>,
) -> Result<Json<ModelMoves>, ApiError> {
    let keep_alive = order.keep_alive.as_ref().map(|value| {
        KeepAlive::read(value).ok_or_else(|| {
            let sentence = "keep_alive must be whole seconds, below 0 for ever, or a text such as \"30m\"";
            ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence)
        })
    });
    let order =
        LoadOrder { model: order.model, connection: order.connection, keep_alive: keep_alive.transpose()? };
    let moved = api.broker.load(&order).await?;
    let message = if moved.changed {
        format!("{} is in memory on {}", moved.model, moved.connection)
    } else {
        format!("{} was in memory on {} already", moved.model, moved.connection)
    };
    Ok(answer(message, vec![moved]))
}

pub(in crate::api) async fn unload(
    State(api): State<Api>,
    Body(order): Body<ModelOrder>,
) -> Result<Json<ModelMoves>, ApiError> {
    if order.keep_alive.is_some() {
        let sentence = "keep_alive is for loading; what is unloaded leaves at once";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence));
    }
    let moved = api.broker.unload(&order.model, order.connection.as_deref()).await?;
    let from: Vec<&str> = moved.iter().map(|moved| moved.connection.as_str()).collect();
    let message = if from.is_empty() {
        format!("{} is not in memory", order.model)
    } else {
        format!("{} has left the memory of {}", order.model, from.join(", "))
    };
    Ok(answer(message, moved))
}

fn answer(message: String, moved: Vec<Moved>) -> Json<ModelMoves> {
    let shown = |moved: Moved| ModelMove {
        model: moved.model,
        connection: moved.connection,
        loaded: moved.loaded,
        changed: moved.changed,
        duration_ms: u64::try_from(moved.took.as_millis()).unwrap_or(u64::MAX),
    };
    Json(ModelMoves { message, moved: moved.into_iter().map(shown).collect(), timestamp: Timestamp::now() })
}

impl From<MoveError> for ApiError {
    fn from(error: MoveError) -> Self {
        let status = match &error {
            MoveError::UnknownModel(_) | MoveError::UnknownConnection(_) => StatusCode::NOT_FOUND,
            MoveError::Unable { .. } | MoveError::Cancelled => StatusCode::CONFLICT,
            MoveError::Down { .. } => StatusCode::SERVICE_UNAVAILABLE,
            MoveError::Unreachable { .. }
            | MoveError::Refused { .. }
            | MoveError::Failed(_)
            | MoveError::Broken(_) => StatusCode::BAD_GATEWAY,
            MoveError::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, error.code(), error.to_string())
    }
}
