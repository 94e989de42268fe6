//! `POST /api/diagnosis`.

use axum::Json;
use axum::extract::State;
use tunnel_api::Diagnosis;

use super::Api;

pub(super) async fn examine(State(api): State<Api>) -> Json<Diagnosis> {
    Json(api.examiner.examine().await)
}
