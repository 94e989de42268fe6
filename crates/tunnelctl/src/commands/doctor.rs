//! `tunnelctl doctor`: what is wrong, and what to do about it.
//!
//! The daemon looks at what only it can see; the rest is looked at from here, without a daemon too.

mod config;
mod daemon;
mod disk;
mod finding;
mod ports;
mod report;
mod servers;
mod tray;
mod unit;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde_json::json;
use tunnel_api::{Check, Verdict};
use tunnel_client::{Client, exit};

use self::daemon::Reach;
use self::finding::Finding;
use crate::output::Output;

/// Longest wait for what the daemon finds. Together with [`CHECK_LIMIT`] it stays below 20 s.
const DIAGNOSIS_LIMIT: Duration = Duration::from_secs(14);
/// Longest wait for each other check.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn doctor(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let terminal = io::stderr().is_terminal();
    let progress = |what: &str| {
        if terminal {
            output.talk(&format!("looking at {what}{}", output.look().more()));
        }
    };
    let checks = examine(client, progress).await;
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Fail).count();
    if output.wants_json() {
        output.json(json!({ "checks": checks, "failed": failed }))?;
    } else {
        output.answer(&report::text(&checks, output.look()))?;
    }
    Ok(if failed == 0 { exit::OK } else { exit::NOT_READY })
}

/// Makes all checks, in no particular order. `progress` is told what is looked at.
pub(super) async fn examine(client: &Client, progress: impl Fn(&str)) -> Vec<Check> {
    progress("the daemon, its unit and the desktop");
    let (mut checks, unit, tray) = tokio::join!(
        daemon_and_beyond(client, &progress),
        unit::checks(),
        limited("tray_host", "tray host", tray::host()),
    );
    checks.extend(unit);
    checks.push(tray);
    checks
}

/// Asks the daemon; what it cannot tell is looked at from here.
async fn daemon_and_beyond(client: &Client, progress: &impl Fn(&str)) -> Vec<Check> {
    let (daemon, reach) = daemon::reach(client).await;
    let mut checks = vec![daemon];
    match reach {
        Reach::Answers => {
            progress("the model servers and the relay");
            checks.extend(daemon::diagnosis(client, DIAGNOSIS_LIMIT).await);
        }
        Reach::Silent | Reach::Not => {
            progress("what the daemon would need");
            checks.extend(without_daemon(reach).await);
        }
    }
    checks
}

async fn without_daemon(reach: Reach) -> Vec<Check> {
    let (file, config) = blocking(config::look).await.unwrap_or_default();
    let opened = ports::Opened::of(&config);
    let (ports, servers, disk) =
        tokio::join!(
            limited("ports", "ports", async move {
                blocking(move || opened.look(reach)).await.unwrap_or_default()
            }),
            servers::checks(&config),
            limited("disk", "disk", async { blocking(disk::look).await.unwrap_or_default() }),
        );
    let relay = Finding::skip("the daemon looks at the way to the relay, and does not answer");
    let mut checks = vec![file.check("config", "configuration"), ports, disk];
    checks.extend(servers);
    checks.push(relay.check("relay", "relay"));
    checks
}

/// Waits for a finding, at most for [`CHECK_LIMIT`].
async fn limited(id: &str, title: &str, finding: impl Future<Output = Finding>) -> Check {
    let found = tokio::time::timeout(CHECK_LIMIT, finding).await.unwrap_or_default();
    found.check(id, title)
}

/// Does what may take its time, such as reading from a network's disk, elsewhere. None when it takes too long.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(CHECK_LIMIT, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}
