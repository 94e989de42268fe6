//! The answers of `GET /api/health` and `GET /api/version`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Answer of `GET /api/health`; its HTTP status is always 200.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// How the daemon is.
    pub status: HealthStatus,
    /// Seconds since the daemon started.
    pub uptime: u64,
    /// The daemon's version.
    pub version: String,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// Where the daemon's log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum LogTarget {
    /// The user's journal.
    Journal,
    /// The file `log_file`.
    File,
    /// Standard error: the terminal in which it was started, or whatever its starter made of it.
    Stderr,
    /// Not told, or a value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// How the daemon is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum HealthStatus {
    /// All that is switched on works.
    Healthy,
    /// Something that is switched on does not work; requests can still be answered.
    Degraded,
    /// No request can be answered.
    Unhealthy,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Answer of `GET /api/version`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Version {
    /// The daemon's version.
    pub tunnel_manager: String,
    /// Version of this API's contract: [`API_VERSION`](crate::API_VERSION).
    pub api_version: String,
    /// How it was built: `release` or `debug`, and the target.
    pub build: String,
    /// The commit that it was built from; `unknown` when built outside a repository.
    pub git: String,
    /// The tunnel protocol that it speaks: [`PROTOCOL`](crate::PROTOCOL).
    pub protocol: String,
    /// Where its log goes.
    pub log: LogTarget,
    /// The file that it logs to. None when it logs elsewhere.
    pub log_file: Option<String>,
    /// When it was answered.
    pub timestamp: Timestamp,
}
