//! `tunnelctl start`: from nothing to a first answer, as far as it can go by itself.

mod daemon;
mod look_around;
mod told;

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tunnel_api::{Status, StoredIn, TunnelState};
use tunnel_client::{Client, Error, exit};

use self::look_around::has_server;
use self::told::{Told, Tunnel};
use crate::output::Output;

/// What the daemon answers to an order when the tunnel is switched off in the configuration.
const SWITCHED_OFF: &str = "cloud_proxy_disabled";
/// How long a dial may take before it is told as under way.
const DIAL: Duration = Duration::from_secs(2);
/// Time between two looks at the dial.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the daemon where it does not run, adds the model servers that it finds where none is configured, and opens
/// the tunnel.
///
/// A tunnel that is switched off or has no token is no failure: the gateway works without. With `wait` the tunnel was
/// plainly wanted, and then it is one.
pub(in crate::commands) async fn start(
    client: &Client,
    wait: Option<Duration>,
    output: &Output,
) -> anyhow::Result<u8> {
    let (client, started) = daemon::running(client, output).await?;
    let found = look_around::look_around(&client, output).await?;
    let tunnel = open(&client, wait).await?;
    let (connections, config, status) =
        tokio::try_join!(client.connections(), client.config(), client.status())?;
    let gateway = told::Gateway::find(&config, &status);
    let told = Told { started, found, tunnel, connections, gateway };
    if output.wants_json() {
        output.json(told.json())?;
    } else {
        output.report(&told.text(output.look()))?;
        if output.is_quiet() && !has_server(&told.connections) {
            output.error("no model server is connected; see: tunnelctl connections list");
        }
    }
    Ok(exit::OK)
}

async fn open(client: &Client, wait: Option<Duration>) -> Result<Tunnel, Error> {
    let answer = match client.start(wait).await {
        Ok(answer) => answer,
        Err(Error::Refused(body)) if body.code == SWITCHED_OFF && wait.is_none() => {
            return Ok(Tunnel::SwitchedOff);
        }
        Err(error) => return Err(error),
    };
    // Asked here, since the warning that tells the same may be a moment behind.
    if client.auth().await?.stored_in == StoredIn::None {
        return Ok(Tunnel::NoToken { message: answer.message });
    }
    let status = dialled(client).await?;
    Ok(Tunnel::Ordered { message: answer.message, status: Box::new(status) })
}

/// Waits a moment for the dial, so that who reads the answer need not ask again.
async fn dialled(client: &Client) -> Result<Status, Error> {
    let deadline = Instant::now() + DIAL;
    loop {
        let status = client.status().await?;
        let under_way = matches!(status.tunnel.state, TunnelState::Connecting | TunnelState::Disconnected);
        if !under_way || Instant::now() >= deadline {
            return Ok(status);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns a key of the configuration, null where a daemon has none of that name.
fn key<'a>(config: &'a serde_json::Map<String, Value>, key: &str) -> &'a Value {
    config.get(key).unwrap_or(&Value::Null)
}
