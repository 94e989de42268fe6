//! `/api/models` and what is below it.

mod configured;
mod memory;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use tunnel_api::{Model, ModelAlias, Models, WarmModel, WarmState};
use tunnel_broker::{AliasStatus, Broker, KeptWarm, OfferedModel};

pub(super) use self::configured::{alias, cool, unalias, warm};
pub(super) use self::memory::{load, unload};
use super::Api;

pub(super) async fn models(State(api): State<Api>) -> Json<Models> {
    Json(Models {
        models: all(&api.broker),
        aliases: api.broker.aliases().into_iter().map(shown_alias).collect(),
        warm: api.broker.kept_warm().borrow().iter().map(shown_warm).collect(),
        timestamp: Timestamp::now(),
    })
}

/// Returns the models that can be asked for now.
pub(super) fn all(broker: &Broker) -> Vec<Model> {
    let shown = |model: OfferedModel| Model {
        name: model.name,
        connections: model.connections,
        loaded: model.loaded,
        size_bytes: model.size_bytes,
        alias_of: model.alias_of,
        kept_warm: model.kept_warm,
    };
    broker.models().into_iter().map(shown).collect()
}

fn shown_alias(alias: AliasStatus) -> ModelAlias {
    let AliasStatus { name, target, available, shadowed } = alias;
    ModelAlias { name, target, available, shadowed }
}

fn shown_warm(kept: &KeptWarm) -> WarmModel {
    WarmModel {
        model: kept.model.clone(),
        connection: kept.connection.clone(),
        state: match kept.state {
            tunnel_broker::WarmState::Loaded => WarmState::Loaded,
            tunnel_broker::WarmState::Loading => WarmState::Loading,
            tunnel_broker::WarmState::Waiting => WarmState::Waiting,
            tunnel_broker::WarmState::Failed => WarmState::Failed,
        },
        error: kept.error.clone(),
    }
}
