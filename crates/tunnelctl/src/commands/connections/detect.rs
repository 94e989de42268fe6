//! `tunnelctl connections detect`.

use serde::Serialize;
use serde_json::{Map, Value, json};
use tunnel_api::connection::{ConnectionKind, ConnectionTest};
use tunnel_api::detect::Product;
use tunnel_api::{Detected, DetectedServer};
use tunnel_client::{Client, exit};

use super::change::{change, tell_limits};
use super::entries;
use super::probe::probe_new;
use crate::output::table::{Cell, Column, Table};
use crate::output::words::{connection_mark, count};
use crate::output::{Look, Mark, Output, clean};

/// What to do when nothing was found.
pub(super) const NOTHING: &str = "no model server answers on this machine's usual ports; start one, or name one: tunnelctl connections add URL";

/// A server that was put into the configuration.
#[derive(Clone, Debug, Serialize)]
pub(in crate::commands) struct Added {
    pub(in crate::commands) id: String,
    pub(in crate::commands) server: DetectedServer,
    /// What it answered as a connection. None when the configuration is set from elsewhere, or it went away.
    pub(in crate::commands) test: Option<ConnectionTest>,
}

pub(super) async fn detect(client: &Client, add: bool, output: &Output) -> anyhow::Result<u8> {
    let (detected, config) = tokio::try_join!(client.detect(), client.config())?;
    let off = detected_off(&detected, &config);
    let added = if add { add_found(client, &detected, output).await? } else { Vec::new() };
    if output.wants_json() {
        output.json(json!({
            "servers": detected.servers, "added": added, "timestamp": detected.timestamp,
        }))?;
        return Ok(exit::OK);
    }
    if detected.servers.is_empty() {
        output.talk(NOTHING);
        return Ok(exit::OK);
    }
    output.table(&table(&detected, &added, &off))?;
    let look = output.look();
    let failed = added.iter().filter_map(|added| Some((added, added.test.as_ref().filter(|test| !test.ok)?)));
    let failed: String =
        failed.map(|(added, test)| format!("{}: {}\n", clean(&added.id), clean(&test.message))).collect();
    output.answer(&failed)?;
    if let Some(step) = next_step(&detected, &added, &off, add) {
        output.report(&format!("\n{} {step}\n", look.arrow()))?;
    }
    Ok(exit::OK)
}

fn next_step(detected: &Detected, added: &[Added], off: &[String], add: bool) -> Option<String> {
    if !add && new_ones(detected).next().is_some() {
        return Some("to add them: tunnelctl connections detect --add".to_owned());
    }
    if !added.is_empty() {
        return Some("tunnelctl connect curl".to_owned());
    }
    let off = off.first()?;
    Some(format!("{off} is switched off; to use it: tunnelctl connections enable {off}", off = clean(off)))
}

/// Returns the connections that lead to what was found and are switched off: their user wants them so.
pub(in crate::commands) fn detected_off(detected: &Detected, config: &Map<String, Value>) -> Vec<String> {
    let off = entries::switched_off(config);
    let leading = detected.servers.iter().filter_map(|server| server.connection.clone());
    leading.filter(|id| off.contains(id)).collect()
}

/// Returns the servers to which no connection leads.
fn new_ones(detected: &Detected) -> impl Iterator<Item = &DetectedServer> {
    let known =
        |server: &&DetectedServer| server.connection.is_none() && server.kind != ConnectionKind::Unknown;
    detected.servers.iter().filter(known)
}

/// Puts all servers that are new into the configuration at once, and asks each.
pub(in crate::commands) async fn add_found(
    client: &Client,
    detected: &Detected,
    output: &Output,
) -> anyhow::Result<Vec<Added>> {
    if new_ones(detected).next().is_none() {
        return Ok(Vec::new());
    }
    let (found, answer) = change(client, |config| Ok(plan(detected, config))).await?;
    let limited = tell_limits(answer.as_ref(), output);
    let mut added = Vec::new();
    for (id, server) in found {
        // One after the other: each has answered a moment ago.
        let test = if limited { None } else { probe_new(client, &id).await.ok() };
        added.push(Added { id, server, test });
    }
    Ok(added)
}

/// Returns the change that adds what is new and not there yet, and the ids that it gives.
fn plan(
    detected: &Detected,
    config: &Map<String, Value>,
) -> (Map<String, Value>, Vec<(String, DetectedServer)>) {
    let mut taken = entries::ids(config);
    let mut found = Vec::new();
    for server in new_ones(detected).filter(|server| entries::leading_to(config, &server.url).is_none()) {
        let wish = if server.suggested_id.is_empty() { server.kind.as_str() } else { &server.suggested_id };
        let id = entries::free_id(wish, &taken);
        taken.push(id.clone());
        found.push((id, server.clone()));
    }
    if found.is_empty() {
        return (Map::new(), found);
    }
    let more = found.iter().map(|(id, server)| entries::entry(id, server.kind.as_str(), &server.url));
    (entries::with(config, more), found)
}

