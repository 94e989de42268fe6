//! `/api/config` and what is below it.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tunnel_api::config::{Fault, import as read_import, parse};
use tunnel_api::config_api::{
    BackupAnswer, ConfigAnswer, ConfigBackups, ConfigCheck, ConfigOrigin, ConfigOrigins, ImportAnswer, Layer,
    RestoreOrder,
};
use tunnel_runtime::layers::Origin;

use super::Api;
use super::author::author;
use super::body::RawBody;
use super::error::ApiError;
use crate::config::{Applied, Change, ChangeError, Edit};

/// The schema as the repository has it; a test compares it with the types.
const SCHEMA: &str = include_str!("../../../../dist/tunnel_config.schema.json");

/// `GET /api/config`: every key as it is in force.
pub(super) async fn show(State(api): State<Api>) -> Response {
    let state = api.config.state();
    ([etag(&state.revision.etag())], Json(&*state.config)).into_response()
}

/// `GET /api/config/origins`: where each value came from.
pub(super) async fn origins(State(api): State<Api>) -> Json<ConfigOrigins> {
    let state = api.config.state();
    let origins = state.origins.iter().map(|(key, origin)| (key.clone(), told(origin))).collect();
    Json(ConfigOrigins {
        file: api.config.file().await,
        files: state.status.files.clone(),
        origins,
        timestamp: Timestamp::now(),
    })
}

/// `GET /api/config/schema`.
pub(super) async fn schema() -> impl IntoResponse {
    let kind = HeaderValue::from_static("application/schema+json");
    // It changes with the program only; editors ask for it at each key.
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, HeaderValue::from_static("max-age=3600"))], SCHEMA)
}

/// `GET /api/config/backups`.
pub(super) async fn backups(State(api): State<Api>) -> Result<Json<ConfigBackups>, ApiError> {
    Ok(Json(api.config.backups().await?))
}

