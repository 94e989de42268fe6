use std::time::{Duration, SystemTime};

use crate::config::BackendKind;

/// What is known of one backend, as people and the local API see it.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendStatus {
    /// The configured id.
    pub id: String,
    /// The API it speaks.
    pub kind: BackendKind,
    /// The configured URL, without credentials.
    pub endpoint: String,
    /// Whether it can be used.
    pub state: BackendState,
    /// The version that it reports; none for servers that report none.
    pub version: Option<String>,
    /// The models it offers, in its own order. Kept while it is down.
    pub models: Vec<ModelInfo>,
    /// How long the last successful probe waited for its first answer.
    pub latency: Option<Duration>,
    /// When the last probe ended, well or not.
    pub last_check: Option<SystemTime>,
    /// Why the last probe failed, for people. None when it went well.
    pub error: Option<String>,
    /// Requests that run on it. In the watch it is the count at the last change; exact in
    /// [`Broker::snapshot`](crate::Broker::snapshot).
    pub in_flight: usize,
    /// Failed requests among the recent ones, 0 to 1. Half of the weight is forgotten with each probe.
    pub error_rate: f64,
}

/// Whether a backend can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendState {
    /// The first probe has not ended yet.
    Connecting,
    /// The last probes went well, or too few of them failed to count as down.
    Connected,
    /// It cannot be reached.
    Disconnected,
    /// Something answers, but not as a model server should.
    Error,
}

impl BackendState {
    /// The name used in status documents: `connecting`, `connected`, `disconnected`, `error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Error => "error",
        }
    }
}

/// A model by its name, over all backends that are up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedModel {
    /// The name as the backends list it; of an alias its own.
    pub name: String,
    /// The ids of the backends that have it, in the order of the configuration.
    pub connections: Vec<String>,
    /// Whether one of them has it in memory.
    pub loaded: bool,
    /// Its size on disk, as the first backend that knows says.
    pub size_bytes: Option<u64>,
    /// The model's own name, where this is an alias.
    pub alias_of: Option<String>,
    /// Whether it is among those that are kept in memory.
    pub kept_warm: bool,
}

/// An alias of the configuration, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasStatus {
    /// The name.
    pub name: String,
    /// What it stands for, as configured.
    pub target: String,
    /// Whether a backend that is up has its model.
    pub available: bool,
    /// Whether a model is really called so, which then is meant.
    pub shadowed: bool,
}

/// One model of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name as the backend lists it.
    pub name: String,
    /// Whether it is in memory, so that it answers without a load.
    pub loaded: bool,
    /// Its size on disk; none where the backend does not say.
    pub size_bytes: Option<u64>,
}
