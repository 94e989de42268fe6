//! The answer of `GET /api/usage`: what was asked of the model servers, summed up.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// Usage, summed up by what [`UsageBy`] names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Usage {
    /// The rows, the one with the most requests first; by day, the oldest first.
    pub usage: Vec<UsageRow>,
    /// First day that was counted, in UTC. None when all days are.
    pub since: Option<Date>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// One row of [`Usage`]. Of the four names, it has the one that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct UsageRow {
    /// The model. Empty for requests that went to none, such as a listing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Id of the connection. Empty for requests that reached none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// Whose request it was: `local`, `tunnel`, or the id of a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The day in UTC on which the requests ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<Date>,
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Tokens that were read, as the model servers told them.
    pub prompt_tokens: u64,
    /// Tokens that were written, as the model servers told them.
    pub completion_tokens: u64,
    /// Bytes of the requests' bodies.
    pub bytes_in: u64,
    /// Bytes of the answers' bodies.
    pub bytes_out: u64,
    /// Sum of the times from a request's arrival to the end of its answer, in milliseconds.
    pub duration_ms: u64,
    /// Of the prompt's tokens, those that the model servers had in their caches, as they told. Not told by each.
    pub cached_tokens: u64,
    /// Streamed answers that had a first token: what `first_token_ms` is a sum over.
    pub streamed: u64,
    /// Sum of the times from a request's arrival to the first token of its answer, in milliseconds.
    pub first_token_ms: u64,
    /// Sum of the times that models took to load, as the model servers told, in milliseconds. Ollama tells it.
    pub load_ms: u64,
    /// Sum of the times that prompts were read, as the model servers told, in milliseconds. Ollama and llama.cpp tell
    /// it.
    pub prompt_ms: u64,
    /// Sum of the times in which `completion_tokens` were written, in milliseconds: as the model servers told, else as
    /// it was measured.
    pub generation_ms: u64,
}

impl UsageRow {
    /// Returns how fast answers were written, in tokens a second. None where nothing was.
    pub fn tokens_per_s(&self) -> Option<f64> {
        let seconds = self.generation_ms as f64 / 1e3;
        (self.generation_ms > 0 && self.completion_tokens > 0)
            .then(|| self.completion_tokens as f64 / seconds)
    }

    /// Returns the mean time to the first token, in milliseconds. None where nothing was streamed.
    pub fn mean_first_token_ms(&self) -> Option<u64> {
        self.first_token_ms.checked_div(self.streamed)
    }
}

/// What [`Usage`] is summed up by; the parameter `by` of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum UsageBy {
    /// By model. What an unspecified request gets.
    #[default]
    Model,
    /// By connection.
    Connection,
    /// By whose request it was.
    Key,
    /// By day in UTC.
    Day,
}

impl UsageBy {
    /// All of them, in the order in which people are told about them.
    pub const ALL: [Self; 4] = [Self::Model, Self::Connection, Self::Key, Self::Day];

    /// Returns the name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Connection => "connection",
            Self::Key => "key",
            Self::Day => "day",
        }
    }
}

impl fmt::Display for UsageBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for UsageBy {
    type Err = NotUsageBy;

    fn from_str(text: &str) -> Result<Self, NotUsageBy> {
        Self::ALL.into_iter().find(|by| by.as_str() == text).ok_or(NotUsageBy)
    }
}

/// What [`UsageBy`] was parsed from is none of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUsageBy;

impl fmt::Display for NotUsageBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("by must be one of: model, connection, key, day")
    }
}

impl std::error::Error for NotUsageBy {}

/// The parameter `since` of a request for [`Usage`]: a day in UTC.
///
/// Usage is kept by day, so a time stands for the whole of its day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub Date);

impl FromStr for Since {
    type Err = NotSince;

    fn from_str(text: &str) -> Result<Self, NotSince> {
        // A time has to be tried first: a date can be parsed from its beginning, in its own offset.
        let time = || Some(text.parse::<Timestamp>().ok()?.to_zoned(TimeZone::UTC).date());
        time().or_else(|| text.parse().ok()).map(Self).ok_or(NotSince)
    }
}

/// What [`Since`] was parsed from is neither a day nor a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSince;

impl fmt::Display for NotSince {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("since must be a day such as 2026-01-31 or a time such as 2026-01-31T12:00:00Z")
    }
}

impl std::error::Error for NotSince {}