/// `PUT /api/config`: the body becomes the content of the file.
pub(super) async fn replace(
    State(api): State<Api>,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, ApiError> {
    let text = text(body)?;
    // Before it is asked which version of the file is meant.
    object(&text)?;
    change(&api, Edit::Replace(text), &headers, "the configuration was replaced").await
}

/// `PATCH /api/config`: the body is merged into the content of the file, as RFC 7396 says.
pub(super) async fn patch(
    State(api): State<Api>,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, ApiError> {
    let keys = object(&text(body)?)?;
    change(&api, Edit::Patch(keys), &headers, "the configuration was changed").await
}

/// `POST /api/config/restore`: a copy becomes the content of the file.
pub(super) async fn restore(
    State(api): State<Api>,
    headers: HeaderMap,
    body: RawBody,
) -> Result<Response, ApiError> {
    let RestoreOrder { name, force } = read(&text(body)?)?;
    change(&api, Edit::Restore { name, force }, &headers, "the copy was put back").await
}

/// `POST /api/config/validate`: says what is wrong with a content, and changes nothing.
pub(super) async fn validate(State(api): State<Api>, body: RawBody) -> Result<Json<ConfigCheck>, ApiError> {
    let (faults, overridden) = match api.config.check(text(body)?).await {
        Ok(overridden) => (Vec::new(), overridden),
        Err(ChangeError::Invalid(faults)) => (faults, Vec::new()),
        Err(error) => return Err(error.into()),
    };
    Ok(Json(ConfigCheck { valid: faults.is_empty(), faults, overridden, timestamp: Timestamp::now() }))
}

/// `POST /api/config/reload`.
pub(super) async fn reload(State(api): State<Api>) -> Result<Response, ApiError> {
    let applied = api.config.reload().await?;
    let message = if applied.changed { "the configuration was reloaded" } else { "nothing has changed" };
    Ok(answered(answer(&api, &applied, message).await, &applied))
}

/// `POST /api/config/backup`.
pub(super) async fn back_up(State(api): State<Api>) -> Result<Json<BackupAnswer>, ApiError> {
    let name = api.config.back_up().await?;
    Ok(Json(BackupAnswer {
        message: "a copy of the configuration was made".to_owned(),
        status: "success".to_owned(),
        name,
        timestamp: Timestamp::now(),
    }))
}

/// `POST /api/config/import`: the body is the original's `connection_config.json`.
pub(super) async fn import(State(api): State<Api>, body: RawBody) -> Result<Json<ImportAnswer>, ApiError> {
    let import = read_import(&object(&text(body)?)?);
    let imported: Vec<String> = import.keys.keys().cloned().collect();
    let config = api.config.clone();
    // To its end, whoever still listens: a stored token without its relay is of no use.
    let (applied, token_stored) = match api.tracker.spawn(async move { config.import(import).await }).await {
        Ok(outcome) => outcome?,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => return Err(ChangeError::ShuttingDown.into()),
        },
    };
    let message = "the connections were imported; delete the file if a token is in it";
    Ok(Json(ImportAnswer { imported, token_stored, answer: answer(&api, &applied, message).await }))
}

async fn change(api: &Api, edit: Edit, headers: &HeaderMap, message: &str) -> Result<Response, ApiError> {
    let if_match = headers.get(IF_MATCH).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let author = author(headers);
    let applied = api.config.make(Change { edit, if_match, author }).await?;
    let message = if applied.changed { message } else { "the file says that already" };
    Ok(answered(answer(api, &applied, message).await, &applied))
}

pub(super) async fn answer(api: &Api, applied: &Applied, message: &str) -> ConfigAnswer {
    ConfigAnswer {
        message: message.to_owned(),
        status: "success".to_owned(),
        changed: applied.changed,
        file: api.config.file().await,
        backup: applied.backup.clone(),
        overridden: applied.overridden.clone(),
        restart_required: applied.state.status.restart_required.clone(),
        config: applied.state.config.to_map(),
        timestamp: Timestamp::now(),
    }
}

pub(super) fn answered(answer: ConfigAnswer, applied: &Applied) -> Response {
    ([etag(&applied.state.revision.etag())], Json(answer)).into_response()
}

fn etag(etag: &str) -> (HeaderName, HeaderValue) {
    // Cannot fall back: hexadecimal digits in quotes.
    (ETAG, HeaderValue::from_str(etag).unwrap_or(HeaderValue::from_static("\"\"")))
}

fn told(origin: &Origin) -> ConfigOrigin {
    let (from, name) = match origin {
        Origin::Default => (Layer::Default, None),
        Origin::Hint(name) => (Layer::Hint, Some((*name).to_owned())),
        Origin::File(path) => (Layer::File, Some(path.display().to_string())),
        Origin::Env(name) => (Layer::Environment, Some(name.clone())),
        Origin::Flag => (Layer::Flag, None),
    };
    ConfigOrigin { from, name }
}

fn text(RawBody(bytes): RawBody) -> Result<String, ApiError> {
    let text = String::from_utf8(bytes.into()).map_err(|_| bad_request("the body is not UTF-8 text"))?;
    // An empty file is a good one, an empty body is a forgotten one.
    if text.trim().is_empty() {
        return Err(bad_request("the body is empty; it must be a JSON object"));
    }
    Ok(text)
}

fn object(text: &str) -> Result<Map<String, Value>, ApiError> {
    parse(text).map_err(|error| bad_request(&format!("the body is not JSON: {error}")))
}

/// Reads a body that has fields of its own.
fn read<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
    serde_json::from_value(Value::Object(object(text)?))
        // The text of such an error may repeat a value.
        .map_err(|_| bad_request("the body must be an object such as {\"name\": \"…\", \"force\": false}"))
}

fn bad_request(sentence: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence)
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let (status, code) = match &error {
            ChangeError::ByPage(refusal) => (StatusCode::FORBIDDEN, refusal.code()),
            ChangeError::NoPlace => (StatusCode::CONFLICT, "config_no_place"),
            ChangeError::NotJson(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            ChangeError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "config_invalid"),
            ChangeError::FileInvalid { .. } => (StatusCode::CONFLICT, "config_file_invalid"),
            ChangeError::FileChanged { .. } => (StatusCode::PRECONDITION_FAILED, "config_changed"),
            ChangeError::ReadOnly { .. } => (StatusCode::CONFLICT, "config_read_only"),
            ChangeError::Io { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "config_io"),
            ChangeError::NoFile | ChangeError::NoSuchBackup => (StatusCode::NOT_FOUND, "not_found"),
            ChangeError::TokenNotStored(cause) => (super::auth::status_of(cause), cause.code()),
            ChangeError::Unfinished => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            ChangeError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            ChangeError::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
        };
        let sentence = error.to_string();
        let faults: Vec<Fault> = match error {
            ChangeError::Invalid(faults) => faults,
            _ => Vec::new(),
        };
        Self::new(status, code, sentence).with_faults(faults)
    }
}
