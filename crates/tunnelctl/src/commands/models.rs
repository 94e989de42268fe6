//! `tunnelctl models`.

mod configured;
mod memory;

use serde_json::json;
use tunnel_api::{Model, Models, WarmState};
use tunnel_client::{Client, exit};

use crate::cli::ModelsVerb;
use crate::output::table::{Cell, Column, Table};
use crate::output::words::bytes;
use crate::output::{Look, Output};

pub(super) async fn run(client: &Client, verb: &ModelsVerb, output: &Output) -> anyhow::Result<u8> {
    match verb {
        ModelsVerb::List => list(client, output).await,
        ModelsVerb::Load { which, keep_alive } => {
            memory::load(client, which, keep_alive.as_deref(), output).await
        }
        ModelsVerb::Unload(which) => memory::unload(client, which, output).await,
        ModelsVerb::Warm(which) => configured::warm(client, which, output).await,
        ModelsVerb::Cool(which) => configured::cool(client, which, output).await,
        ModelsVerb::Alias { name, target } => configured::alias(client, name, target, output).await,
        ModelsVerb::Unalias { name } => configured::unalias(client, name, output).await,
    }
}

async fn list(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let models = client.models().await?;
    if output.wants_json() {
        output.json(json!(models))?;
        return Ok(exit::OK);
    }
    if models.models.is_empty() {
        output.talk(
            "no connection lists a model; get one, such as: ollama pull llama3.2:3b; how the connections stand: \
             tunnelctl connections list",
        );
    } else {
        output.table(&table(&models))?;
    }
    for sentence in remarks(&models) {
        output.talk(&sentence);
    }
    Ok(exit::OK)
}

/// What the table cannot say: names without a model, and models that are not in memory although they are to be.
fn remarks(models: &Models) -> Vec<String> {
    let aliases = models.aliases.iter().filter_map(|alias| match (alias.shadowed, alias.available) {
        (true, _) => Some(format!("the alias {} is not used: a local model is really called so", alias.name)),
        (false, false) => {
            Some(format!("the alias {} has no model: {} is not there", alias.name, alias.target))
        }
        (false, true) => None,
    });
    let warm = models.warm.iter().filter_map(|warm| {
        let why = warm.error.as_deref().unwrap_or("no reason was told");
        match warm.state {
            WarmState::Loaded | WarmState::Unknown => None,
            WarmState::Loading => Some(format!("{} is being loaded", warm.model)),
            WarmState::Waiting => Some(format!("{} is to be kept warm and waits: {why}", warm.model)),
            WarmState::Failed => Some(format!("{} could not be kept warm: {why}", warm.model)),
        }
    });
    aliases.chain(warm).collect()
}

fn table(models: &Models) -> Table {
    let mut table = Table::new(vec![
        Column::long("NAME"),
        Column::long("CONNECTIONS").extra(),
        Column::text("LOADED"),
        Column::number("SIZE"),
    ]);
    for model in &models.models {
        let name = match &model.alias_of {
            Some(real) => format!("{} = {real}", model.name),
            None => model.name.clone(),
        };
        table.row(vec![
            Cell::painted(&name, if model.loaded { Look::bold } else { |_, text| text.to_owned() }),
            Cell::new(model.connections.join(", ")),
            Cell::new(loaded(model)),
            Cell::new(model.size_bytes.map_or_else(String::new, bytes)),
        ]);
    }
    table
}

fn loaded(model: &Model) -> &'static str {
    match (model.loaded, model.kept_warm) {
        (true, true) => "kept",
        (true, false) => "yes",
        (false, _) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_their_connections_and_size() {
        let model = |name: &str, loaded, size_bytes| Model {
            name: name.to_owned(),
            connections: vec!["lab".to_owned(), "ollama".to_owned()],
            loaded,
            size_bytes,
            ..Model::default()
        };
        let kept = Model { kept_warm: true, ..model("q:8b", true, None) };
        let alias = Model { alias_of: Some("x".to_owned()), ..model("fast", false, None) };
        let models = Models {
            models: vec![
                model("llama3.2:3b", true, Some(2_019_393_189)),
                model("x", false, None),
                kept,
                alias,
            ],
            ..Models::default()
        };
        assert_eq!(
            table(&models).text(&Look::plain(), None),
            "NAME         CONNECTIONS  LOADED    SIZE\nllama3.2:3b  lab, ollama  yes     2.0 GB\nx            lab, ollama\n\
             q:8b         lab, ollama  kept\nfast = x     lab, ollama\n"
        );
    }

    #[test]
    fn what_is_not_as_it_should_be_is_told() {
        let alias = |name: &str, available, shadowed| tunnel_api::ModelAlias {
            name: name.to_owned(),
            target: "m".to_owned(),
            available,
            shadowed,
        };
        let warm = |state, error: Option<&str>| tunnel_api::WarmModel {
            model: "w".to_owned(),
            connection: None,
            state,
            error: error.map(str::to_owned),
        };
        let models = Models {
            aliases: vec![alias("a", true, false), alias("b", false, false), alias("c", false, true)],
            warm: vec![warm(WarmState::Loaded, None), warm(WarmState::Failed, Some("no room"))],
            ..Models::default()
        };
        assert_eq!(
            remarks(&models),
            [
                "the alias b has no model: m is not there",
                "the alias c is not used: a local model is really called so",
                "w could not be kept warm: no room",
            ]
        );
    }
}
