//! The answer of `GET /api/models`, the data of the message `model_update`, and the orders below `/api/models`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The models of all connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Models {
    /// By name. Aliases whose model is there are among them.
    pub models: Vec<Model>,
    /// All aliases of the configuration, by name.
    pub aliases: Vec<ModelAlias>,
    /// The models that the daemon keeps in memory, in the order of the configuration.
    pub warm: Vec<WarmModel>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// One model, wherever it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Model {
    /// As the connections list it; of an alias its own.
    pub name: String,
    /// Ids of the connections that have it.
    pub connections: Vec<String>,
    /// Whether one of them has it in memory, so that it answers without a load.
    pub loaded: bool,
    /// Its size on disk. None where no connection says.
    pub size_bytes: Option<u64>,
    /// The model that this name stands for. None for a model's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<String>,
    /// Whether the daemon keeps it in memory.
    pub kept_warm: bool,
}

/// A name of the user's own for a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelAlias {
    /// The name.
    pub name: String,
    /// What it stands for: `<model>` or `<connection>/<model>`.
    pub target: String,
    /// Whether a request by this name would be answered now.
    pub available: bool,
    /// Whether a local connection has a model that is really called so: the alias is not used then.
    pub shadowed: bool,
}

/// A model that the daemon keeps in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WarmModel {
    /// As the configuration names it: `<model>` or `<connection>/<model>`.
    pub model: String,
    /// The connection that has it in memory, or is loading it.
    pub connection: Option<String>,
    /// How it stands.
    pub state: WarmState,
    /// Why it is not in memory, for people.
    pub error: Option<String>,
}

/// How a model stands that is to be kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum WarmState {
    /// It is in memory.
    Loaded,
    /// It is being loaded.
    Loading,
    /// Its connection is down or at work, or nobody has it.
    Waiting,
    /// It could not be loaded; that is tried again, more and more seldom.
    Failed,
    /// A word of a newer daemon.
    #[default]
    #[serde(other)]
    Unknown,
}

impl WarmState {
    /// Returns the name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Loading => "loading",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Body of `POST /api/models/load` and `POST /api/models/unload`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelOrder {
    /// The model: a name as requests have it, an alias or `<connection>/<model>` too.
    pub model: String,
    /// The only connection that will do. Default: to load, the one that would be asked first; to unload, all that have
    /// it in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// To load: how long it stays after its last request, as Ollama takes it: seconds, below 0 for ever, or a text such
    /// as `"30m"`. Default: as the server does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<Value>,
}

/// Answer of `POST /api/models/load` and `POST /api/models/unload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelMoves {
    /// What was done, for people.
    pub message: String,
    /// What was done where.
    pub moved: Vec<ModelMove>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// What was done to one model on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelMove {
    /// The model, as the connection calls it.
    pub model: String,
    /// The connection.
    pub connection: String,
    /// Whether it is in memory afterwards.
    pub loaded: bool,
    /// Whether that was otherwise before.
    pub changed: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// Body of `PUT /api/models/aliases/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AliasOrder {
    /// What the name stands for: `<model>` or `<connection>/<model>`.
    pub target: String,
}
