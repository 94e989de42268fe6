//! `tunnelctl usage`.

mod csv;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::json;
use tunnel_api::usage::Since;
use tunnel_api::{Usage, UsageBy, UsageRow};
use tunnel_client::{Client, exit};

use crate::cli::By;
use crate::output::table::{Cell, Column, Table};
use crate::output::words::{bytes, seconds};
use crate::output::{Look, Output};
use crate::refusal::Refusal;

pub(super) async fn show(
    client: &Client,
    by: By,
    since: Option<&str>,
    csv: bool,
    output: &Output,
) -> anyhow::Result<u8> {
    let by = match by {
        By::Model => UsageBy::Model,
        By::Connection => UsageBy::Connection,
        By::Key => UsageBy::Key,
        By::Day => UsageBy::Day,
    };
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let since = since.map(|text| first_day(text, today)).transpose()?;
    let mut usage = client.usage(by, since).await?;
    if by == UsageBy::Key && !csv && !output.wants_json() {
        name_keys(client, &mut usage).await;
    }
    if csv {
        output.answer(&csv::lines(by, &usage.usage))?;
    } else if output.wants_json() {
        output.json(json!(usage))?;
    } else if usage.usage.is_empty() {
        output.talk(match since {
            Some(_) => "nothing was asked of the models since then",
            None => "nothing was asked of the models yet; for a first answer: tunnelctl connect curl",
        });
    } else {
        output.table(&table(by, &usage))?;
    }
    Ok(exit::OK)
}

/// Puts what keys are for beside their ids. Only a help to the reader: without the list, ids have to do.
async fn name_keys(client: &Client, usage: &mut Usage) {
    let Ok(keys) = client.keys().await else { return };
    for row in &mut usage.usage {
        let known = keys.keys.iter().find(|key| Some(&key.id) == row.key.as_ref());
        if let Some((key, name)) = known.and_then(|key| Some((key, key.name.as_ref()?))) {
            row.key = Some(format!("{name} ({})", key.id));
        }
    }
}

/// Reads a day, or a time back from today: `7d`, `2w`.
fn first_day(text: &str, today: Date) -> Result<Date, Refusal> {
    let back = |unit, days: i64| text.strip_suffix(unit)?.parse::<u32>().ok().map(|n| i64::from(n) * days);
    let day = match back("d", 1).or_else(|| back("w", 7)) {
        Some(days) => Span::new().try_days(days).and_then(|span| today.checked_sub(span)).ok(),
        None => text.parse::<Since>().ok().map(|since| since.0),
    };
    day.ok_or_else(|| {
        let sentence = "--since takes a day such as 2026-01-31, or a time back such as 7d or 2w";
        Refusal::new(exit::USAGE, sentence)
    })
}

/// Returns what a row is about; empty where there was none, such as a listing that needs no model.
fn name(by: UsageBy, row: &UsageRow) -> String {
    let name = match by {
        UsageBy::Model => row.model.clone(),
        UsageBy::Connection => row.connection.clone(),
        UsageBy::Key => row.key.clone(),
        UsageBy::Day => row.day.map(|day| day.to_string()),
    };
    name.unwrap_or_default()
}

fn table(by: UsageBy, usage: &Usage) -> Table {
    let mut table = Table::new(vec![
        Column::long(match by {
            UsageBy::Model => "MODEL",
            UsageBy::Connection => "CONNECTION",
            UsageBy::Key => "KEY",
            UsageBy::Day => "DAY",
        }),
        Column::number("REQUESTS"),
        Column::number("FAILED"),
        Column::number("TOKENS IN"),
        Column::number("TOKENS OUT"),
        Column::number("TOKENS/S"),
        Column::number("FIRST TOKEN").extra(),
        Column::number("CACHED").extra(),
        Column::number("LOADING").extra(),
        Column::number("RECEIVED").extra(),
        Column::number("SENT").extra(),
        Column::number("TIME").extra(),
    ]);
    for row in &usage.usage {
        let name = name(by, row);
        let first = if name.is_empty() { Cell::painted("(none)", Look::dim) } else { Cell::new(name) };
        table.row(cells(first, row));
    }
    if usage.usage.len() > 1 {
        table.row(cells(Cell::painted("total", Look::bold), &total(&usage.usage)));
    }
    table
}

