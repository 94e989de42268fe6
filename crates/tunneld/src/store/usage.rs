//! Usage by day, model, connection and key: aggregated in memory, added up in the database.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use jiff::civil::Date;
use jiff::{Span, Timestamp, tz::TimeZone};
use sqlx::{Row, SqliteConnection};
use tunnel_api::{UsageBy, UsageRow};

use super::counts::Counts;

/// Rows of one answer. A catalogue of models is far smaller; two years of days fit too.
const ANSWER_ROWS: usize = 1000;

/// One LLM request that ended.
///
/// The names come from the configuration and from what model servers list, never from a caller: what no backend has
/// is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestRecord {
    /// When it ended; its day in UTC is the one it counts for.
    pub(crate) at: Timestamp,
    pub(crate) model: Option<String>,
    /// Id of the connection that answered.
    pub(crate) connection: Option<String>,
    /// Whose it was: `local`, `tunnel`, or the id of a key.
    pub(crate) key: Cow<'static, str>,
    pub(crate) ok: bool,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    pub(crate) work: Work,
}

/// What is known of how a request was worked on, beyond its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Of the prompt's tokens, those that the server had in its cache.
    pub(crate) cached_tokens: u64,
    /// None for answers that were not streamed.
    pub(crate) first_token: Option<Duration>,
    /// As the server told; zero where it did not.
    pub(crate) loading: Duration,
    pub(crate) prompting: Duration,
    /// As the server told, else as it was measured.
    pub(crate) generating: Duration,
}

impl RequestRecord {
    /// Most tokens that are believed of one request. Model servers tell the numbers, and a sum of absurd ones would
    /// not fit the database.
    const MAX_TOKENS: u64 = u32::MAX as u64;

    fn counts(&self) -> Counts {
        Counts {
            requests: 1,
            failed: u64::from(!self.ok),
            prompt_tokens: self.prompt_tokens.min(Self::MAX_TOKENS),
            completion_tokens: self.completion_tokens.min(Self::MAX_TOKENS),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration_ms: u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
            cached_tokens: self.work.cached_tokens.min(Self::MAX_TOKENS),
            streamed: u64::from(self.work.first_token.is_some()),
            first_token_us: microseconds(self.work.first_token.unwrap_or_default()),
            load_us: microseconds(self.work.loading),
            prompt_us: microseconds(self.work.prompting),
            generation_us: microseconds(self.work.generating),
        }
    }
}

/// Model servers tell some of these: a day of one request is believed, and a sum of such fits the database.
fn microseconds(took: Duration) -> u64 {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    u64::try_from(took.min(LONGEST).as_micros()).unwrap_or(u64::MAX)
}

/// What requests are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    day: Date,
    model: String,
    connection: String,
    key: Cow<'static, str>,
}

/// Sums of requests, by [`Key`].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct UsageTable {
    rows: HashMap<Key, Counts>,
}

impl UsageTable {
    /// Adds one request. Refuses what would need another row than the `max_rows` that may be there.
    pub(super) fn add(&mut self, record: RequestRecord, max_rows: usize) -> Result<(), Full> {
        let counts = record.counts();
        let key = Key {
            day: day(record.at),
            model: record.model.unwrap_or_default(),
            connection: record.connection.unwrap_or_default(),
            key: record.key,
        };
        self.add_counts(key, counts, max_rows)
    }

    /// Adds another table; returns how many requests did not fit into `max_rows`.
    pub(super) fn merge(&mut self, other: Self, max_rows: usize) -> u64 {
        let refused = |(key, counts): (Key, Counts)| match self.add_counts(key, counts, max_rows) {
            Ok(()) => 0,
            Err(Full) => counts.requests,
        };
        other.rows.into_iter().map(refused).sum()
    }

    fn add_counts(&mut self, key: Key, counts: Counts, max_rows: usize) -> Result<(), Full> {
        let full = self.rows.len() >= max_rows;
        match self.rows.entry(key) {
            Entry::Occupied(mut row) => *row.get_mut() += counts,
            Entry::Vacant(_) if full => return Err(Full),
            Entry::Vacant(row) => {
                row.insert(counts);
            }
        }
        Ok(())
    }

    pub(super) fn n_rows(&self) -> usize {
        self.rows.len()
    }

    /// Returns the sum of all rows.
    pub(super) fn sum(&self) -> Counts {
        self.rows.values().fold(Counts::default(), |mut sum, counts| {
            sum += *counts;
            sum
        })
    }