fn table(detected: &Detected, added: &[Added], off: &[String]) -> Table {
    let mut table = Table::new(vec![
        Column::text(""),
        Column::text("PRODUCT"),
        Column::text("VERSION").extra(),
        Column::text("MODELS").extra(),
        Column::long("ADDRESS"),
        Column::long("CONNECTION"),
    ]);
    for server in &detected.servers {
        let new = added.iter().find(|added| added.server.url == server.url);
        let (mark, connection) = match (new, &server.connection) {
            (Some(Added { id, test: Some(test), .. }), _) => {
                (connection_mark(&test.connection.connection), Cell::new(format!("{id} (added)")))
            }
            (Some(Added { id, test: None, .. }), _) => (Mark::Warn, Cell::new(format!("{id} (added)"))),
            (None, Some(id)) if off.contains(id) => (Mark::Off, Cell::new(format!("{id} (off)"))),
            (None, Some(id)) => (Mark::Ok, Cell::new(id)),
            (None, None) => (Mark::Off, Cell::painted("not added", Look::dim)),
        };
        table.row(vec![
            Cell::mark(mark),
            Cell::new(product(server.product)),
            Cell::new(server.version.as_deref().unwrap_or_default()),
            Cell::new(count(server.models.len(), "model")),
            Cell::new(&server.url),
            connection,
        ]);
    }
    table
}

fn product(product: Product) -> &'static str {
    match product {
        Product::Other | Product::Unknown => "OpenAI's API",
        Product::Ollama | Product::LlamaCpp | Product::Vllm | Product::LmStudio => product.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(product: Product, kind: ConnectionKind, url: &str, connection: Option<&str>) -> DetectedServer {
        DetectedServer {
            product,
            kind,
            url: url.to_owned(),
            models: vec!["m".to_owned()],
            connection: connection.map(str::to_owned),
            suggested_id: "llama-cpp".to_owned(),
            ..DetectedServer::default()
        }
    }

    fn detected() -> Detected {
        let servers = vec![
            server(Product::Ollama, ConnectionKind::Ollama, "http://127.0.0.1:11434", Some("ollama")),
            server(Product::LlamaCpp, ConnectionKind::Openai, "http://127.0.0.1:8080", None),
            server(Product::LlamaCpp, ConnectionKind::Openai, "http://127.0.0.1:8081", None),
            server(Product::Unknown, ConnectionKind::Unknown, "http://127.0.0.1:9", None),
        ];
        Detected { servers, ..Detected::default() }
    }

    #[test]
    fn what_is_new_goes_in_with_one_change_and_ids_of_its_own() {
        let config = entries::with(&Map::new(), [entries::entry("lab", "openai", "http://h")]);
        let (change, found) = plan(&detected(), &config);
        let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["llama-cpp", "llama-cpp-2"]);
        let urls: Vec<Value> =
            entries::entries(&change).into_iter().map(|mut entry| entry["url"].take()).collect();
        assert_eq!(urls, ["http://h", "http://127.0.0.1:8080", "http://127.0.0.1:8081"]);
    }

    #[test]
    fn what_was_added_meanwhile_is_not_added_twice() {
        let (config, _) = plan(&detected(), &Map::new());
        let (change, found) = plan(&detected(), &config);
        assert!(change.is_empty() && found.is_empty());
    }

    #[test]
    fn table_tells_which_have_a_connection() {
        let text = table(&detected(), &[], &[]).text(&Look::plain(), None);
        assert!(
            text.contains("OK    Ollama                 1 model  http://127.0.0.1:11434  ollama\n"),
            "{text}"
        );
        assert!(
            text.contains("off   llama.cpp              1 model  http://127.0.0.1:8080   not added\n"),
            "{text}"
        );
        let step = next_step(&detected(), &[], &[], false).unwrap();
        assert_eq!(step, "to add them: tunnelctl connections detect --add");
        assert_eq!(next_step(&detected(), &[], &[], true), None);
    }

    #[test]
    fn server_of_a_connection_that_is_switched_off_is_not_added_but_named() {
        let mut only = detected();
        only.servers.truncate(1);
        let config = json!({ "enableLocalOllama": false }).as_object().cloned().unwrap();
        let off = detected_off(&only, &config);
        assert!(plan(&only, &config).0.is_empty());
        let text = table(&only, &[], &off).text(&Look::plain(), None);
        assert!(text.contains("off   Ollama") && text.ends_with("ollama (off)\n"), "{text}");
        let step = next_step(&only, &[], &off, true).unwrap();
        assert!(step.ends_with("tunnelctl connections enable ollama"), "{step}");
        assert!(detected_off(&only, &Map::new()).is_empty());
    }
}
