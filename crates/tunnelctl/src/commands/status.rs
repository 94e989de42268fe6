//! `tunnelctl status`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;
use tunnel_api::Status;
use tunnel_client::{Client, Error, Update, exit};

use crate::output::screen::{lost, screen};
use crate::output::{Beat, Look, Output, Pace};

/// Least time between two drawings: more a second than this nobody can read.
const LEAST: Duration = Duration::from_millis(50);

pub(super) async fn show(client: &Client, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() {
        output.json(client.status_json().await?)?;
    } else {
        output.screen(&screen(&client.status().await?, output.look(), Timestamp::now()))?;
    }
    Ok(exit::OK)
}

/// Shows each change: on a terminal by drawing anew, else as one line of JSON.
///
/// A daemon that goes away is waited for; one that was never there is an error.
pub(super) async fn watch(client: &Client, output: &Output) -> anyhow::Result<u8> {
    if output.wants_json() || !output.is_terminal() {
        lines(client, output).await
    } else {
        draw(client, output).await
    }
}

async fn lines(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let mut watch = client.watch();
    let mut shown: Option<Value> = None;
    loop {
        match watch.next().await {
            // Asked for as it is, with what a newer daemon adds.
            Update::Status(_) => match client.status_json().await {
                Ok(status) => {
                    let news = without_clock(&status);
                    if shown.as_ref() != Some(&news) {
                        output.json_line(status)?;
                        shown = Some(news);
                    }
                }
                // The watch tells it, too.
                Err(error) if passes(&error) => {}
                Err(error) => return Err(error.into()),
            },
            Update::Lost(error) if shown.is_none() || !passes(&error) => return Err(error.into()),
            Update::Lost(error) => {
                output.talk(&error.to_string());
                // What it was before is no longer known to be so.
                shown = Some(Value::Null);
            }
            Update::Models(_)
            | Update::Metrics(_)
            | Update::Event(_)
            | Update::Warning(_)
            | Update::Call(_)
            | Update::Answer(_) => {}
        }
    }
}

/// What is on the screen.
#[derive(Debug)]
enum Shown {
    Status(Box<Status>),
    Lost { error: Error, since: Timestamp },
}

impl Shown {
    fn text(&self, look: &Look, now: Timestamp) -> String {
        match self {
            Self::Status(status) => screen(status, look, now),
            Self::Lost { error, since } => lost(error, *since, look, now),
        }
    }
}

async fn draw(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let mut watch = client.watch();
    let mut pace = Pace::new()?;
    let mut drawing = output.drawing();
    let mut shown: Option<Shown> = None;
    let mut drawn = Instant::now();
    let mut due = false;
    loop {
        tokio::select! {
            update = watch.next() => match update {
                Update::Status(status) => {
                    shown = Some(Shown::Status(status));
                    due = true;
                }
                Update::Lost(error) if shown.is_none() || !passes(&error) => return Err(error.into()),
                Update::Lost(error) => {
                    shown = Some(Shown::Lost { error, since: Timestamp::now() });
                    due = true;
                }
                Update::Models(_)
                | Update::Metrics(_)
                | Update::Event(_)
                | Update::Warning(_)
                | Update::Call(_)
                | Update::Answer(_) => {}
            },
            beat = pace.next(&mut drawing) => match beat? {
                Beat::End(code) => return Ok(code),
                Beat::Draw => due = true,
            },
            () = tokio::time::sleep_until(drawn + LEAST), if due => {
                if let Some(shown) = &shown {
                    let text = shown.text(output.look(), Timestamp::now());
                    drawing.draw(&text, &shown.text(output.look(), Timestamp::UNIX_EPOCH))?;
                }
                (drawn, due) = (Instant::now(), false);
            }
        }
    }
}

/// Tells whether the daemon may be back soon.
pub(super) fn passes(error: &Error) -> bool {
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
