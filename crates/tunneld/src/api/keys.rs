//! `GET` and `POST /api/keys`, `DELETE /api/keys/{id}`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use tunnel_api::{Key, KeyRequest, Keys, NewKey};

use super::Api;
use super::body::{RawBody, object_or_default};
use super::error::ApiError;
use super::path::Path;
use crate::daemon::chain;
use crate::keys::KeyError;

pub(super) async fn list(State(api): State<Api>) -> Json<Keys> {
    Json(Keys { keys: api.keys.list(), timestamp: Timestamp::now() })
}

pub(super) async fn create(
    State(api): State<Api>,
    RawBody(body): RawBody,
) -> Result<(StatusCode, Json<NewKey>), ApiError> {
    // The parser's own words would repeat parts of it.
    let request: KeyRequest = object_or_default(&body).ok_or_else(|| {
        let sentence = "it takes nothing, or an object with reach (remote or local), name, scopes, device, models, paths, limits \
                        (requests_per_minute, tokens_per_minute, concurrent), expires_in (seconds); nothing else";
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence)
    })?;
    let new = api.keys.create(request).await.map_err(refused)?;
    Ok((StatusCode::CREATED, Json(new)))
}

pub(super) async fn revoke(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Key>, ApiError> {
    api.keys.revoke(&id).await.map(Json).map_err(refused)
}

fn refused(error: KeyError) -> ApiError {
    ApiError::new(error.status(), error.code(), chain(&error))
}
