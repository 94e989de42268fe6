//! `tunnelctl wait`.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tunnel_api::warning::NO_TOKEN;
use tunnel_api::{Model, Models, Status, TunnelState};
use tunnel_client::{Client, Error, exit};

use crate::cli::Goal;
use crate::commands::connections::idle_cloud;
use crate::output::Output;

/// Longest wait when none is given.
pub(super) const USUAL: Duration = Duration::from_secs(60);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Least time that one look is given, however little is left.
const LEAST: Duration = Duration::from_secs(1);

/// What one look has shown.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Reached,
    /// Not so, but it may come.
    NotYet(String),
    /// The daemon does not run; somebody may start it.
    NoDaemon(String),
    /// Not so, and waiting will not change it.
    Hopeless(String),
    /// There is nothing of that name to wait for.
    Unknown(String),
}

pub(super) async fn wait(
    client: &Client,
    goal: &Goal,
    timeout: Duration,
    output: &Output,
) -> anyhow::Result<u8> {
    let deadline = Instant::now() + timeout;
    let mut client = client.clone();
    let mut told = false;
    // What another command has just changed may be on its way through the daemon: one look is not enough to give up.
    let mut was_hopeless = false;
    let (code, why) = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let seen = match tokio::time::timeout(left.max(LEAST), look(&client, goal)).await {
            Ok(seen) => seen?,
            Err(_) => Seen::NotYet(format!("tunneld at {} does not answer", client.door())),
        };
        let over = Instant::now() + PAUSE > deadline;
        let is_hopeless = matches!(seen, Seen::Hopeless(_));
        match seen {
            Seen::Reached => break (exit::OK, None),
            Seen::Hopeless(why) if was_hopeless || over => break (exit::NOT_READY, Some(why)),
            Seen::Unknown(why) => break (exit::NOT_FOUND, Some(why)),
            Seen::NotYet(why) if over && timeout.is_zero() => break (exit::NOT_READY, Some(why)),
            Seen::NotYet(why) if over => break (exit::TIMEOUT, Some(after(timeout, &why))),
            Seen::NoDaemon(why) if over => break (exit::NOT_RUNNING, Some(why)),
            Seen::NotYet(why) | Seen::NoDaemon(why) if !told => {
                output.talk(&format!("waiting: {why}"));
                told = true;
            }
            Seen::NotYet(_) | Seen::NoDaemon(_) | Seen::Hopeless(_) => {}
        }
        was_hopeless = is_hopeless;
        tokio::time::sleep(PAUSE).await;
        // The daemon brings its socket with it.
        if let Some(found) = client.found_anew(|name| std::env::var_os(name))? {
            client = found;
        }
    };
    tell(goal, code, why, output)?;
    Ok(code)
}

async fn look(client: &Client, goal: &Goal) -> Result<Seen, Error> {
    let seen = match goal {
        Goal::Tunnel => client.status().await.map(|status| tunnel(&status)),
        Goal::Ready => client.readyz().await.map(|()| Seen::Reached),
        Goal::Connection(id) => client.status().await.map(|status| connection(&status, id)),
        Goal::Model(name) => client.models().await.map(|models| model(&models, name)),
    };
    seen.or_else(|error| match &error {
        Error::NotRunning { .. } => Ok(Seen::NoDaemon(error.to_string())),
        Error::NotReady(_) | Error::Timeout { .. } | Error::Lost { .. } => {
            Ok(Seen::NotYet(error.to_string()))
        }
        Error::NotAllowed { .. }
        | Error::NotTunneld { .. }
        | Error::WaitOver(_)
        | Error::Refused(_)
        | Error::Setup(_) => Err(error),
    })
}

fn tunnel(status: &Status) -> Seen {
    let tunnel = &status.tunnel;
    let mut why = format!("the tunnel is {}", tunnel.state);
    if let Some(error) = &tunnel.last_error {
        why.push_str(&format!(": {error}"));
    }
    if let Some(warning) = status.tunnel_warning().filter(|warning| !warning.next_step.is_empty()) {
        why.push_str(&format!("; {}", warning.next_step));
    }
    match tunnel.state {
        TunnelState::Connected => Seen::Reached,
        TunnelState::Refused => Seen::Hopeless(why),
        // Whatever kept it from being dialled is over.
        TunnelState::Connecting => Seen::NotYet(why),
        TunnelState::Disconnected | TunnelState::Backoff | TunnelState::Unknown => not_dialled(status, why),
    }
}

/// Nothing is waited for while the tunnel is down on purpose, or for want of a token.
fn not_dialled(status: &Status, why: String) -> Seen {
    let missing = status.tunnel_warning().filter(|warning| warning.code == NO_TOKEN);
    match (idle_cloud(status), missing) {
        (Some(_), Some(missing)) if !missing.passes_by_itself() => Seen::Hopeless(why),
        (Some(idle), None) => Seen::Hopeless(idle.to_owned()),
        // A token is being looked for.
        (Some(_), Some(_)) | (None, _) => Seen::NotYet(why),
    }
}

/// A connection comes with the configuration, so one that is not there does not come by waiting.
fn connection(status: &Status, id: &str) -> Seen {
    let Some(connection) = status.connections.get(id) else {
        let ids: Vec<&str> = status.connections.keys().map(String::as_str).collect();
        let there = if ids.is_empty() {
            "there is none".to_owned()
        } else {
            format!("there are: {}", ids.join(", "))
        };
        return Seen::Unknown(format!("there is no connection {id}; {there}"));
    };
    if connection.connected {
        return Seen::Reached;
    }
    let mut why = format!("the connection {id} is {}", connection.word());
    if let Some(error) = &connection.error {
        why.push_str(&format!(": {error}"));
    }
    Seen::NotYet(why)
}

