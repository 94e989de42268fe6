//! `tunnelctl connections credential`: the secrets that connections are sent.

use anyhow::Context as _;
use serde_json::json;
use tunnel_api::credential::StoredCredential;
use tunnel_client::{Client, exit};

use crate::cli::CredentialVerb;
use crate::commands::login::{place, typed};
use crate::output::table::{Cell, Column, Table};
use crate::output::{Output, clean};

pub(super) async fn run(client: &Client, verb: &CredentialVerb, output: &Output) -> anyhow::Result<u8> {
    match verb {
        CredentialVerb::List => list(client, output).await,
        CredentialVerb::Set { name } => set(client, name, output).await,
        CredentialVerb::Remove { name } => remove(client, name, output).await,
    }
}

async fn list(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let kept = client.credentials().await?;
    if output.wants_json() {
        output.json(json!(kept))?;
        return Ok(exit::OK);
    }
    let mut table = Table::new(vec![Column::text("NAME"), Column::text("KEPT IN"), Column::text("SENT TO")]);
    for StoredCredential { name, stored_in, connections } in &kept.credentials {
        let sent_to = if connections.is_empty() { "nobody".to_owned() } else { connections.join(", ") };
        table.row(vec![Cell::new(name), Cell::new(place(*stored_in)), Cell::new(&sent_to)]);
    }
    output.table(&table)?;
    Ok(exit::OK)
}

/// Reads the secret from standard input: the command line of a program can be read by others.
async fn set(client: &Client, name: &str, output: &Output) -> anyhow::Result<u8> {
    let prompt = "Paste the secret, then press Enter; it is not shown: ";
    let text = typed(output, prompt).await.context("could not read standard input")?;
    let secret = text.trim();
    if secret.is_empty() {
        output.error(
            "there is no secret in it; whoever runs the server makes one, such as: tunnelctl keys create",
        );
        return Ok(exit::USAGE);
    }
    let stored = client.store_credential(name, secret).await?;
    if output.wants_json() {
        output.json(json!(stored))?;
        return Ok(exit::OK);
    }
    output.done(&format!("the secret {name} is kept in {}", place(stored.stored_in)))?;
    if stored.connections.is_empty() {
        output.talk(&format!(
            "no connection is sent it yet: put \"credential\": \"{name}\" into its entry of connections in the file of: \
             tunnelctl config path"
        ));
    } else {
        let ids = clean(&stored.connections.join(", "));
        output.talk(&format!(
            "it is sent to {ids} from now on; to see how they stand: tunnelctl connections list"
        ));
    }
    Ok(exit::OK)
}

async fn remove(client: &Client, name: &str, output: &Output) -> anyhow::Result<u8> {
    let removed = client.remove_credential(name).await?;
    if output.wants_json() {
        output.json(json!(removed))?;
    } else {
        output.done(&format!("the secret {name} is forgotten"))?;
    }
    Ok(exit::OK)
}
