//! Sums over requests, as they are kept in memory and in the database.

use std::ops::AddAssign;

use jiff::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// Sums over LLM requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration_ms: u64,
    /// Of the prompt tokens, those that the servers had in their caches.
    pub(crate) cached_tokens: u64,
    /// Requests that `first_token_us` is a sum over.
    pub(crate) streamed: u64,
    pub(crate) first_token_us: u64,
    pub(crate) load_us: u64,
    pub(crate) prompt_us: u64,
    pub(crate) generation_us: u64,
}

/// Requests that the control API answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ApiCounts {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
}

/// Everything since the database was made, or since the daemon started where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    /// When counting began: the daemon's first start with this database.
    pub(crate) since: Timestamp,
    pub(crate) llm: Counts,
    pub(crate) api: ApiCounts,
}

impl Totals {
    pub(super) fn none(since: Timestamp) -> Self {
        Self { since, llm: Counts::default(), api: ApiCounts::default() }
    }
}

impl Counts {
    /// Reads them off a row that has all columns of the table `usage`, summed up or not.
    pub(super) fn of_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let count = |column| row.try_get(column).map(loaded);
        Ok(Self {
            requests: count("requests")?,
            failed: count("failed")?,
            prompt_tokens: count("prompt_tokens")?,
            completion_tokens: count("completion_tokens")?,
            bytes_in: count("bytes_in")?,
            bytes_out: count("bytes_out")?,
            duration_ms: count("duration_ms")?,
            cached_tokens: count("cached_tokens")?,
            streamed: count("streamed")?,
            first_token_us: count("first_token_us")?,
            load_us: count("load_us")?,
            prompt_us: count("prompt_us")?,
            generation_us: count("generation_us")?,
        })
    }

    /// The values in the order of the tables' columns.
    pub(super) fn columns(&self) -> [i64; 13] {
        [
            self.requests,
            self.failed,
            self.prompt_tokens,
            self.completion_tokens,
            self.bytes_in,
            self.bytes_out,
            self.duration_ms,
            self.cached_tokens,
            self.streamed,
            self.first_token_us,
            self.load_us,
            self.prompt_us,
            self.generation_us,
        ]
        .map(stored)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let add = |sum: &mut u64, n| *sum = sum.saturating_add(n);
        add(&mut self.requests, other.requests);
        add(&mut self.failed, other.failed);
        add(&mut self.prompt_tokens, other.prompt_tokens);
        add(&mut self.completion_tokens, other.completion_tokens);
        add(&mut self.bytes_in, other.bytes_in);
        add(&mut self.bytes_out, other.bytes_out);
        add(&mut self.duration_ms, other.duration_ms);
        add(&mut self.cached_tokens, other.cached_tokens);
        add(&mut self.streamed, other.streamed);
        add(&mut self.first_token_us, other.first_token_us);
        add(&mut self.load_us, other.load_us);
        add(&mut self.prompt_us, other.prompt_us);
        add(&mut self.generation_us, other.generation_us);
    }
}

impl AddAssign for ApiCounts {
    fn add_assign(&mut self, other: Self) {
        self.ok = self.ok.saturating_add(other.ok);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

/// SQLite's integers are signed.
pub(super) fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A negative count can only come from outside; it counts as none.
pub(super) fn loaded(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// A time in the database that no calendar has counts as 1970.
pub(super) fn time(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or_default()
}
