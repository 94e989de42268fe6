//! `tunnelctl wait`.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tunnel_api::{Status, TunnelState};
use tunnel_client::{Client, Error, exit};

use crate::cli::Goal;
use crate::output::Output;

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
}

pub(super) async fn wait(
    client: &Client,
    goal: Goal,
    timeout: Duration,
    output: &Output,
) -> anyhow::Result<u8> {
    let deadline = Instant::now() + timeout;
    let mut told = false;
    let (code, why) = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let seen = match tokio::time::timeout(left.max(LEAST), look(client, goal)).await {
            Ok(seen) => seen?,
            Err(_) => Seen::NotYet(format!("tunneld at {} does not answer", client.door())),
        };
        let over = Instant::now() + PAUSE > deadline;
        match seen {
            Seen::Reached => break (exit::OK, None),
            Seen::Hopeless(why) => break (exit::NOT_READY, Some(why)),
            Seen::NotYet(why) if over && timeout.is_zero() => break (exit::NOT_READY, Some(why)),
            Seen::NotYet(why) if over => break (exit::TIMEOUT, Some(after(timeout, &why))),
            Seen::NoDaemon(why) if over => break (exit::NOT_RUNNING, Some(why)),
            Seen::NotYet(why) | Seen::NoDaemon(why) if !told => {
                output.talk(&format!("waiting: {why}"));
                told = true;
            }
            Seen::NotYet(_) | Seen::NoDaemon(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    };
    tell(goal, code, why, output)?;
    Ok(code)
}

async fn look(client: &Client, goal: Goal) -> Result<Seen, Error> {
    let seen = match goal {
        Goal::Tunnel => client.status().await.map(|status| tunnel(&status)),
        Goal::Ready => client.readyz().await.map(|()| Seen::Reached),
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
        TunnelState::Disconnected | TunnelState::Connecting | TunnelState::Backoff | TunnelState::Unknown => {
            Seen::NotYet(why)
        }
    }
}

fn after(timeout: Duration, why: &str) -> String {
    format!("not reached within {} s: {why}", timeout.as_secs_f64())
}

fn tell(goal: Goal, code: u8, why: Option<String>, output: &Output) -> anyhow::Result<()> {
    let (name, reached) = match goal {
        Goal::Tunnel => ("tunnel", "the tunnel is up"),
        Goal::Ready => ("ready", "tunneld is ready"),
    };
    if output.wants_json() {
        output.json(json!({ "for": name, "reached": code == exit::OK, "reason": why }))?;
    } else if code == exit::OK {
        output.done(reached)?;
    }
    if let Some(why) = why {
        output.error(&why);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
}
