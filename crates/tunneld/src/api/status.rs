//! `GET /api/status`.

use axum::Json;
use axum::extract::State;
use tunnel_api::Status;

use super::Api;
use crate::view;

pub(super) async fn status(State(api): State<Api>) -> Json<Status> {
    Json(view::current(&api.status.borrow(), &api.broker))
}
