//! `tunnelctl status`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tunnel_api::Status;
use tunnel_client::{Client, Error, exit};

use crate::output::Output;
use crate::output::screen::screen;

/// Time between two looks when watching.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn show(client: &Client, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json(client.status_json().await?)?;
    } else {
        output.answer(&screen(&client.status().await?, output.look(), Timestamp::now()))?;
    }
    Ok(exit::OK)
}

/// Shows each change: on a terminal by drawing anew, else as one line of JSON.
///
/// A daemon that goes away is waited for; one that was never there is an error.
pub(super) async fn watch(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let lines = output.wants_json() || !output.is_terminal();
    let mut shown: Option<Value> = None;
    let mut away = false;
    loop {
        match client.status_json().await {
            Ok(status) => {
                away = false;
                let news = without_clock(&status);
                if !lines {
                    // Drawn each time: it tells how long ago things were.
                    let status: Status = serde_json::from_value(status)?;
                    output.redraw(&screen(&status, output.look(), Timestamp::now()))?;
                } else if shown.as_ref() != Some(&news) {
                    output.json_line(status)?;
                }
                shown = Some(news);
            }
            Err(error) if shown.is_none() || !passes(&error) => return Err(error.into()),
            Err(error) => {
                if !away {
                    output.talk(&error.to_string());
                }
                away = true;
                // What it was before is no longer known to be so.
                shown = Some(Value::Null);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells whether the daemon may be back soon.
fn passes(error: &Error) -> bool {
    match error {
        Error::NotRunning { .. } | Error::Lost { .. } | Error::Timeout { .. } => true,
        Error::NotAllowed { .. }
        | Error::NotTunneld { .. }
        | Error::NotReady(_)
        | Error::WaitOver(_)
        | Error::Refused(_)
        | Error::Setup(_) => false,
    }
}

/// Returns the status without the time of the answer, which is always news.
fn without_clock(status: &Value) -> Value {
    let mut status = status.clone();
    if let Value::Object(fields) = &mut status {
        fields.remove("timestamp");
    }
    status
}
