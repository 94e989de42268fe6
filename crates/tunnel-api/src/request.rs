//! The answer of `GET /api/requests`: the requests that run now.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The requests that run now, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Requests {
    /// Each of them.
    pub requests: Vec<Request>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// One request that runs. What it asks and what it is answered is not known here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Request {
    /// The id in its `X-Request-Id`; `DELETE /api/requests/{id}` takes it.
    pub id: String,
    /// The door that it came through.
    pub ingress: Ingress,
    /// The id of the key that it was sent with. None: it came without one, or with one that is not told here.
    pub key: Option<String>,
    /// The connection that it is on. None while none was chosen.
    pub connection: Option<String>,
    /// The model, if a connection has one of that name.
    pub model: Option<String>,
    /// The path without its query; `other` where it is none that model servers are known to have.
    pub path: String,
    /// How far it has come.
    pub state: RequestState,
    /// Its position among those that wait for a free slot, 1 for the next one. None unless it waits for one. Others
    /// may still come and go first: slots are shared out fairly between callers.
    pub queue_position: Option<u64>,
    /// The ids of the connections that it waits for, of which the first that can will serve it. Empty unless it waits.
    pub waiting_for: Vec<String>,
    /// When it came.
    pub started: Timestamp,
    /// How long it has run, in milliseconds.
    pub duration_ms: u64,
    /// Bytes of its answer so far.
    pub bytes_out: u64,
    /// Parts of its answer so far: tokens, for a model's stream.
    pub tokens: u64,
}

/// A door of the data plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Ingress {
    /// The gateway.
    Local,
    /// The tunnel.
    Tunnel,
    /// The gateway for other machines.
    Lan,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RequestState {
    /// For a backend that can take it.
    Waiting,
    /// It waits for a free slot, or until a model is loaded: see `waiting_for`.
    Queued,
    /// A connection to the backend is being made.
    Connecting,
    /// The backend has it and has not answered yet: a model loads, or reads the prompt.
    FirstByte,
    /// The answer flows.
    Streaming,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}
