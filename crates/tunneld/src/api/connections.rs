//! `GET /api/connections`.

use axum::Json;
use axum::extract::State;
use tunnel_api::Connections;

use super::Api;
use crate::view;

pub(super) async fn connections(State(api): State<Api>) -> Json<Connections> {
    let status = view::current(&api.status.borrow(), &api.broker);
    Json(Connections::new(status.connections.into_values(), status.timestamp))
}
