//! The answer of `GET /api/models`, and the data of the message `model_update`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The models of all connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Models {
    /// By name.
    pub models: Vec<Model>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// One model, wherever it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Model {
    /// As the connections list it.
    pub name: String,
    /// Ids of the connections that have it.
    pub connections: Vec<String>,
    /// Whether one of them has it in memory, so that it answers without a load.
    pub loaded: bool,
    /// Its size on disk. None where no connection says.
    pub size_bytes: Option<u64>,
}
