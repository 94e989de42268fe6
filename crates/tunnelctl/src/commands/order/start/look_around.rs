//! Looking for model servers where the configuration names none.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::task::JoinSet;
use tunnel_api::{Config, Connections};
use tunnel_client::{Client, Error};

use super::key;
use crate::commands::connections::{Added, add_found, detected_off, switched_off};
use crate::output::Output;

/// How long a connection may take to answer before one looks elsewhere.
const PROBE: Duration = Duration::from_secs(3);

/// What looking around has shown.
#[derive(Debug)]
pub(super) enum Found {
    /// There was no need to look: a model server is connected.
    Connected,
    /// None is connected, but somebody has said where they are. Those that he has switched off.
    Named { off: Vec<String> },
    /// The daemon could not look.
    Unable,
    /// These were added; none where nothing was found. Those that were found are `off` if their connection is
    /// switched off.
    Looked { added: Vec<Added>, off: Vec<String> },
}

/// Adds what runs on this machine, if no model server is connected and the configuration names none of its own.
pub(super) async fn look_around(client: &Client, output: &Output) -> anyhow::Result<Found> {
    if has_server(&probed(client).await?) {
        return Ok(Found::Connected);
    }
    let config = client.config().await?;
    if names_servers(&config) {
        return Ok(Found::Named { off: switched_off(&config) });
    }
    output.talk("no model server is connected; looking for one on this machine");
    let detected = match client.detect().await {
        Ok(detected) => detected,
        Err(Error::Refused(body)) => {
            output.talk(&format!("tunneld cannot look for model servers: {}", body.error));
            return Ok(Found::Unable);
        }
        Err(error) => return Err(error.into()),
    };
    let off = detected_off(&detected, &config);
    Ok(Found::Looked { added: add_found(client, &detected, output).await?, off })
}

/// Returns the connections, those that are down once they were asked: a server may have been started a moment ago.
async fn probed(client: &Client) -> Result<Connections, Error> {
    let connections = client.connections().await?;
    let reports = connections.connections.iter().map(|report| &report.connection);
    let down = reports.filter(|connection| !connection.is_tunnel() && !connection.connected);
    let mut asked = JoinSet::new();
    for connection in down {
        let (client, id) = (client.clone(), connection.id.clone());
        // However it ends, the list tells it.
        asked.spawn(async move { drop(tokio::time::timeout(PROBE, client.test_connection(&id)).await) });
    }
    if asked.is_empty() {
        return Ok(connections);
    }
    asked.join_all().await;
    client.connections().await
}

pub(super) fn has_server(connections: &Connections) -> bool {
    let up = |connection: &tunnel_api::Connection| !connection.is_tunnel() && connection.connected;
    connections.connections.iter().any(|report| up(&report.connection))
}

/// Tells whether somebody has said where the model servers are. Who wrote the defaults down has said nothing.
fn names_servers(config: &Map<String, Value>) -> bool {
    let defaults = Config::default().to_map();
    let is_moved = |name: &str| config.get(name).is_some_and(|value| value != key(&defaults, name));
    let listed = key(config, "connections").as_array().is_some_and(|entries| !entries.is_empty());
    listed || is_moved("ollamaHost") || is_moved("ollamaPort")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn configuration_that_names_a_server_is_left_alone() {
        let named = |value: Value| names_servers(value.as_object().unwrap());
        assert!(!named(json!({})));
        assert!(!names_servers(&Config::default().to_map()));
        assert!(named(json!({ "connections": [{ "id": "lab" }] })));
        assert!(named(json!({ "ollamaPort": 11500 })));
        assert!(named(json!({ "ollamaHost": "gpu.lan" })));
    }
}
