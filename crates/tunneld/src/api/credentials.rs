//! `GET /api/credentials`, `PUT` and `DELETE /api/credentials/{name}`.
//!
//! What callers send is never repeated to them: it may be a secret in the wrong place.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use tunnel_api::auth::StoredIn;
use tunnel_api::config::is_connection_id;
use tunnel_api::credential::{CredentialRequest, StoredCredential, StoredCredentials};

use super::Api;
use super::auth::refused;
use super::body::RawBody;
use super::error::ApiError;
use super::path::Path;

pub(super) async fn list(State(api): State<Api>) -> Result<Json<StoredCredentials>, ApiError> {
    let mut credentials = api.vault.list().await.map_err(refused)?;
    for kept in &mut credentials {
        kept.connections = used_by(&api, &kept.name);
    }
    Ok(Json(StoredCredentials { credentials }))
}

pub(super) async fn store(
    State(api): State<Api>,
    Path(name): Path<String>,
    RawBody(body): RawBody,
) -> Result<Json<StoredCredential>, ApiError> {
    let name = checked(name)?;
    // The parser's own words would repeat parts of it.
    let request: CredentialRequest = serde_json::from_slice(&body)
        .map_err(|_| bad_request("it takes an object with secret, a text; nothing else"))?;
    let stored_in = api.vault.store(&name, request.secret.trim()).await.map_err(refused)?;
    Ok(Json(StoredCredential { connections: used_by(&api, &name), name, stored_in }))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<StoredCredential>, ApiError> {
    let name = checked(name)?;
    if !api.vault.remove(&name).await.map_err(refused)? {
        let sentence = "there is no secret of this name; GET /api/credentials lists them";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_credential", sentence));
    }
    Ok(Json(StoredCredential { connections: used_by(&api, &name), name, stored_in: StoredIn::None }))
}

/// The same rule as for the key `credential` of a connection, which names it.
fn checked(name: String) -> Result<String, ApiError> {
    if is_connection_id(&name) && !name.starts_with("sk-") {
        return Ok(name);
    }
    Err(bad_request(
        "the name must be 1 to 63 characters of A-Z, a-z, 0-9, ., _ and -, and never the secret itself",
    ))
}

fn bad_request(sentence: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence)
}

fn used_by(api: &Api, name: &str) -> Vec<String> {
    let state = api.config.follow();
    let state = state.borrow();
    let named =
        state.config.connections.iter().filter(|connection| connection.credential.as_deref() == Some(name));
    named.map(|connection| connection.id.clone()).collect()
}
