//! `tunnelctl connections test`.

use serde_json::json;
use tokio::task::JoinSet;
use tunnel_api::Status;
use tunnel_api::connection::{CLOUD_ID, ConnectionTest};
use tunnel_api::tunnel::Target;
use tunnel_api::warning::NO_TOKEN;
use tunnel_client::{Client, Error, exit};

use super::entries::{ids, unknown};
use super::list::{Use, listed};
use crate::output::table::{Cell, Column, Table};
use crate::output::words::{connection_mark, milliseconds};
use crate::output::{Mark, Output};
use crate::refusal::Refusal;

/// Most connections that are asked at the same time.
const AT_ONCE: usize = 8;

/// Asks one connection. Exit code 4 when it does not answer.
pub(super) async fn one(client: &Client, id: &str, output: &Output) -> anyhow::Result<u8> {
    let test = match client.test_connection(id).await {
        Ok(test) => test,
        Err(Error::Refused(body)) if body.status_code == 404 => {
            return Err(missing(client, id).await?.into());
        }
        Err(error) => return Err(error.into()),
    };
    tell(&[test], None, output)
}

/// Asks all connections. Exit code 4 when one does not answer.
pub(super) async fn all(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let status = client.status().await?;
    let idle = idle_cloud(&status);
    let wanted = status.connections.keys().filter(|id| idle.is_none() || *id != CLOUD_ID).cloned();
    let mut waiting: Vec<(usize, String)> = wanted.enumerate().collect();
    waiting.reverse();
    let mut tests: Vec<Option<ConnectionTest>> = vec![None; waiting.len()];
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE
            && let Some((at, id)) = waiting.pop()
        {
            let client = client.clone();
            running.spawn(async move { (at, client.test_connection(&id).await) });
        }
        let Some(done) = running.join_next().await else { break };
        match done? {
            (at, Ok(test)) => tests[at] = Some(test),
            // It was taken out of the configuration meanwhile.
            (_, Err(error)) if error.exit_code() == exit::NOT_FOUND => {}
            (_, Err(error)) => return Err(error.into()),
        }
    }
    let tests: Vec<ConnectionTest> = tests.into_iter().flatten().collect();
    if tests.is_empty() && !output.wants_json() {
        output.talk("there is no model server to ask; to look for one: tunnelctl connections detect");
    }
    tell(&tests, idle, output)
}

/// Returns why the cloud is down on purpose, so that it is no failure.
pub(in crate::commands) fn idle_cloud(status: &Status) -> Option<&'static str> {
    let tunnel = &status.tunnel;
    // Before it has looked around, a daemon that starts tells neither.
    if tunnel.target == Target::Down && tunnel.relay.is_none() {
        Some("the tunnel is switched off; to use it: tunnelctl connections enable cloud")
    } else if status.warnings.iter().any(|warning| warning.code == NO_TOKEN) {
        Some(
            "the tunnel has no token, which is optional; to log in: tunnelctl login, or with a token: tunnelctl login \
             --token-stdin",
        )
    } else if tunnel.target == Target::Down {
        Some("the tunnel is stopped; to open it: tunnelctl start")
    } else {
        None
    }
}

fn tell(tests: &[ConnectionTest], idle: Option<&str>, output: &Output) -> anyhow::Result<u8> {
    let ok = tests.iter().all(|test| test.ok);
    if output.wants_json() {
        output.json(json!({ "ok": ok, "tests": tests }))?;
    } else if !tests.is_empty() {
        output.table(&table(tests))?;
    }
    if let Some(idle) = idle {
        output.talk(idle);
    }
    Ok(if ok { exit::OK } else { exit::NOT_READY })
}

fn table(tests: &[ConnectionTest]) -> Table {
    let mut table = Table::new(vec![
        Column::text(""),
        Column::long("ID"),
        Column::number("LATENCY").extra(),
        Column::text("VERSION").extra(),
        Column::long("RESULT"),
    ]);
    for test in tests {
        let connection = &test.connection.connection;
        let mark = if test.ok { connection_mark(connection) } else { Mark::Fail };
        table.row(vec![
            Cell::mark(mark),
            Cell::new(&connection.id),
            Cell::new(connection.latency.filter(|_| test.ok).map_or_else(String::new, milliseconds)),
            Cell::new(connection.version.as_deref().unwrap_or_default()),
            Cell::new(&test.message),
        ]);
    }
    table
}

/// Returns why the daemon does not know a connection: it is not used, or not there.
async fn missing(client: &Client, id: &str) -> Result<Refusal, Error> {
    let (connections, config) = tokio::try_join!(client.connections(), client.config())?;
    if !ids(&config).iter().any(|known| known == id) {
        return Ok(unknown(id, &config));
    }
    let listed = listed(&connections, &config);
    let use_ = listed.iter().find(|listed| listed.id() == id).map(|listed| listed.use_);
    Ok(match use_ {
        Some(Use::NotServed) => Refusal::new(
            exit::NOT_READY,
            format!("{id} is of a type that this version of tunneld does not serve"),
        ),
        _ => Refusal::new(
            exit::NOT_READY,
            format!("{id} is switched off; to use it: tunnelctl connections enable {id}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use tunnel_api::{Tunnel, Warning};

    use super::*;
    use crate::output::Look;

    #[test]
    fn cloud_that_is_down_on_purpose_is_no_failure() {
        let relay = Some("https://r".to_owned());
        let tunnel = Tunnel { target: Target::Up, relay, ..Tunnel::default() };
        let mut status = Status { tunnel, ..Status::default() };
        assert_eq!(idle_cloud(&status), None);
        status.tunnel.target = Target::Down;
        assert!(idle_cloud(&status).unwrap().contains("stopped"));
        status.warnings = vec![Warning::new(NO_TOKEN, "m", "n")];
        assert!(idle_cloud(&status).unwrap().contains("tunnelctl login"));
        status.tunnel.relay = None;
        assert!(idle_cloud(&status).unwrap().contains("enable cloud"));
    }

    #[test]
    fn results_stand_in_a_table() {
        let mut down =
            ConnectionTest { message: "Disconnected: refused".to_owned(), ..ConnectionTest::default() };
        down.connection.connection.id = "lab".to_owned();
        assert_eq!(
            table(&[down]).text(&Look::plain(), None),
            "      ID   LATENCY  VERSION  RESULT\nFAIL  lab                    Disconnected: refused\n"
        );
    }
}
