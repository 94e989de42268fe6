//! Asking a connection that was put in a moment ago.

use std::time::Duration;

use tokio::time::Instant;
use tunnel_api::connection::{ConnectionKind, ConnectionTest};
use tunnel_client::{Client, Error, exit};

/// Longest wait until the daemon knows a connection that it has taken into its configuration.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Probes a connection that has just been put in, or switched on.
pub(super) async fn probe_new(client: &Client, id: &str) -> Result<ConnectionTest, Error> {
    let deadline = Instant::now() + KNOWN_WITHIN;
    loop {
        match client.test_connection(id).await {
            // It changes its backends after it has answered.
            Err(error) if error.exit_code() == exit::NOT_FOUND && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Returns what to do next with a connection as it was found.
pub(super) fn next_step(test: &ConnectionTest) -> String {
    let connection = &test.connection.connection;
    if !test.ok {
        return format!("start its server, then: tunnelctl connections test {}", connection.id);
    }
    match (connection.models.is_empty(), connection.kind) {
        (false, _) => "tunnelctl connect curl".to_owned(),
        (true, ConnectionKind::Ollama) => {
            "it has no models yet; get one, such as: ollama pull llama3.2:3b".to_owned()
        }
        (true, _) => "it has no models yet; have its server load one".to_owned(),
    }
}
