//! Having the daemon run.

use std::time::Duration;

use tokio::time::Instant;
use tunnel_client::{Client, Door, Error, exit};

use crate::commands::service::Unit;
use crate::output::Output;
use crate::refusal::Refusal;

/// Longest wait until a daemon that was started answers.
const UP_WITHIN: Duration = Duration::from_secs(10);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Returns a client of the daemon, and whether it had to be started.
pub(super) async fn running(client: &Client, output: &Output) -> anyhow::Result<(Client, bool)> {
    match client.livez().await {
        Ok(()) => Ok((client.clone(), false)),
        // Who names another door means a daemon that is not the unit's.
        Err(Error::NotRunning { .. }) if *client.door() == usual_door() => {
            Ok((start_unit(client, output).await?, true))
        }
        Err(error) => Err(error.into()),
    }
}

fn usual_door() -> Door {
    Door::find(|name| std::env::var_os(name))
}

async fn start_unit(client: &Client, output: &Output) -> anyhow::Result<Client> {
    let unit = match Unit::start()? {
        Ok(unit) => unit,
        Err(why) => {
            return Err(Refusal::new(exit::NOT_RUNNING, format!("tunneld does not run, and {why}")).into());
        }
    };
    output.talk("tunneld is being started");
    let deadline = Instant::now() + UP_WITHIN;
    loop {
        // The socket may only now be there.
        let client = client.at(usual_door())?;
        match client.livez().await {
            Ok(()) => return Ok(client),
            Err(Error::NotRunning { .. } | Error::Lost { .. } | Error::Timeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(why) = unit.failure()? {
            let sentence =
                format!("tunneld has ended as soon as it was started ({why}); look at: tunnelctl logs");
            return Err(Refusal::new(exit::NOT_RUNNING, sentence).into());
        }
        if Instant::now() >= deadline {
            let sentence = format!(
                "tunneld was started, but does not answer after {} s; look at: tunnelctl logs",
                UP_WITHIN.as_secs()
            );
            return Err(Refusal::new(exit::TIMEOUT, sentence).into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
