//! `PUT` and `DELETE /api/models/aliases/{name}`, the same of `/api/models/warm/{model}`: keys of the configuration,
//! changed one entry at a time.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};
use tunnel_api::AliasOrder;
use tunnel_runtime::layers::Origin;
use tunnel_sniff::same_model;

use crate::api::Api;
use crate::api::body::Body;
use crate::api::config::{answer, answered};
use crate::api::error::ApiError;
use crate::api::path::Path;
use crate::config::{Applied, ChangeError, ConfigState, Edit};

/// Most attempts of a change that others overtake.
const TRIES: usize = 3;

pub(in crate::api) async fn alias(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(AliasOrder { target }): Body<AliasOrder>,
) -> Result<Response, ApiError> {
    let state = settable(&api, "aliases")?;
    let aliases = &state.config.aliases;
    // The same name, spelled otherwise, gives way: there cannot be both.
    let mut patch: Map<String, Value> =
        spellings(aliases.keys(), &name).map(|old| (old, Value::Null)).collect();
    patch.insert(name.clone(), target.into());
    let applied = api.config.change(edit("aliases", patch.into()), None).await?;
    told(&api, &applied, &format!("{name} is an alias"), &format!("{name} was that alias already")).await
}

pub(in crate::api) async fn unalias(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let state = settable(&api, "aliases")?;
    let aliases = &state.config.aliases;
    let patch: Map<String, Value> = spellings(aliases.keys(), &name).map(|old| (old, Value::Null)).collect();
    if patch.is_empty() {
        let sentence = "there is no alias of this name; GET /api/models lists them";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_alias", sentence));
    }
    let applied = api.config.change(edit("aliases", patch.into()), None).await?;
    told(&api, &applied, &format!("{name} is no alias any more"), "nothing has changed").await
}

pub(in crate::api) async fn warm(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Response, ApiError> {
    let with = |kept: &[String]| {
        let is_kept = kept.iter().any(|kept| same_model(kept, &model));
        let new = (!is_kept).then(|| model.clone());
        Ok(kept.iter().cloned().chain(new).collect())
    };
    let applied = change_kept(&api, with).await?;
    told(&api, &applied, &format!("{model} is kept warm"), &format!("{model} was kept warm already")).await
}

pub(in crate::api) async fn cool(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Response, ApiError> {
    let without = |kept: &[String]| {
        let others: Vec<String> = kept.iter().filter(|kept| !same_model(kept, &model)).cloned().collect();
        if others.len() < kept.len() {
            return Ok(others);
        }
        let sentence =
            "this model is not kept warm; GET /api/models lists those that are, each by the name to give";
        Err(ApiError::new(StatusCode::NOT_FOUND, "not_kept_warm", sentence))
    };
    let applied = change_kept(&api, without).await?;
    told(&api, &applied, &format!("{model} is not kept warm any more"), "nothing has changed").await
}

/// Changes the list as a whole, and so only the version of the file that it was made of.
async fn change_kept(
    api: &Api,
    change: impl Fn(&[String]) -> Result<Vec<String>, ApiError>,
) -> Result<Applied, ApiError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let state = settable(api, "keepWarm")?;
        let kept = change(&state.config.keep_warm)?;
        let made_of = Some(state.revision.etag());
        match api.config.change(edit("keepWarm", json!(kept)), made_of).await {
            Err(ChangeError::FileChanged { .. }) if tries < TRIES => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// Returns the configuration in force. Fails where a variable sets the key: what is in force is not the file's then, and
/// no entry of the file changes it.
fn settable(api: &Api, key: &str) -> Result<Arc<ConfigState>, ApiError> {
    let state = api.config.state();
    let below = format!("{key}.");
    let variable = state.origins.iter().find_map(|(path, origin)| match origin {
        Origin::Env(name) if path == key || path.starts_with(&below) => Some(name),
        Origin::Env(_) | Origin::Default | Origin::Hint(_) | Origin::File(_) | Origin::Flag => None,
    });
    match variable {
        None => Ok(state),
        Some(name) => {
            let sentence = format!(
                "{key} is set by ${name} of the daemon's environment: change it there, or unset it and restart the daemon"
            );
            Err(ApiError::new(StatusCode::CONFLICT, "set_by_environment", sentence))
        }
    }
}

fn edit(key: &str, value: Value) -> Edit {
    Edit::Patch(Map::from_iter([(key.to_owned(), value)]))
}

fn spellings<'a>(names: impl Iterator<Item = &'a String>, name: &str) -> impl Iterator<Item = String> {
    names.filter(move |other| same_model(other, name)).cloned()
}

async fn told(api: &Api, applied: &Applied, changed: &str, unchanged: &str) -> Result<Response, ApiError> {
    let message = if applied.changed { changed } else { unchanged };
    Ok(answered(answer(api, applied, message).await, applied))
}
