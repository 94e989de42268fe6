//! `PUT /api/log-level`: what it takes and what it answers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The level that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLevelRequest {
    /// `TRACE`, `DEBUG`, `INFO`, `WARN` or `ERROR`.
    pub level: String,
}

/// The level in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLevelAnswer {
    /// The level of our own code; dependencies stay at `WARN`.
    pub level: String,
    /// When it was answered.
    pub timestamp: Timestamp,
}
