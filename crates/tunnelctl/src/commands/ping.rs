//! `tunnelctl ping`: how long each hop takes, from here to the daemon and from there onwards.

mod summary;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tunnel_api::connection::{CLOUD_ID, ConnectionTest};
use tunnel_client::{Client, Error, exit};

use self::summary::Summary;
use crate::output::Output;

/// Time between the beginnings of two rounds.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for one hop.
const HOP_LIMIT: Duration = Duration::from_secs(10);
/// What the hop to the daemon is called.
const DAEMON: &str = "daemon";
/// What the hop to the relay is called here; its connection is [`CLOUD_ID`].
const RELAY: &str = "relay";
/// The hops whose names no connection should have.
pub(super) const HOPS: [&str; 2] = [DAEMON, RELAY];

/// A way that is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hop {
    /// From here to the daemon.
    Daemon,
    /// From the daemon to the relay.
    Relay,
    /// From the daemon to this model server.
    Connection(String),
}

/// How a hop went.
#[derive(Clone, Debug, PartialEq)]
enum Echo {
    /// It took so many milliseconds; an older daemon does not tell how many.
    Back(Option<f64>),
    Lost(String),
}

pub(super) async fn ping(
    client: &Client,
    target: Option<&str>,
    count: u32,
    output: &Output,
) -> anyhow::Result<u8> {
    let listed = client.connections().await?;
    let ids: Vec<String> = listed.connections.into_iter().map(|report| report.connection.id).collect();
    let hops = match choose(target, &ids) {
        Ok(hops) => hops,
        Err(why) => {
            output.error(&why);
            return Ok(exit::NOT_FOUND);
        }
    };
    let mut summary = Summary::new(&hops);
    for round in 1..=count {
        let began = Instant::now();
        tokio::select! {
            measured = measure(client, &hops, round, output) => summary.add(measured?),
            // Whoever ends it early wants to see what there is.
            interrupted = tokio::signal::ctrl_c() => { interrupted?; break }
        }
        if round < count {
            tokio::select! {
                () = tokio::time::sleep_until(began + PAUSE) => {}
                interrupted = tokio::signal::ctrl_c() => { interrupted?; break }
            }
        }
    }
    if output.wants_json() {
        output.json_line(summary.json())?;
    } else {
        output.answer("\n")?;
        output.table(&summary.table())?;
    }
    Ok(if summary.lost() == 0 { exit::OK } else { exit::NOT_READY })
}

/// Returns the hops to the target; the way to the daemon is part of each.
fn choose(target: Option<&str>, ids: &[String]) -> Result<Vec<Hop>, String> {
    let hop = |id: &str| if id == CLOUD_ID { Hop::Relay } else { Hop::Connection(id.to_owned()) };
    let there = |id: &str| ids.iter().any(|known| known == id);
    let beyond = match target {
        None => ids.iter().map(|id| hop(id)).collect(),
        Some(id) if there(id) => vec![hop(id)],
        Some(RELAY) if there(CLOUD_ID) => vec![Hop::Relay],
        Some(RELAY | CLOUD_ID) => {
            return Err(
                "the tunnel is switched off; switch it on with: tunnelctl config set enableCloudProxy true"
                    .to_owned(),
            );
        }
        Some(id) => {
            return Err(format!("there is no connection {id}; list them with: tunnelctl connections list"));
        }
    };
    Ok(std::iter::once(Hop::Daemon).chain(beyond).collect())
}

/// Measures each hop once, one after the other so that none slows another, and writes a line.
async fn measure(client: &Client, hops: &[Hop], round: u32, output: &Output) -> anyhow::Result<Vec<Echo>> {
    let mut echoes = Vec::new();
    for hop in hops {
        let echo = tokio::time::timeout(HOP_LIMIT, send(client, hop)).await;
        echoes
            .push(echo.unwrap_or_else(|_| Echo::Lost(format!("no answer within {} s", HOP_LIMIT.as_secs()))));
    }
    if output.wants_json() {
        let hops: Vec<Value> = hops.iter().zip(&echoes).map(|(hop, echo)| echo_json(hop, echo)).collect();
        output.json_line(json!({ "round": round, "hops": hops }))?;
    } else {
        let parts: Vec<String> =
            hops.iter().zip(&echoes).map(|(hop, echo)| format!("{} {}", hop.name(), echo.text())).collect();
        output.answer(&format!("{round:>3}  {}\n", crate::output::clean(&parts.join("  "))))?;
    }
    Ok(echoes)
}

