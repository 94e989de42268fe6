//! `GET /api/auth`, `PUT` and `DELETE /api/auth/token`, `/api/auth/login`, `POST /api/auth/logout`.
//!
//! What callers send is never repeated to them: it may be a token in the wrong place.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;
use tunnel_api::{AuthStatus, LoginBegun, LoginRequest, LoginStatus, TokenRequest};

use super::Api;
use super::body::{RawBody, object_or_default};
use super::error::ApiError;
use crate::daemon::chain;
use crate::login::{Flow, LoginError};
use crate::secrets::{self, ChangeError, Credentials, Endpoint, EndpointError, Renewal};

pub(super) async fn status(State(api): State<Api>) -> Json<AuthStatus> {
    Json(api.token.status(Timestamp::now()))
}

pub(super) async fn store(
    State(api): State<Api>,
    RawBody(body): RawBody,
) -> Result<Json<AuthStatus>, ApiError> {
    let request = parse(&body)?;
    let login = login_of(request, Timestamp::now()).map_err(bad_request)?;
    api.token.set(login).await.map_err(refused)?;
    Ok(status(State(api)).await)
}

pub(super) async fn remove(State(api): State<Api>) -> Result<Json<AuthStatus>, ApiError> {
    api.token.remove().await.map_err(refused)?;
    Ok(status(State(api)).await)
}

/// Removes the login, and has its server make it void where an address for that is known. A server that cannot be
/// reached does not keep anyone logged in here: the answer says so, and is no error.
///
/// A login that is under way ends first: whoever finishes it later would undo what was asked for here.
pub(super) async fn logout(State(api): State<Api>) -> Result<Json<AuthStatus>, ApiError> {
    api.login.cancel().await.map_err(not_logged_in)?;
    let revoked = api.token.logout().await.map_err(refused)?;
    let Json(mut answer) = status(State(api)).await;
    if let Err(error) = revoked {
        let sentence = "the token is removed here, but it is not known to be void";
        answer.last_error = Some(format!("{sentence}: {}", chain(&error)));
    }
    Ok(Json(answer))
}

/// Begins a login, in place of one that is under way.
pub(super) async fn begin_login(
    State(api): State<Api>,
    RawBody(body): RawBody,
) -> Result<(StatusCode, Json<LoginBegun>), ApiError> {
    let shape = || bad_request("it takes nothing, or an object with flow: browser or device_code".to_owned());
    let request: LoginRequest = object_or_default(&body).ok_or_else(shape)?;
    let flow = Flow::of(request.flow).ok_or_else(shape)?;
    let begun = api.login.begin(flow).await.map_err(not_logged_in)?;
    Ok((StatusCode::ACCEPTED, Json(begun)))
}

pub(super) async fn login_status(State(api): State<Api>) -> Json<LoginStatus> {
    Json(api.login.status())
}

pub(super) async fn cancel_login(State(api): State<Api>) -> Result<Json<LoginStatus>, ApiError> {
    api.login.cancel().await.map_err(not_logged_in)?;
    Ok(login_status(State(api)).await)
}

fn not_logged_in(error: LoginError) -> ApiError {
    let status = match &error {
        LoginError::SwitchedOff
        | LoginError::NotOffered { .. }
        | LoginError::NoSuchFlow { .. }
        | LoginError::Superseded => StatusCode::CONFLICT,
        LoginError::BadOffer { .. }
        | LoginError::BadProvider { .. }
        | LoginError::Unavailable { .. }
        | LoginError::Refused { .. }
        | LoginError::Denied { .. }
        | LoginError::Call(_) => StatusCode::BAD_GATEWAY,
        LoginError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        LoginError::Listen(_) => StatusCode::INTERNAL_SERVER_ERROR,
        LoginError::Store(error) => status_of(error),
        LoginError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    };
    ApiError::new(status, error.code(), chain(&error))
}

/// Reads the body. The parser's own words would repeat parts of it.
fn parse(body: &[u8]) -> Result<TokenRequest, ApiError> {
    const SHAPE: &str = "it takes an object with token and, as text, refresh_token, token_endpoint, \
                         revocation_endpoint, client_id; nothing else";
    let unusable = |fault: &str| bad_request(format!("the body cannot be used: {fault}"));
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        unusable(&format!("it is not JSON, line {} column {}", error.line(), error.column()))
    })?;
    // A list of the fields' values would be taken for the object, too.
    if !value.is_object() {
        return Err(unusable(SHAPE));
    }
    serde_json::from_value(value).map_err(|_| unusable(SHAPE))
}

/// Checks what was sent, field by field.
fn login_of(request: TokenRequest, now: Timestamp) -> Result<Credentials, String> {
    if request.token.is_empty() {
        return Err("token is empty; to remove the token: DELETE /api/auth/token".to_owned());
    }
    let access_token = token("token", request.token)?;
    let token_endpoint = endpoint("token_endpoint", request.token_endpoint)?;
    let revocation_endpoint = endpoint("revocation_endpoint", request.revocation_endpoint)?;
    let client_id = request.client_id.filter(|id| !id.is_empty());
    if client_id.as_ref().is_some_and(|id| id.len() > MAX_CLIENT_ID || id.chars().any(char::is_control)) {
        return Err(format!("client_id must be text of at most {MAX_CLIENT_ID} bytes"));
    }
    let refresh_token = request.refresh_token.filter(|token| !token.is_empty());
    let renewal = match (refresh_token, token_endpoint) {
        (Some(_), None) => return Err("refresh_token needs token_endpoint, where it is renewed".to_owned()),
        (Some(refresh_token), Some(token_endpoint)) => Some(Renewal {
            refresh_token: token("refresh_token", refresh_token)?,
            token_endpoint,
            client_id,
            resource: None,
        }),
        (None, _) => None,
    };
    Ok(Credentials { renewal, revocation_endpoint, ..Credentials::bare(access_token, now.as_second()) })
}

/// Longest `client_id`, in bytes.
const MAX_CLIENT_ID: usize = 256;

fn token(field: &str, text: String) -> Result<SecretString, String> {
    let rule =
        || format!("{field} must be one token as it was issued: no spaces, no line ends, at most 32 KiB");
    secrets::parse_token(SecretString::from(text)).ok_or_else(rule)
}

fn endpoint(field: &str, text: Option<String>) -> Result<Option<Endpoint>, String> {
    let parsed = text.filter(|text| !text.is_empty()).map(|text| Endpoint::parse(&text)).transpose();
    parsed.map_err(|error: EndpointError| format!("{field} {error}"))
}

fn bad_request(sentence: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence)
}

/// The status that belongs to the error's code.
pub(super) fn status_of(error: &ChangeError) -> StatusCode {
    match error {
        ChangeError::TokenFile(_) | ChangeError::Credential | ChangeError::Given(_) => StatusCode::CONFLICT,
        ChangeError::NotAToken => StatusCode::BAD_REQUEST,
        ChangeError::NotHere { .. } => StatusCode::NOT_FOUND,
        ChangeError::Stores { .. } | ChangeError::Unseen { .. } | ChangeError::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

pub(super) fn refused(error: ChangeError) -> ApiError {
    ApiError::new(status_of(&error), error.code(), chain(&error))
}
