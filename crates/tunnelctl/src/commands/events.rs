//! `tunnelctl events`.

use std::time::Duration;

use serde_json::json;
use tunnel_api::{Event, Events, Severity};
use tunnel_client::{Client, Error, exit};

use crate::output::{Look, Output, clean};

/// Most events that the daemon answers at once.
const PAGE: usize = 1000;
/// Time between two looks when following.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn show(client: &Client, follow: bool, lines: u32, output: &Output) -> anyhow::Result<u8> {
    let lines = usize::try_from(lines)?;
    let newest = client.events(None, lines.clamp(1, PAGE)).await?;
    let first = if lines > PAGE { older(client, &newest, lines).await? } else { newest.clone() };
    let shown = &first.events[first.events.len().saturating_sub(lines)..];
    // One object for a program that asks once; lines for one that goes on reading.
    let in_lines = follow && (output.wants_json() || !output.is_terminal());
    if output.wants_json() && !follow {
        output.json(json!({ "events": shown, "timestamp": first.timestamp }))?;
        return Ok(exit::OK);
    }
    for event in shown {
        tell(event, in_lines, output)?;
    }
    if follow {
        let last = first.events.last().map(|event| event.id);
        self::follow(client, last, in_lines, output).await?;
    }
    Ok(exit::OK)
}

/// Returns the last `lines` events where they are more than one answer holds.
async fn older(client: &Client, newest: &Events, lines: usize) -> anyhow::Result<Events> {
    let mut all = newest.clone();
    let Some(last) = newest.events.last().map(|event| event.id) else { return Ok(all) };
    // Ids grow by one, so this is where the wanted ones begin; those that are gone leave fewer.
    let mut since = last.saturating_sub(u64::try_from(lines)?);
    all.events.clear();
    loop {
        let page = client.events(Some(since), PAGE).await?;
        let Some(end) = page.events.last().map(|event| event.id) else { return Ok(all) };
        let done = end <= since || page.events.len() < PAGE;
        since = end;
        all.events.extend(page.events);
        if done {
            return Ok(all);
        }
    }
}

/// Shows what happens from now on: each event once and in order, over restarts of the daemon too.
async fn follow(client: &Client, last: Option<u64>, in_lines: bool, output: &Output) -> anyhow::Result<()> {
    let mut last = last.unwrap_or(0);
    let mut away = false;
    loop {
        match client.events(Some(last), PAGE).await {
            Ok(page) => {
                away = false;
                let full = page.events.len() >= PAGE;
                for event in page.events {
                    if let Some(note) = gap(last, event.id) {
                        output.talk(&note);
                    }
                    last = event.id;
                    tell(&event, in_lines, output)?;
                }
                if full {
                    continue;
                }
            }
            Err(error) if !passes(&error) => return Err(error.into()),
            Err(error) => {
                if !away {
                    output.talk(&error.to_string());
                }
                away = true;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Says what lies between two events that should follow each other.
fn gap(last: u64, next: u64) -> Option<String> {
    if next <= last {
        return Some("the daemon has begun a new history".to_owned());
    }
    match next - last - 1 {
        _ if last == 0 => None,
        0 => None,
        1 => Some("one event is missing: it is no longer kept".to_owned()),
        n => Some(format!("{n} events are missing: they are no longer kept")),
    }
}

/// Tells whether the daemon may be back soon.
fn passes(error: &Error) -> bool {
    match error {
        Error::NotRunning { .. } | Error::Lost { .. } | Error::Timeout { .. } => true,
        // As it says while it stops or starts.
        Error::Refused(body) => body.status_code == 503,
        Error::NotAllowed { .. }
        | Error::NotTunneld { .. }
        | Error::NotReady(_)
        | Error::WaitOver(_)
        | Error::Setup(_) => false,
    }
}

fn tell(event: &Event, in_lines: bool, output: &Output) -> anyhow::Result<()> {
    if in_lines {
        output.json_line(serde_json::to_value(event)?)?;
    } else {
        output.answer(&line(event, output.look()))?;
    }
    Ok(())
}

/// Returns `2026-01-31 12:00:00Z  WARN   the tunnel is down`.
fn line(event: &Event, look: &Look) -> String {
    let at = event.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let severity = match event.severity {
        Severity::Error => look.bad("ERROR"),
        Severity::Warning => look.bold("WARN "),
        Severity::Info | Severity::Unknown => look.dim("INFO "),
    };
    format!("{}  {severity}  {}\n", look.dim(&at), clean(&event.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_one_line_whatever_it_says() {
        let event = Event {
            at: "2026-01-31T12:00:00.5Z".parse().unwrap(),
            severity: Severity::Warning,
            message: "the tunnel is down\n\x1b[2J".to_owned(),
            ..Event::default()
        };
        assert_eq!(line(&event, &Look::plain()), "2026-01-31 12:00:00Z  WARN   the tunnel is down??[2J\n");
    }

    #[test]
    fn what_is_missing_between_two_events_is_said() {
        assert_eq!(gap(7, 8), None);
        assert_eq!(gap(0, 8), None);
        assert!(gap(7, 9).unwrap().starts_with("one event"));
        assert!(gap(7, 11).unwrap().starts_with("3 events"));
        assert!(gap(7, 7).unwrap().contains("new history"));
        assert!(gap(7, 1).unwrap().contains("new history"));
    }
}