async fn send(client: &Client, hop: &Hop) -> Echo {
    let tested = match hop {
        Hop::Daemon => {
            let began = Instant::now();
            return match client.livez().await {
                Ok(()) => Echo::Back(Some(began.elapsed().as_secs_f64() * 1e3)),
                Err(error) => Echo::Lost(error.to_string()),
            };
        }
        Hop::Relay => client.test_connection(CLOUD_ID).await,
        Hop::Connection(id) => client.test_connection(id).await,
    };
    judge(tested)
}

fn judge(tested: Result<ConnectionTest, Error>) -> Echo {
    match tested {
        Ok(test) if test.ok => Echo::Back(test.connection.connection.latency),
        Ok(test) if test.message.is_empty() => Echo::Lost("it does not answer".to_owned()),
        Ok(test) => Echo::Lost(test.message),
        Err(error) => Echo::Lost(error.to_string()),
    }
}

fn echo_json(hop: &Hop, echo: &Echo) -> Value {
    match echo {
        Echo::Back(ms) => json!({ "hop": hop.name(), "kind": hop.kind(), "ok": true, "ms": ms }),
        Echo::Lost(why) => {
            json!({ "hop": hop.name(), "kind": hop.kind(), "ok": false, "error": why })
        }
    }
}

impl Hop {
    fn name(&self) -> String {
        match self {
            Self::Daemon => DAEMON.to_owned(),
            Self::Relay => RELAY.to_owned(),
            Self::Connection(id) => id.clone(),
        }
    }

    /// Returns what it is, since a connection may be called as another hop is.
    fn kind(&self) -> &'static str {
        match self {
            Self::Daemon => DAEMON,
            Self::Relay => RELAY,
            Self::Connection(_) => "connection",
        }
    }
}

impl Echo {
    fn text(&self) -> String {
        match self {
            Self::Back(Some(ms)) => milliseconds(*ms),
            Self::Back(None) => "answered".to_owned(),
            Self::Lost(why) => format!("failed: {why}"),
        }
    }
}

fn milliseconds(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use tunnel_api::{Connection, ConnectionReport};

    use super::*;

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn target_chooses_the_hops() {
        let all = ids(&["cloud", "ollama"]);
        let ollama = || Hop::Connection("ollama".to_owned());
        assert_eq!(choose(None, &all), Ok(vec![Hop::Daemon, Hop::Relay, ollama()]));
        assert_eq!(choose(Some("relay"), &all), Ok(vec![Hop::Daemon, Hop::Relay]));
        assert_eq!(choose(Some("cloud"), &all), Ok(vec![Hop::Daemon, Hop::Relay]));
        assert_eq!(choose(Some("ollama"), &all), Ok(vec![Hop::Daemon, ollama()]));
        assert!(choose(Some("nope"), &all).unwrap_err().contains("connections list"));
        assert!(choose(Some("relay"), &ids(&["ollama"])).unwrap_err().contains("enableCloudProxy"));
        // A server may be called so, too.
        let odd = ids(&["relay"]);
        let hops = choose(Some("relay"), &odd).unwrap();
        assert_eq!(hops, [Hop::Daemon, Hop::Connection("relay".to_owned())]);
        let echo = echo_json(&hops[1], &Echo::Back(None));
        assert_eq!((&echo["hop"], &echo["kind"]), (&json!("relay"), &json!("connection")));
    }

    #[test]
    fn test_that_fails_says_why() {
        let connection = Connection { latency: Some(3.0), ..Connection::default() };
        let connection = ConnectionReport { connection, ..ConnectionReport::default() };
        let test = |ok, message: &str| ConnectionTest {
            ok,
            message: message.to_owned(),
            connection: connection.clone(),
            ..ConnectionTest::default()
        };
        assert_eq!(judge(Ok(test(true, "Connected"))), Echo::Back(Some(3.0)));
        // The latency of one that is down is an old one.
        assert_eq!(judge(Ok(test(false, "Error: refused"))), Echo::Lost("Error: refused".to_owned()));
    }
}
