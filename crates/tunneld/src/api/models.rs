//! `GET /api/models`.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use tunnel_api::{Model, Models};
use tunnel_broker::{Broker, OfferedModel};

use super::Api;

pub(super) async fn models(State(api): State<Api>) -> Json<Models> {
    Json(Models { models: all(&api.broker), timestamp: Timestamp::now() })
}

/// Returns the models that can be asked for now.
pub(super) fn all(broker: &Broker) -> Vec<Model> {
    let shown = |model: OfferedModel| Model {
        name: model.name,
        connections: model.connections,
        loaded: model.loaded,
        size_bytes: model.size_bytes,
    };
    broker.models().into_iter().map(shown).collect()
}