fn cells(first: Cell, row: &UsageRow) -> Vec<Cell> {
    vec![
        first,
        Cell::new(row.requests.to_string()),
        Cell::new(row.failed.to_string()),
        Cell::new(row.prompt_tokens.to_string()),
        Cell::new(row.completion_tokens.to_string()),
        Cell::new(row.tokens_per_s().map_or_else(String::new, |speed| format!("{speed:.1}"))),
        Cell::new(row.mean_first_token_ms().map_or_else(String::new, |ms| format!("{ms} ms"))),
        Cell::new(some(row.cached_tokens, |n| n.to_string())),
        Cell::new(some(row.load_ms, |ms| seconds(ms.div_ceil(1000)))),
        Cell::new(bytes(row.bytes_in)),
        Cell::new(bytes(row.bytes_out)),
        Cell::new(seconds(row.duration_ms / 1000)),
    ]
}

/// Nothing where nothing was told.
fn some(n: u64, text: impl FnOnce(u64) -> String) -> String {
    if n == 0 { String::new() } else { text(n) }
}

fn total(rows: &[UsageRow]) -> UsageRow {
    let sum = |field: fn(&UsageRow) -> u64| rows.iter().map(field).fold(0, u64::saturating_add);
    UsageRow {
        requests: sum(|row| row.requests),
        failed: sum(|row| row.failed),
        prompt_tokens: sum(|row| row.prompt_tokens),
        completion_tokens: sum(|row| row.completion_tokens),
        bytes_in: sum(|row| row.bytes_in),
        bytes_out: sum(|row| row.bytes_out),
        duration_ms: sum(|row| row.duration_ms),
        cached_tokens: sum(|row| row.cached_tokens),
        streamed: sum(|row| row.streamed),
        first_token_ms: sum(|row| row.first_token_ms),
        load_ms: sum(|row| row.load_ms),
        prompt_ms: sum(|row| row.prompt_ms),
        generation_ms: sum(|row| row.generation_ms),
        ..UsageRow::default()
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn days_are_named_or_counted_back() {
        let day = |text| first_day(text, date(2026, 3, 1)).ok();
        assert_eq!(day("7d"), Some(date(2026, 2, 22)));
        assert_eq!(day("0d"), Some(date(2026, 3, 1)));
        assert_eq!(day("2w"), Some(date(2026, 2, 15)));
        assert_eq!(day("2026-01-31"), Some(date(2026, 1, 31)));
        assert_eq!(day("2026-01-31T23:30:00-02:00"), Some(date(2026, 2, 1)));
        for text in ["", "d", "7", "-7d", "7m", "1.5d", "4294967295w", "9999999d", "yesterday", "2026-02-30"]
        {
            assert_eq!(first_day(text, date(2026, 3, 1)).map_err(|r| r.code()), Err(exit::USAGE), "{text}");
        }
    }

    #[test]
    fn rows_are_summed_up_where_there_are_several() {
        let row = |model: &str, n| UsageRow {
            model: Some(model.to_owned()),
            requests: n,
            completion_tokens: 10 * n,
            bytes_in: 1500 * n,
            duration_ms: 61_000 * n,
            cached_tokens: 0,
            streamed: n,
            first_token_ms: 150 * n,
            load_ms: 900 * (n - 1),
            generation_ms: 4_000 * n,
            ..UsageRow::default()
        };
        let usage = Usage { usage: vec![row("a", 2), row("", 1)], ..Usage::default() };
        let text = table(UsageBy::Model, &usage).text(&Look::plain(), None);
        assert_eq!(
            text,
            "\
MODEL   REQUESTS  FAILED  TOKENS IN  TOKENS OUT  TOKENS/S  FIRST TOKEN  CACHED  LOADING  RECEIVED  SENT       TIME
a              2       0          0          20       2.5       150 ms              1 s    3.0 kB   0 B  2 min 2 s
(none)         1       0          0          10       2.5       150 ms                     1.5 kB   0 B  1 min 1 s
total          3       0          0          30       2.5       150 ms              1 s    4.5 kB   0 B  3 min 3 s
"
        );
        let one = Usage { usage: vec![row("a", 2)], ..Usage::default() };
        assert!(!table(UsageBy::Model, &one).text(&Look::plain(), None).contains("total"));
    }
}
