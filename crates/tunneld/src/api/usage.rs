//! `GET /api/usage`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tunnel_api::usage::Since;
use tunnel_api::{Usage, UsageBy};

use super::Api;
use super::error::ApiError;
use super::query::Query;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    by: Option<String>,
    since: Option<String>,
}

pub(super) async fn usage(
    State(api): State<Api>,
    Query(asked): Query<Asked>,
) -> Result<Json<Usage>, ApiError> {
    api.require_metrics()?;
    let bad = |why: String| ApiError::new(StatusCode::BAD_REQUEST, "bad_request", why);
    let by: UsageBy = match asked.by {
        Some(by) => by.parse().map_err(|error: tunnel_api::usage::NotUsageBy| bad(error.to_string()))?,
        None => UsageBy::default(),
    };
    let since = match asked.since {
        Some(since) => {
            let since: Since =
                since.parse().map_err(|error: tunnel_api::usage::NotSince| bad(error.to_string()))?;
            Some(since.0)
        }
        None => None,
    };
    let usage = api.store.usage(by, since).await?;
    Ok(Json(Usage { usage, since, timestamp: Timestamp::now() }))
}
