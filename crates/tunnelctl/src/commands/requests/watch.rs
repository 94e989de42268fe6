//! `tunnelctl requests list -w`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tunnel_api::Requests;
use tunnel_client::{Client, Error};

use super::show::{Rates, json, table};
use crate::commands::status::passes;
use crate::output::screen::lost;
use crate::output::{Beat, Look, Output, Pace};

/// Time between two looks where nothing is drawn. The daemon does not tell requests by itself: they change with each
/// token.
const PAUSE: Duration = Duration::from_secs(1);

/// Shows the requests each second: on a terminal by drawing anew, else as one line of JSON when there is news.
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
    let mut rates = Rates::default();
    let mut shown: Option<Value> = None;
    loop {
        match client.requests().await {
            Ok(requests) => {
                let news = serde_json::to_value(&requests.requests)?;
                if shown.as_ref() != Some(&news) {
                    output.json_line(json(&requests, &rates))?;
                    shown = Some(news);
                }
                rates.remember(&requests);
            }
            Err(error) if shown.is_none() || !passes(&error) => return Err(error.into()),
            Err(error) => {
                if shown != Some(Value::Null) {
                    output.talk(&error.to_string());
                }
                // What it was before is no longer known to be so.
                shown = Some(Value::Null);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn draw(client: &Client, output: &Output) -> anyhow::Result<u8> {
    let mut pace = Pace::new()?;
    let mut drawing = output.drawing();
    let mut rates = Rates::default();
    let mut seen = false;
    let mut away: Option<(Error, Timestamp)> = None;
    loop {
        // Each beat comes at the latest after a second, and also when the terminal has changed.
        if let Beat::End(code) = pace.next(&mut drawing).await? {
            return Ok(code);
        }
        let asked = tokio::select! {
            asked = client.requests() => asked,
            // The daemon may be silent for as long as an answer may take; the user need not wait for that.
            code = pace.end() => return Ok(code),
        };
        let look = output.look();
        let now = Timestamp::now();
        match asked {
            Ok(requests) => {
                (seen, away) = (true, None);
                let text = screen(&requests, &rates, look);
                drawing.draw(&text, &text)?;
                rates.remember(&requests);
            }
            Err(error) if !seen || !passes(&error) => return Err(error.into()),
            Err(error) => {
                let (error, since) = away.get_or_insert((error, now));
                drawing.draw(&lost(error, *since, look, now), &lost(error, *since, look, *since))?;
            }
        }
    }
}

fn screen(requests: &Requests, rates: &Rates, look: &Look) -> String {
    if requests.requests.is_empty() {
        return "no request runs at the moment\n".to_owned();
    }
    let width = terminal_size::terminal_size().map(|(width, _)| width.0.into());
    table(requests, rates, true).text(look, width)
}
