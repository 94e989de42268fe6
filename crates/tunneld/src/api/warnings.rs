//! `GET /api/warnings`.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use tunnel_api::Warnings;

use super::Api;

pub(super) async fn warnings(State(api): State<Api>) -> Json<Warnings> {
    let warnings = api.status.borrow().warnings.clone();
    Json(Warnings { warnings, timestamp: Timestamp::now() })
}
