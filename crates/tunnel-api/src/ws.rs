//! What goes over `/ws`: the daemon's messages, and the commands that a client may send.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Model;

/// A message of the daemon: a whole snapshot, or one thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Message<T> {
    /// What `data` is.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// Grows by one with each message of a connection.
    pub seq: u64,
    /// When it was sent.
    pub timestamp: Timestamp,
    /// The snapshot or the event.
    pub data: T,
}

/// What a [`Message`] carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum MessageType {
    /// The body of `GET /api/status`.
    StatusUpdate,
    /// [`ModelUpdate`].
    ModelUpdate,
    /// The body of `GET /api/metrics`.
    MetricsUpdate,
    /// One entry of `GET /api/events`.
    Event,
    /// One entry of `GET /api/warnings` that has just been raised.
    Warning,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The data of `model_update`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelUpdate {
    /// All models, by name.
    pub models: Vec<Model>,
}

/// A command of a client. The answer repeats `id`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Command {
    /// Its name, such as `PING`.
    pub command: String,
    /// Anything; none is answered with null.
    #[serde(default)]
    pub id: Value,
    /// What else the command takes.
    #[serde(flatten)]
    pub payload: serde_json::Map<String, Value>,
}
