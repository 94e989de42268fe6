//! `tunnelctl connect` and `dashboard`: how apps reach the models.

mod quote;
mod snippet;
mod target;

use clap::ValueEnum as _;
use serde_json::{Value, json};
use tunnel_client::{Client, exit};

use self::snippet::Snippet;
use self::target::{Target, Unusable};
use crate::cli::App;
use crate::output::Output;
use crate::output::table::{Cell, Column, Table};

/// What holds for each app.
const ABOUT_KEYS: &str = "your own programs on this machine need no key; from elsewhere, use the relay's address and a token for it";

/// Shows what to paste into an app. Standard output has that and nothing else.
pub(super) async fn show(
    client: &Client,
    app: Option<App>,
    model: Option<&str>,
    output: &Output,
) -> anyhow::Result<u8> {
    let Some(app) = app else { return list(output) };
    let (config, models, status) = tokio::try_join!(client.config(), client.models(), client.status())?;
    let target = match Target::choose(&config, &models.models, &status, app, model) {
        Ok(target) => target,
        Err(unusable) => {
            output.error(&unusable.to_string());
            return Ok(match unusable {
                Unusable::OddName => exit::USAGE,
                Unusable::GatewayClosed | Unusable::GatewayStuck | Unusable::OtherApi { .. } => {
                    exit::NOT_READY
                }
            });
        }
    };
    let Snippet { text, place } = Snippet::of(app, &target);
    let mut notes = vec![place];
    notes.extend(target.notes());
    notes.push(ABOUT_KEYS.to_owned());
    if output.wants_json() {
        output.json(json!({
            "app": name(app), "model": target.model, "model_is_placeholder": target.is_placeholder(),
            "openai_base_url": target.openai(), "ollama_base_url": target.ollama(),
            "snippet": text, "notes": notes,
        }))?;
        return Ok(exit::OK);
    }
    notes.iter().for_each(|note| output.talk(note));
    output.answer(&text)?;
    Ok(exit::OK)
}

fn list(output: &Output) -> anyhow::Result<u8> {
    let apps = App::value_variants();
    if output.wants_json() {
        let apps: Value = apps.iter().map(|app| json!({ "app": name(*app), "about": about(*app) })).collect();
        output.json(json!({ "apps": apps }))?;
        return Ok(exit::OK);
    }
    let mut table = Table::new(vec![Column::text("APP"), Column::long("WHAT IT IS")]);
    for app in apps {
        table.row(vec![Cell::new(name(*app)), Cell::new(about(*app))]);
    }
    output.table(&table)?;
    output.talk("show how to set one up with: tunnelctl connect APP");
    Ok(exit::OK)
}

fn name(app: App) -> String {
    app.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn about(app: App) -> String {
    let value = app.to_possible_value();
    value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
}

/// Says that there is none yet, and what shows the same.
pub(super) fn dashboard(output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json(json!({ "url": null }))?;
    }
    output.error("this version has no dashboard; use: tunnelctl status --watch");
    Ok(exit::NOT_READY)
}
