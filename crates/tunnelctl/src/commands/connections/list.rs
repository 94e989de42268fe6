//! `tunnelctl connections list`.

use serde_json::{Map, Value, json};
use tunnel_api::connection::{CLOUD_ID, ConnectionKind, ConnectionReport, OLLAMA_ID};
use tunnel_api::{Config, Connection, Connections};
use tunnel_client::{Client, exit};

use super::entries::{ENABLE_CLOUD, ENABLE_OLLAMA, entries, is_enabled, is_on, text};
use crate::output::table::{Cell, Column, Table};
use crate::output::words::{connection_mark, milliseconds};
use crate::output::{Look, Mark, Output, clean};

/// A connection that the daemon has, or one that is only in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listed {
    pub(super) report: ConnectionReport,
    pub(super) use_: Use,
}

/// Whether a connection is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Used,
    /// It is switched off.
    Off,
    /// It is switched on, but this daemon serves none of its type.
    NotServed,
}

pub(super) async fn show(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let (connections, config) = tokio::try_join!(client.connections(), client.config())?;
    let list = listed(&connections, &config);
    if output.wants_json() {
        output.json(json!({
            "connections": list.iter().map(Listed::json).collect::<Vec<_>>(),
            "total_connections": connections.total_connections,
            "active_connections": connections.active_connections,
            "timestamp": connections.timestamp,
        }))?;
    } else {
        output.table(&table(&list))?;
        output.notes(&notes(&list, output.look()))?;
    }
    Ok(exit::OK)
}

/// Returns the daemon's connections, then those that are only in the configuration.
pub(super) fn listed(connections: &Connections, config: &Map<String, Value>) -> Vec<Listed> {
    let is_off = |id: &str| id == CLOUD_ID && !is_on(config, ENABLE_CLOUD);
    let used = connections.connections.iter().map(|report| {
        let use_ = if is_off(&report.connection.id) { Use::Off } else { Use::Used };
        Listed { report: report.clone(), use_ }
    });
    let mut list: Vec<Listed> = used.collect();
    for (connection, use_) in configured(config) {
        if !list.iter().any(|listed| listed.report.connection.id == connection.id) {
            let status_description = match use_ {
                Use::Used => continue,
                Use::Off => "Switched off",
                Use::NotServed => "Not served by this version",
            };
            let report = ConnectionReport {
                status_description: status_description.to_owned(),
                needs_attention: use_ == Use::NotServed,
                connection,
            };
            list.push(Listed { report, use_ });
        }
    }
    list
}

/// Returns what the configuration says of each connection.
fn configured(config: &Map<String, Value>) -> Vec<(Connection, Use)> {
    let switch = |key| if is_on(config, key) { Use::Used } else { Use::Off };
    let built_in =
        |id: &str, kind, endpoint| Connection { id: id.to_owned(), kind, endpoint, ..Connection::default() };
    let relay = config.get("cloudProxyUrl").and_then(Value::as_str).unwrap_or_default();
    let mut all = vec![
        (built_in(OLLAMA_ID, ConnectionKind::Ollama, ollama_url(config)), switch(ENABLE_OLLAMA)),
        (built_in(CLOUD_ID, ConnectionKind::Cloud, relay.to_owned()), switch(ENABLE_CLOUD)),
    ];
    for entry in entries(config) {
        let kind = serde_json::from_value(entry["type"].clone()).unwrap_or_default();
        let use_ = match kind {
            _ if !is_enabled(&entry) => Use::Off,
            ConnectionKind::Ollama
            | ConnectionKind::Openai
            | ConnectionKind::Llamacpp
            | ConnectionKind::Vllm
            | ConnectionKind::Lmstudio
            | ConnectionKind::Cloud
            | ConnectionKind::Plugin => Use::Used,
            ConnectionKind::Unknown => Use::NotServed,
        };
        let id = text(&entry, "id");
        // A built-in one that is switched off leaves its name to an entry.
        all.retain(|(other, _)| other.id != id);
        all.push((built_in(id, kind, place(&entry)), use_));
    }
    all
}

/// Where it is: its address, or the program that is started for it.
fn place(entry: &Value) -> String {
    entry["url"].as_str().or_else(|| entry["command"][0].as_str()).unwrap_or_default().to_owned()
}

fn ollama_url(config: &Map<String, Value>) -> String {
    let keys = ["ollamaHost", "ollamaPort"];
    let known = keys.iter().filter_map(|key| Some(((*key).to_owned(), config.get(*key)?.clone())));
    let url = Config::check(&known.collect()).map(|config| config.ollama_url());
    url.map_or_else(|_| String::new(), |url| url.as_str().trim_end_matches('/').to_owned())
}

impl Listed {
    pub(super) fn id(&self) -> &str {
        &self.report.connection.id
    }

    fn state(&self) -> &'static str {
        match self.use_ {
            Use::Used => self.report.connection.word(),
            Use::Off => "off",
            Use::NotServed => "not served",
        }
    }

    pub(super) fn mark(&self) -> Mark {
        match (self.use_, connection_mark(&self.report.connection)) {
            (Use::Off, _) => Mark::Off,
            (Use::NotServed, _) => Mark::Warn,
            (Use::Used, Mark::Ok) if self.report.needs_attention => Mark::Warn,
            (Use::Used, mark) => mark,
        }
    }

    /// Returns it as the API has it, with whether it is used, and `off` as one more state.
    pub(super) fn json(&self) -> Value {
        let mut value = json!(self.report);
        value["enabled"] = (self.use_ != Use::Off).into();
        if self.use_ != Use::Used {
            value["state"] = self.state().replace(' ', "_").into();
        }
        value
    }
}

