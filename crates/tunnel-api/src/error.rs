//! The body of each answer of the local API that is an error.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Fault;

/// An error as the local API answers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorBody {
    /// One sentence for people.
    pub error: String,
    /// Stable machine code, such as `timeout` or `not_found`.
    pub code: String,
    /// The HTTP status that it came with.
    pub status_code: u16,
    /// Id under which the daemon logged the request.
    pub request_id: String,
    /// When it was answered.
    pub timestamp: Timestamp,
    /// What is wrong with a configuration, all of it. Not there in any other error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}
