use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::BackendKind;
use crate::profile::{Profile, Speaks};

/// What is known of one backend, as people and the local API see it.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendStatus {
    /// The configured id.
    pub id: String,
    /// What it is called in the configuration.
    pub kind: BackendKind,
    /// What is known of its kind.
    pub profile: Arc<Profile>,
    /// The APIs that it speaks, as far as is known.
    pub speaks: Speaks,
    /// The configured URL, without credentials.
    pub endpoint: String,
    /// Whether it can be used.
    pub state: BackendState,
    /// How it is, in more words than `state` has.
    pub health: Health,
    /// Whether requests are let through to it.
    pub breaker: BreakerState,
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
    /// Requests that wait for it: for a free slot, or until its model is loaded. One that waits for several
    /// backends counts for each. As exact as `in_flight`.
    pub queued: usize,
    /// Failed requests among the recent ones, 0 to 1. Half of the weight is forgotten with each probe.
    pub error_rate: f64,
}

/// Whether a backend can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendState {
    /// The first probe has not ended yet, or it still loads its model.
    Connecting,
    /// The last probes went well, or too few of them failed to count as down.
    Connected,
    /// It cannot be reached.
    Disconnected,
    /// Something answers, but not as a model server should, or not to us.
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

/// How a backend is: what its probes, its requests and its load say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// The first probe has not ended yet.
    Unknown,
    /// All is well.
    Up,
    /// All is well, and it runs as many requests as it may.
    Busy,
    /// It loads its model and says so. Requests wait for it, and nothing counts as failed.
    Warming,
    /// It can be used, but its last probe or many of its requests failed, or it is just coming back.
    Degraded,
    /// It cannot be used.
    Down,
    /// It does not accept our credential.
    Unauthorised,
}

impl Health {
    /// The name used in status documents: `unknown`, `up`, `busy`, `warming`, `degraded`, `down`, `unauthorised`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Busy => "busy",
            Self::Warming => "warming",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Unauthorised => "unauthorised",
        }
    }
}

/// Whether requests are let through to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// They are; fewer than its share for a few seconds after it was open.
    Closed,
    /// They are not, unless there is no other backend: too many of them failed.
    Open,
    /// One at a time is, to see whether it works again.
    HalfOpen,
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
    /// Whether a local model is really called so, which then is meant.
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
