//! `tunnelctl config path`, `show`, `get` and `diff`: what change nothing.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tunnel_api::config_api::{ConfigOrigin, Layer};
use tunnel_api::{Config, paths};
use tunnel_client::{Client, Error, exit};

use super::{answer, keys};
use crate::output::table::{Cell, Column, Table};
use crate::output::{Look, Output, clean};

/// Shows the file that a running daemon has, else the one that it would have.
pub(super) async fn path(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let file = match client.config_origins().await {
        Ok(origins) => origins.file.map(PathBuf::from),
        Err(Error::NotRunning { .. }) => {
            paths::config_file(None, |name| std::env::var_os(name), Path::exists).map(|found| found.path)
        }
        Err(error) => return Err(error.into()),
    };
    if output.wants_json() {
        output.json(json!({ "exists": file.as_deref().map(Path::exists), "file": file }))?;
        return Ok(exit::OK);
    }
    let Some(file) = file else {
        output.error(
            "there is no place for a configuration file, the defaults run; set HOME, or TUNNELD_CONFIG",
        );
        return Ok(exit::NOT_FOUND);
    };
    output.answer(&format!("{}\n", clean(&file.display().to_string())))?;
    Ok(exit::OK)
}

/// Shows every key; what is written fits into a file as it is.
pub(super) async fn show(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let config = Value::Object(client.config().await?);
    if output.wants_json() {
        output.json(json!({ "config": config }))?;
    } else {
        output.answer(&format!("{config:#}\n"))?;
    }
    Ok(exit::OK)
}

/// Shows every key and where its value came from.
pub(super) async fn origins(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let (config, origins) = tokio::try_join!(client.config(), client.config_origins())?;
    if output.wants_json() {
        output.json(json!({
            "config": config, "origins": origins.origins, "file": origins.file, "files": origins.files,
        }))?;
        return Ok(exit::OK);
    }
    let mut table = Table::new(vec![Column::text("KEY"), Column::long("VALUE"), Column::long("FROM")]);
    for (key, value) in keys::leaves(&config) {
        let root = key.split('.').next().unwrap_or_default();
        let origin = origins.origins.get(&key).or_else(|| origins.origins.get(root));
        let from = origin.map_or_else(|| "unknown".to_owned(), whence);
        let from = match origin.map(|origin| origin.from) {
            Some(Layer::Default) => Cell::painted(from, Look::dim),
            _ => Cell::new(from),
        };
        table.row(vec![Cell::new(&key), Cell::new(keys::shown(value)), from]);
    }
    output.table(&table)?;
    Ok(exit::OK)
}

fn whence(origin: &ConfigOrigin) -> String {
    let name = origin.name.as_deref().unwrap_or_default();
    match origin.from {
        Layer::Default => "default".to_owned(),
        Layer::File => name.to_owned(),
        Layer::Environment | Layer::Hint => format!("${name}"),
        Layer::Flag => "command line".to_owned(),
        Layer::Unknown => "unknown".to_owned(),
    }
}

/// Shows one value, bare.
pub(super) async fn get(client: &Client, key: &str, output: &Output) -> anyhow::Result<u8> {
    let config = client.config().await?;
    let Some(value) = keys::find(&config, key) else {
        output.error(&not_there(&config, key));
        return Ok(exit::NOT_FOUND);
    };
    if output.wants_json() {
        output.json(json!({ "key": key, "value": value }))?;
        return Ok(exit::OK);
    }
    let text = match value {
        Value::Object(_) | Value::Array(_) => format!("{value:#}"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => clean(&keys::shown(value)),
    };
    output.answer(&format!("{text}\n"))?;
    Ok(exit::OK)
}

fn not_there(config: &Map<String, Value>, key: &str) -> String {
    match &keys::near(config, key)[..] {
        [] => format!("there is no key {key}; see all of them with: tunnelctl config show"),
        near => format!("there is no key {key}; did you mean {}?", near.join(" or ")),
    }
}

/// Shows what is not at its default, a line each.
pub(super) async fn diff(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let differences = keys::differences(&Config::default().to_map(), &client.config().await?);
    if output.wants_json() {
        output.json(json!({ "changes": answer::as_json(&differences, "default", "value") }))?;
    } else if differences.is_empty() {
        output.done("every key is at its default")?;
    }
    if !output.wants_json() {
        for difference in &differences {
            output.answer(&format!("{}\n", clean(&answer::line(difference, output))))?;
        }
    }
    Ok(exit::OK)
}
