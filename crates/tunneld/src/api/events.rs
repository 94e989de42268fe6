//! `GET /api/events`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tunnel_api::Events;

use super::Api;
use super::error::ApiError;
use super::query::Query;
use crate::store::ReadError;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    since: Option<String>,
    limit: Option<String>,
}

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

pub(super) async fn events(
    State(api): State<Api>,
    Query(asked): Query<Asked>,
) -> Result<Json<Events>, ApiError> {
    let bad = |why: &str| ApiError::new(StatusCode::BAD_REQUEST, "bad_request", why);
    let since = match asked.since {
        Some(since) => {
            Some(since.parse().map_err(|_| bad("since takes the id of an event, a whole number"))?)
        }
        None => None,
    };
    let limit = match asked.limit {
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| bad("limit takes a whole number from 1 to 1000"))?,
        None => DEFAULT_LIMIT,
    };
    let events = api.store.events(since, limit).await?;
    Ok(Json(Events { events, timestamp: Timestamp::now() }))
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "state_unavailable", error.to_string())
    }
}
