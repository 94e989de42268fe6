//! The line that `systemctl status` shows.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tunnel_api::{Status, TunnelState};
use tunnel_runtime::systemd;

/// Keeps the service manager's status line up to date until `soft` ends.
pub(crate) async fn follow(mut status: watch::Receiver<Arc<Status>>, soft: CancellationToken) {
    let mut told = String::new();
    loop {
        let line = line(&status.borrow_and_update());
        if line != told {
            systemd::status(&line);
            told = line;
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = soft.cancelled() => return,
        }
    }
}

fn line(status: &Status) -> String {
    let backends = || status.connections.values().filter(|connection| !connection.is_tunnel());
    let up = backends().filter(|backend| backend.connected).count();
    let tunnel = match (status.tunnel.state, &status.tunnel.last_error) {
        (TunnelState::Connected, _) | (_, None) => status.tunnel.state.to_string(),
        (state, Some(error)) => format!("{state}: {error}"),
    };
    format!("{up} of {} model servers up; tunnel {tunnel}", backends().count())
}

#[cfg(test)]
mod tests {
    use tunnel_api::{Connection, Tunnel};

    use tunnel_api::connection::ConnectionKind;

    use super::*;

    #[test]
    fn line_counts_servers_and_says_why_the_tunnel_is_down() {
        let connections = [
            ("a", ConnectionKind::Ollama, true),
            ("b", ConnectionKind::Openai, false),
            ("cloud", ConnectionKind::Cloud, false),
        ];
        let connection = |(id, kind, connected): (&str, _, _)| {
            (id.to_owned(), Connection { id: id.to_owned(), kind, connected, ..Connection::default() })
        };
        let tunnel = Tunnel {
            state: TunnelState::Backoff,
            last_error: Some("could not reach relay.example".to_owned()),
            ..Tunnel::default()
        };
        let connections = connections.into_iter().map(connection).collect();
        let status = Status { connections, tunnel, ..Status::default() };
        assert_eq!(line(&status), "1 of 2 model servers up; tunnel backoff: could not reach relay.example");
    }
}
