//! Names for models of the user's own, and models that stay in memory.

use std::collections::BTreeMap;

use serde_json::Value;
use tunnel_sniff::same_model;

use super::Config;
use super::connection::{is_connection_id, model};
use super::rule::Rejection;
use super::section::Section;

/// Most entries of `aliases`: each is looked at whenever a list of models is put together.
const MOST_ALIASES: usize = 256;
/// Most entries of `keepWarm`: each one is memory of a model server.
const MOST_KEPT_WARM: usize = 32;
/// Longest name of an alias, in bytes.
const LONGEST_NAME: usize = 200;

pub(super) fn aliases(top: &mut Section<'_>) -> BTreeMap<String, String> {
    top.map("aliases", |name, target| {
        if !is_model_name(name) || name.len() > LONGEST_NAME {
            return Err(format!(
                "Alias must be a name of 1 to {LONGEST_NAME} bytes, without spaces at its ends and control characters"
            )
            .into());
        }
        model(target)
    })
}

pub(super) fn kept_warm(top: &mut Section<'_>) -> Vec<String> {
    top.list("keepWarm", Vec::new(), kept)
}

fn kept(value: &Value) -> Result<String, Rejection> {
    model(value)
}

/// Tells whether a text is fit for the name of a model or an alias.
pub fn is_model_name(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && !text.contains(char::is_control)
}

/// Checks what no entry can tell alone.
pub(super) fn check_together(config: &Config, top: &mut Section<'_>) {
    let Config { aliases, keep_warm, .. } = config;
    if aliases.len() > MOST_ALIASES {
        top.fault("aliases", &format!("There may be {MOST_ALIASES} aliases at most"));
        return;
    }
    let alias = |name: &str| aliases.keys().find(|alias| same_model(alias, name));
    for (name, target) in aliases {
        let path = format!("aliases.{name}");
        if let Some(other) = alias(name).filter(|other| *other != name) {
            top.fault(
                &path,
                &format!("Aliases {other} and {name} are the same name: case and :latest do not matter"),
            );
        } else if let Some(other) = alias(target).or_else(|| alias(beside_connection(config, target)?)) {
            top.fault(&path, &format!("Alias must name a model, and {other} is an alias"));
        }
    }
    if keep_warm.len() > MOST_KEPT_WARM {
        top.fault("keepWarm", &format!("There may be {MOST_KEPT_WARM} models to keep warm at most"));
        return;
    }
    for (index, name) in keep_warm.iter().enumerate() {
        if keep_warm[..index].iter().any(|earlier| same_model(earlier, name)) {
            top.fault(&format!("keepWarm[{index}]"), "Models to keep warm must be unique");
        }
    }
}

/// Returns the model of `<connection>/<model>`.
fn beside_connection<'a>(config: &Config, name: &'a str) -> Option<&'a str> {
    let (id, model) = name.split_once('/').filter(|(id, _)| is_connection_id(id))?;
    let is_built_in = id == crate::connection::OLLAMA_ID && config.enable_local_ollama;
    (is_built_in || config.connections.iter().any(|connection| connection.id == id)).then_some(model)
}
