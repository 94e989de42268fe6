//! `tunnelctl config import`: the original system's connections.

use std::path::Path;

use tunnel_api::config;
use tunnel_api::config_api::ImportAnswer;
use tunnel_client::{Client, exit};

use super::{answer, file};
use crate::output::Output;

/// Hands the original's connection file to the daemon.
pub(super) async fn import(client: &Client, file: &Path, output: &Output) -> anyhow::Result<u8> {
    let text = file::named(file)?;
    // What stands where in such a file is not told: it holds a token.
    let content = config::parse(&text)
        .map_err(|error| anyhow::anyhow!("{}, line {}: {}", file.display(), error.line, error.problem))?;
    let imported = match client.import_config(&content).await {
        Ok(imported) => imported,
        Err(error) => return answer::refused(error, output),
    };
    if output.wants_json() {
        output.json(serde_json::to_value(&imported)?)?;
        return Ok(exit::OK);
    }
    let ImportAnswer { imported, token_stored, answer } = imported;
    let keys = if imported.is_empty() { "no keys".to_owned() } else { imported.join(", ") };
    let place = answer.file.as_deref().unwrap_or("the configuration");
    output.done(&format!("imported {keys} into {place}"))?;
    if token_stored {
        output.done(&format!("the token is stored; delete {}, where it is in clear text", file.display()))?;
    }
    answer::notes(&answer, output);
    Ok(exit::OK)
}
