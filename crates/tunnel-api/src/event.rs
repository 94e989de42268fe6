//! The answer of `GET /api/events`: what happened, in order.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Severity;

/// A piece of the history.
///
/// Asked with `since`, it is the oldest events after that one; without, the newest ones. A `since` that is beyond
/// the newest event comes from another history (the state was lost in between), and everything is answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Events {
    /// The events, the oldest first.
    pub events: Vec<Event>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Event {
    /// Grows by one from event to event, over restarts too. A jump means that some are missing here.
    pub id: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Stable machine name, such as `tunnel_up`. A later daemon may send kinds that are not known yet.
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence: what happened. Ends without a full stop; carries no secret.
    pub message: String,
    /// What belongs to it, for programs: an object whose fields depend on `kind`, or null.
    pub data: Value,
}
