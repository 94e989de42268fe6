//! Connections as the original system's tray protocol shows them: one local, one in the cloud. Pure.

use serde_json::{Map, Value, json};
use tunnel_api::connection::{CLOUD_ID, OLLAMA_ID};
use tunnel_api::{Connection, Status};

const LOCAL: &str = "local_ollama";
const CLOUD: &str = "cloud_proxy";

/// Returns both connections, as `GET_CONNECTION_STATUS` answers them.
pub(super) fn connections(status: &Status) -> Map<String, Value> {
    let local = status.connections.get(OLLAMA_ID).or_else(|| {
        // Without the built-in one, the first local server stands for all.
        status.connections.values().find(|connection| !connection.is_tunnel())
    });
    let cloud = status.connections.get(CLOUD_ID);
    [(LOCAL, local), (CLOUD, cloud)]
        .into_iter()
        .map(|(name, connection)| (name.to_owned(), connection.map_or(Value::Null, shown)))
        .collect()
}

fn shown(connection: &Connection) -> Value {
    json!({
        "state": connection.state.as_str(),
        "last_check": connection.last_check,
        "error_message": connection.error,
        "version": connection.version,
        "models": connection.models,
    })
}

/// What a client was told last.
#[derive(Debug)]
pub(super) struct Told(Map<String, Value>);

impl Told {
    /// It knows this much from its own question.
    pub(super) fn of(status: &Status) -> Self {
        Self(essence(status))
    }

    /// Returns a message for each connection that has changed since.
    pub(super) fn changes(&mut self, status: &Status) -> Vec<Value> {
        let now = essence(status);
        let changed = now.iter().filter(|(name, state)| self.0.get(*name) != Some(state));
        let full = connections(status);
        let messages = changed
            .map(|(name, _)| {
                json!({
                    "command": "CONNECTION_STATUS_CHANGED", "connection_type": name, "status": full.get(name),
                })
            })
            .collect();
        self.0 = now;
        messages
    }
}

/// What counts as a change: not that it was looked at again.
fn essence(status: &Status) -> Map<String, Value> {
    let mut all = connections(status);
    for connection in all.values_mut() {
        if let Value::Object(connection) = connection {
            connection.remove("last_check");
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tunnel_api::connection::ConnectionKind;
    use tunnel_api::connection::ConnectionState;

    use super::*;

    fn status(state: ConnectionState, checked: i64) -> Status {
        let local = Connection {
            id: OLLAMA_ID.to_owned(),
            kind: ConnectionKind::Ollama,
            state,
            last_check: Timestamp::from_second(checked).ok(),
            ..Connection::default()
        };
        Status { connections: [(OLLAMA_ID.to_owned(), local)].into(), ..Status::default() }
    }

    #[test]
    fn both_connections_are_there_and_one_that_is_off_is_null() {
        let shown = connections(&status(ConnectionState::Connected, 1));
        assert_eq!(shown[LOCAL]["state"], "connected");
        assert_eq!(shown[CLOUD], Value::Null);
    }

    #[test]
    fn a_change_is_told_once_and_another_look_is_none() {
        let mut told = Told::of(&status(ConnectionState::Connected, 1));
        assert!(told.changes(&status(ConnectionState::Connected, 2)).is_empty());
        let changes = told.changes(&status(ConnectionState::Disconnected, 3));
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0]["connection_type"], LOCAL);
        assert_eq!(changes[0]["status"]["state"], "disconnected");
        assert!(told.changes(&status(ConnectionState::Disconnected, 4)).is_empty());
    }
}