/// The daemon lists the models that can be asked for now. A model may be on its way, so it is waited for.
fn model(models: &Models, name: &str) -> Seen {
    // As requests have it: no tag means `latest`, and a connection's id before the name means that one alone.
    let is_meant = |model: &str| model == name || model.strip_suffix(":latest") == Some(name);
    let is_pinned = |model: &Model| {
        let pin = name.split_once('/').filter(|(id, _)| model.connections.iter().any(|there| there == id));
        pin.is_some_and(|(_, rest)| model.name == rest || model.name.strip_suffix(":latest") == Some(rest))
    };
    if models.models.iter().any(|model| is_meant(&model.name) || is_pinned(model)) {
        Seen::Reached
    } else {
        Seen::NotYet(format!("no connection has the model {name}"))
    }
}

fn after(timeout: Duration, why: &str) -> String {
    format!("not reached within {} s: {why}", timeout.as_secs_f64())
}

fn tell(goal: &Goal, code: u8, why: Option<String>, output: &Output) -> anyhow::Result<()> {
    let (name, reached) = match goal {
        Goal::Tunnel => ("tunnel".to_owned(), "the tunnel is up".to_owned()),
        Goal::Ready => ("ready".to_owned(), "tunneld is ready".to_owned()),
        Goal::Connection(id) => (format!("connection={id}"), format!("the connection {id} is up")),
        Goal::Model(model) => (format!("model={model}"), format!("the model {model} can be asked")),
    };
    if output.wants_json() {
        output.json(json!({ "for": name, "reached": code == exit::OK, "reason": why }))?;
    } else if code == exit::OK {
        output.done(&reached)?;
    }
    if let Some(why) = why {
        output.error(&why);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tunnel_api::connection::{Connection, ConnectionState};
    use tunnel_api::tunnel::Target;
    use tunnel_api::{Tunnel, Warning, warning};

    use super::*;

    fn status(state: TunnelState, error: Option<&str>, warnings: Vec<Warning>) -> Status {
        let tunnel = Tunnel { state, last_error: error.map(str::to_owned), ..Tunnel::default() };
        Status { tunnel, warnings, ..Status::default() }
    }

    #[test]
    fn only_a_refusal_is_hopeless() {
        assert_eq!(tunnel(&status(TunnelState::Connected, Some("old"), vec![])), Seen::Reached);
        assert_eq!(
            tunnel(&status(TunnelState::Backoff, Some("no route"), vec![])),
            Seen::NotYet("the tunnel is backoff: no route".to_owned())
        );
        let expired = Warning::new(warning::TOKEN_EXPIRED, "the token has expired", "get a new one");
        assert_eq!(
            tunnel(&status(TunnelState::Refused, Some("the token has expired"), vec![expired])),
            Seen::Hopeless("the tunnel is refused: the token has expired; get a new one".to_owned())
        );
    }

    #[test]
    fn tunnel_that_nobody_dials_is_not_waited_for() {
        let mut off = status(TunnelState::Disconnected, None, vec![]);
        assert!(matches!(tunnel(&off), Seen::NotYet(_)), "a daemon that starts has looked at nothing yet");
        let told = |status: &Status| match tunnel(status) {
            Seen::Hopeless(why) => why,
            other => panic!("{other:?}"),
        };
        off.tunnel.target = Target::Down;
        assert!(told(&off).contains("tunnelctl connections enable cloud"));
        off.tunnel.relay = Some("https://r".to_owned());
        assert!(told(&off).contains("tunnelctl start"));
        off.tunnel.target = Target::Up;
        let missing = |step: &str| vec![Warning::new(NO_TOKEN, "there is no token yet", step)];
        off.warnings = missing("store one: tunnelctl login --token-stdin");
        assert!(told(&off).contains("tunnelctl login --token-stdin"));
        off.tunnel.state = TunnelState::Connecting;
        assert!(matches!(tunnel(&off), Seen::NotYet(_)), "it is dialled with the token that has just come");
        off.tunnel.state = TunnelState::Disconnected;
        off.warnings = missing("nothing: tunneld dials as soon as it has one");
        assert!(matches!(tunnel(&off), Seen::NotYet(_)));
    }

    #[test]
    fn connection_that_is_not_configured_is_not_waited_for() {
        let down = Connection {
            state: ConnectionState::Disconnected,
            error: Some("connection refused".to_owned()),
            ..Connection::default()
        };
        let up = Connection { connected: true, ..Connection::default() };
        let connections = [("lab".to_owned(), down), ("ollama".to_owned(), up)].into();
        let status = Status { connections, ..Status::default() };
        assert_eq!(connection(&status, "ollama"), Seen::Reached);
        let why = "the connection lab is disconnected: connection refused".to_owned();
        assert_eq!(connection(&status, "lab"), Seen::NotYet(why));
        let why = "there is no connection x; there are: lab, ollama".to_owned();
        assert_eq!(connection(&status, "x"), Seen::Unknown(why));
    }

    #[test]
    fn models_are_named_as_in_requests() {
        let listed = |name: &str| Model {
            name: name.to_owned(),
            connections: vec!["lab".to_owned()],
            ..Model::default()
        };
        let models = Models { models: vec![listed("llama3.2:latest"), listed("org/m")], ..Models::default() };
        for name in ["llama3.2", "llama3.2:latest", "lab/llama3.2", "org/m", "lab/org/m"] {
            assert_eq!(model(&models, name), Seen::Reached, "{name}");
        }
        for name in ["llama3", "llama3.2:1b", "other/llama3.2", "m", ""] {
            assert!(matches!(model(&models, name), Seen::NotYet(_)), "{name}");
        }
    }
}
