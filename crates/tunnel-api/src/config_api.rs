//! The answers of `/api/config` and what is below it, and the bodies that it takes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Fault;

/// The answer to a change of the configuration, and to an order to read it anew.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ConfigAnswer {
    /// What was done, for people.
    pub message: String,
    /// `success`.
    pub status: String,
    /// Whether the file was written; of a reload, whether another version is in force.
    pub changed: bool,
    /// The configuration file. None where the defaults run and there is no place for one.
    pub file: Option<String>,
    /// Name of the copy that was made of the file as it was.
    pub backup: Option<String>,
    /// Keys of the change that have no effect as long as a variable sets them.
    pub overridden: Vec<Overridden>,
    /// Keys whose change takes effect only after a restart.
    pub restart_required: Vec<String>,
    /// Every key as it is in force.
    pub config: Map<String, Value>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// A key that an environment variable sets, whatever the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Overridden {
    /// The key.
    pub key: String,
    /// The variable's name.
    pub by: String,
}

/// The answer of `GET /api/config/origins`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ConfigOrigins {
    /// The file that a change would be written to. None where there is no place for one.
    pub file: Option<String>,
    /// Files that were read. Empty when the defaults run.
    pub files: Vec<String>,
    /// Where each value came from, by its key; for keys of objects also by path, such as `queue.maxWait`.
    pub origins: BTreeMap<String, ConfigOrigin>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// Where one value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ConfigOrigin {
    /// The layer.
    pub from: Layer,
    /// The file's path or the variable's name, where there is one.
    pub name: Option<String>,
}

/// A layer of the configuration; later ones win.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Built in.
    Default,
    /// A variable of another program, such as `$OLLAMA_HOST`.
    Hint,
    /// The configuration file.
    File,
    /// A variable of ours.
    Environment,
    /// The command line.
    Flag,
    /// A layer that a newer daemon has.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The answer of `POST /api/config/validate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ConfigCheck {
    /// Whether the content would be taken.
    pub valid: bool,
    /// All that is wrong with it.
    pub faults: Vec<Fault>,
    /// Its keys that would have no effect as long as a variable sets them.
    pub overridden: Vec<Overridden>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// The answer of `GET /api/config/backups`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ConfigBackups {
    /// Where the copies are. None where there is no place for a configuration file.
    pub directory: Option<String>,
    /// The copies, the newest first.
    pub backups: Vec<ConfigBackup>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// One copy of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ConfigBackup {
    /// Its name, as `POST /api/config/restore` takes it.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its length.
    pub size_bytes: u64,
}

/// The answer of `POST /api/config/backup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct BackupAnswer {
    /// What was done, for people.
    pub message: String,
    /// `success`.
    pub status: String,
    /// Name of the copy.
    pub name: String,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// The body of `POST /api/config/restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RestoreOrder {
    /// Name of the copy, as `GET /api/config/backups` lists it.
    pub name: String,
    /// Whether a file that has faults is replaced too. Default false.
    #[serde(default)]
    pub force: bool,
}

/// The answer of `POST /api/config/import`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ImportAnswer {
    /// Keys that were taken over.
    pub imported: Vec<String>,
    /// Whether the file had a token, which is stored now. It is never in an answer.
    pub token_stored: bool,
    /// What became of the configuration.
    #[serde(flatten)]
    pub answer: ConfigAnswer,
}