fn table(list: &[Listed]) -> Table {
    let mut table = Table::new(vec![
        Column::text(""),
        Column::long("ID"),
        Column::text("TYPE"),
        Column::text("STATE"),
        Column::number("LATENCY").extra(),
        Column::number("MODELS").extra(),
        Column::number("IN FLIGHT").extra(),
        Column::long("ENDPOINT"),
    ]);
    for listed in list {
        let connection = &listed.report.connection;
        let used = listed.use_ == Use::Used;
        let number =
            |n: Option<u64>| Cell::new(n.filter(|_| used).map_or_else(String::new, |n| n.to_string()));
        let latency = connection.latency.filter(|_| connection.connected);
        table.row(vec![
            Cell::mark(listed.mark()),
            Cell::new(&connection.id),
            Cell::new(connection.kind.as_str()),
            Cell::new(listed.state()),
            Cell::new(latency.map_or_else(String::new, milliseconds)),
            number(u64::try_from(connection.models.len()).ok()),
            number(Some(connection.in_flight + connection.queued)),
            Cell::new(&connection.endpoint),
        ]);
    }
    table
}

/// Returns why connections are down, and the next step.
fn notes(list: &[Listed], look: &Look) -> String {
    let mut notes = String::new();
    for listed in list.iter().filter(|listed| listed.use_ == Use::Used) {
        let connection = &listed.report.connection;
        if let Some(error) = connection.error.as_ref().filter(|_| !connection.connected) {
            notes.push_str(&format!("{}: {}\n", clean(&connection.id), clean(error)));
        }
    }
    let local = |listed: &&Listed| !listed.report.connection.is_tunnel();
    let step = if list.iter().filter(local).any(|listed| listed.use_ == Use::Used) {
        list.iter()
            .find(|listed| listed.use_ == Use::Off)
            .map(|listed| format!("to use {0} again: tunnelctl connections enable {0}", clean(listed.id())))
    } else {
        Some("no model server is used; to look for one: tunnelctl connections detect".to_owned())
    };
    if let Some(step) = step {
        notes.push_str(&format!("{} {step}\n", look.arrow()));
    }
    if notes.is_empty() { notes } else { format!("\n{notes}") }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tunnel_api::connection::{ConnectionState, Quality};

    use super::*;

    fn connections() -> Connections {
        let now = Timestamp::UNIX_EPOCH;
        let lab = Connection {
            id: "lab".to_owned(),
            kind: ConnectionKind::Openai,
            state: ConnectionState::Connected,
            connected: true,
            quality: Quality::Excellent,
            endpoint: "http://10.0.0.2:8000".to_owned(),
            models: vec!["a".to_owned(), "b".to_owned()],
            latency: Some(3.21),
            in_flight: 2,
            ..Connection::default()
        };
        let cloud = Connection {
            id: "cloud".to_owned(),
            kind: ConnectionKind::Cloud,
            state: ConnectionState::Disconnected,
            endpoint: "https://relay.example.org".to_owned(),
            error: Some("no token".to_owned()),
            ..Connection::default()
        };
        Connections::new([lab, cloud], now)
    }

    fn config() -> Map<String, Value> {
        let value = json!({
            "enableLocalOllama": false, "ollamaHost": "localhost", "ollamaPort": 11434, "enableCloudProxy": true,
            "connections": [
                { "id": "lab", "type": "openai", "url": "http://10.0.0.2:8000" },
                { "id": "old", "type": "ollama", "url": "http://10.0.0.3:11434", "enabled": false },
                { "id": "plug", "type": "newer", "url": "unix:///p" },
            ],
        });
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn connections_that_are_off_are_listed_too() {
        let list = listed(&connections(), &config());
        assert_eq!(
            table(&list).text(&Look::plain(), None),
            "\x20     ID      TYPE     STATE         LATENCY  MODELS  IN FLIGHT  ENDPOINT
OK    lab     openai   connected      3.2 ms       2          2  http://10.0.0.2:8000
off   cloud   cloud    disconnected                0          0  https://relay.example.org
off   ollama  ollama   off                                       http://localhost:11434
off   old     ollama   off                                       http://10.0.0.3:11434
WARN  plug    unknown  not served                                unix:///p
"
        );
        assert_eq!(
            notes(&list, &Look::plain()),
            "\ncloud: no token\n-> to use ollama again: tunnelctl connections enable ollama\n"
        );
    }

    #[test]
    fn json_says_off_beside_the_fields_of_the_api() {
        let list = listed(&connections(), &config());
        let json: Vec<Value> = list.iter().map(Listed::json).collect();
        assert_eq!((&json[0]["state"], &json[0]["enabled"]), (&json!("connected"), &json!(true)));
        assert_eq!(json[0]["needs_attention"], false);
        assert_eq!((&json[2]["id"], &json[2]["state"]), (&json!("ollama"), &json!("off")));
        assert_eq!((&json[2]["enabled"], &json[4]["state"]), (&json!(false), &json!("not_served")));
    }

    #[test]
    fn cloud_that_is_switched_off_says_so() {
        let mut config = config();
        config["enableCloudProxy"] = false.into();
        let list = listed(&connections(), &config);
        assert_eq!(list[1].state(), "off");
        assert!(!notes(&list, &Look::plain()).contains("no token"));
    }

    #[test]
    fn without_a_model_server_the_next_step_is_to_look_for_one() {
        let list = listed(&Connections::default(), &config());
        assert!(notes(&list, &Look::plain()).contains("tunnelctl connections detect"));
    }
}
