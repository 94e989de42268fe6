//! The question and the answer of `POST /api/explain`: where a request would go, and why.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A request that might be sent. `GET /api/explain` takes the same fields as parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExplainRequest {
    /// The path of the gateway that it would be posted to, which tells the API. Default: that of a chat in
    /// `dialect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The API, where no path is given: `ollama` or `openai`. Default: Ollama's, or OpenAI's where the model can be had by
    /// that alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// The model, as an app names it. Without it, a request that names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The connection that the request insists on, as with `X-Tunnel-Connection`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The session, as in `X-Session-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// Where a request would go as things stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Explanation {
    /// Id of the connection that it would be sent to at once. None: see `waits_for` and `refusal`.
    pub connection: Option<String>,
    /// The model's name, as the connection lists it.
    pub model: Option<String>,
    /// How the model's name was understood. None for a request that names none.
    pub resolved_by: Option<ResolvedBy>,
    /// The connections in whose lines it would wait, for a free slot or for the model; empty when it would not wait.
    pub waits_for: Vec<String>,
    /// What its caller would be told at once. None where it would be sent, or wait.
    pub refusal: Option<Refusal>,
    /// How many requests would be answered before it, where it would wait for a free slot. None where it would not.
    pub queue_position: Option<u64>,
    /// Every connection to a model server: first those that would take it, in the order in which they would be asked.
    pub candidates: Vec<Candidate>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// How a model's name was understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ResolvedBy {
    /// As the name of a model.
    Exact,
    /// As an alias of the configuration.
    Alias,
    /// As `<connection>/<model>`, or with a connection that the request insists on.
    Pinned,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What the caller would be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Stable machine name, such as `model_not_found`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// One connection, and why it would get the request or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Candidate {
    /// The connection's id.
    pub connection: String,
    /// What would become of it.
    pub verdict: Verdict,
    /// Stable machine name of the reason, such as `priority`. A later daemon may send names that are not known yet.
    pub code: String,
    /// Why, as one sentence without a full stop.
    pub reason: String,
    /// `healthy`, `doubtful`, `warming`, `ejected`, `unknown`, `unauthorised` or `down`; `off` where it is not enabled.
    pub health: String,
    /// `local` or `cloud`.
    pub side: String,
    /// Lower is asked first.
    pub priority: u32,
    /// Whether it has the model in memory. None where it does not have the model, or none is named.
    pub loaded: Option<bool>,
    /// Requests that run on it.
    pub in_flight: u64,
    /// Requests that wait for it. None where that is not known.
    pub queued: Option<u64>,
    /// How long it takes to begin an answer, as the last ones tell: a moving average that peaks raise at once. None
    /// while it has given none.
    pub latency_ewma_ms: Option<f64>,
    /// Share of the load among its equals.
    pub weight: u32,
    /// How much of its weight counts now, in percent: less than 100 while it comes back after a failure.
    pub share: u32,
}

/// What would become of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It gets the request.
    Chosen,
    /// It gets the request if the chosen one fails before it answers.
    Next,
    /// It could take the request, and others come first.
    Later,
    /// It would take the request, and as many run on it as may.
    Full,
    /// It does not get the request.
    Excluded,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}
