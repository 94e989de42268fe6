//! `PUT /api/log-level`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use tracing::info;
use tunnel_api::LogLevelAnswer;
use tunnel_api::log_level::LogLevelRequest;
use tunnel_runtime::LevelFilter;

use super::Api;
use super::body::Body;
use super::error::ApiError;

pub(super) async fn set(
    State(api): State<Api>,
    Body(request): Body<LogLevelRequest>,
) -> Result<Json<LogLevelAnswer>, ApiError> {
    let (name, level) = match request.level.as_str() {
        "TRACE" => ("TRACE", LevelFilter::TRACE),
        "DEBUG" => ("DEBUG", LevelFilter::DEBUG),
        "INFO" => ("INFO", LevelFilter::INFO),
        "WARN" => ("WARN", LevelFilter::WARN),
        "ERROR" => ("ERROR", LevelFilter::ERROR),
        _ => {
            let sentence = "level must be one of: TRACE, DEBUG, INFO, WARN, ERROR";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence));
        }
    };
    if let Some(log_level) = &api.log_level {
        log_level.set(level);
    }
    info!(level = name, "log level changed");
    Ok(Json(LogLevelAnswer { level: name.to_owned(), timestamp: Timestamp::now() }))
}