    /// Answers what [`query`] answers, from memory.
    pub(super) fn answer(&self, by: UsageBy, since: Option<Date>) -> Vec<UsageRow> {
        let mut sums: HashMap<Cow<'_, str>, Counts> = HashMap::new();
        for (key, counts) in self.rows.iter().filter(|(key, _)| since.is_none_or(|since| key.day >= since)) {
            let name = match by {
                UsageBy::Model => Cow::Borrowed(key.model.as_str()),
                UsageBy::Connection => Cow::Borrowed(key.connection.as_str()),
                UsageBy::Key => Cow::Borrowed(key.key.as_ref()),
                UsageBy::Day => Cow::Owned(key.day.to_string()),
            };
            *sums.entry(name).or_default() += *counts;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        match by {
            UsageBy::Day => sums.sort_unstable_by(|(a, _), (b, _)| a.cmp(b)),
            UsageBy::Model | UsageBy::Connection | UsageBy::Key => {
                sums.sort_unstable_by(|(a, x), (b, y)| y.requests.cmp(&x.requests).then_with(|| a.cmp(b)));
            }
        }
        sums.truncate(ANSWER_ROWS);
        sums.into_iter().map(|(name, counts)| row(by, name.into_owned(), counts)).collect()
    }
}

/// There is no room for another row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The day in UTC.
pub(super) fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// The oldest day that is kept on the day of `now`.
pub(super) fn oldest_day(now: Timestamp) -> Date {
    // 400: a year, and enough to compare a month with the same one a year before.
    day(now).saturating_sub(Span::new().days(400))
}

/// Adds the rows to those of the database, and removes the days before `oldest`.
pub(super) async fn add(
    connection: &mut SqliteConnection,
    table: &UsageTable,
    oldest: Date,
) -> Result<(), sqlx::Error> {
    for (key, counts) in &table.rows {
        let mut upsert = sqlx::query(
            "INSERT INTO usage (day, model, connection, key, requests, failed, prompt_tokens, completion_tokens,
                                bytes_in, bytes_out, duration_ms, cached_tokens, streamed, first_token_us,
                                load_us, prompt_us, generation_us)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (day, model, connection, key) DO UPDATE SET
                 requests = requests + excluded.requests,
                 failed = failed + excluded.failed,
                 prompt_tokens = prompt_tokens + excluded.prompt_tokens,
                 completion_tokens = completion_tokens + excluded.completion_tokens,
                 bytes_in = bytes_in + excluded.bytes_in,
                 bytes_out = bytes_out + excluded.bytes_out,
                 duration_ms = duration_ms + excluded.duration_ms,
                 cached_tokens = cached_tokens + excluded.cached_tokens,
                 streamed = streamed + excluded.streamed,
                 first_token_us = first_token_us + excluded.first_token_us,
                 load_us = load_us + excluded.load_us,
                 prompt_us = prompt_us + excluded.prompt_us,
                 generation_us = generation_us + excluded.generation_us",
        )
        .bind(key.day.to_string())
        .bind(&key.model)
        .bind(&key.connection)
        .bind(key.key.as_ref());
        for column in counts.columns() {
            upsert = upsert.bind(column);
        }
        upsert.execute(&mut *connection).await?;
    }
    let prune = sqlx::query("DELETE FROM usage WHERE day < ?").bind(oldest.to_string());
    prune.execute(connection).await?;
    Ok(())
}

/// The query that sums up by one column: all text is known when the program is built.
macro_rules! sum_by {
    ($column:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $column,
            " AS name, SUM(requests) AS requests, SUM(failed) AS failed, SUM(prompt_tokens) AS prompt_tokens,
              SUM(completion_tokens) AS completion_tokens, SUM(bytes_in) AS bytes_in,
              SUM(bytes_out) AS bytes_out, SUM(duration_ms) AS duration_ms,
              SUM(cached_tokens) AS cached_tokens, SUM(streamed) AS streamed,
              SUM(first_token_us) AS first_token_us, SUM(load_us) AS load_us, SUM(prompt_us) AS prompt_us,
              SUM(generation_us) AS generation_us
              FROM usage WHERE day >= ? GROUP BY ",
            $column,
            " ORDER BY ",
            $order,
            " LIMIT ?"
        )
    };
}

/// Sums up the rows from the day `since` on.
pub(super) async fn query(
    connection: &mut SqliteConnection,
    by: UsageBy,
    since: Option<Date>,
) -> Result<Vec<UsageRow>, sqlx::Error> {
    let sql = match by {
        UsageBy::Model => sum_by!("model", "requests DESC, name"),
        UsageBy::Connection => sum_by!("connection", "requests DESC, name"),
        UsageBy::Key => sum_by!("key", "requests DESC, name"),
        UsageBy::Day => sum_by!("day", "name"),
    };
    let since = since.map(|since| since.to_string()).unwrap_or_default();
    let rows = sqlx::query(sql).bind(since).bind(ANSWER_ROWS as i64).fetch_all(connection).await?;
    rows.iter().map(|found| Ok(row(by, found.try_get("name")?, Counts::of_row(found)?))).collect()
}

/// Rounded once, of the sum: of each short time it would add up.
fn milliseconds(microseconds: u64) -> u64 {
    microseconds.saturating_add(500) / 1000
}

fn row(by: UsageBy, name: String, counts: Counts) -> UsageRow {
    let mut row = UsageRow {
        requests: counts.requests,
        failed: counts.failed,
        prompt_tokens: counts.prompt_tokens,
        completion_tokens: counts.completion_tokens,
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
        duration_ms: counts.duration_ms,
        cached_tokens: counts.cached_tokens,
        streamed: counts.streamed,
        first_token_ms: milliseconds(counts.first_token_us),
        load_ms: milliseconds(counts.load_us),
        prompt_ms: milliseconds(counts.prompt_us),
        generation_ms: milliseconds(counts.generation_us),
        ..UsageRow::default()
    };
    match by {
        UsageBy::Model => row.model = Some(name),
        UsageBy::Connection => row.connection = Some(name),
        UsageBy::Key => row.key = Some(name),
        // Cannot fail but for a database that was changed by hand: we write days only.
        UsageBy::Day => row.day = Some(name.parse().unwrap_or_default()),
    }
    row
}
