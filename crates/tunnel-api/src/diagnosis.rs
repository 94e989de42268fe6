//! The answer of `POST /api/diagnosis`: what the daemon finds when it looks at itself and its surroundings.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Each thing that was looked at, in an order that reads from the inside out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Diagnosis {
    /// The checks.
    pub checks: Vec<Check>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Check {
    /// Stable machine name, such as `relay_dns`. A later daemon may send ids that are not known yet.
    pub id: String,
    /// What it is about, for people: `relay: name`, `connection ollama`.
    pub title: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found, as one sentence without a full stop; carries no secret.
    pub detail: String,
    /// What to do about it. Empty where there is nothing to do.
    pub next_step: String,
    /// How long it took, in milliseconds, where that says something.
    pub duration_ms: Option<f64>,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as it should be.
    Pass,
    /// It works, and someone should look; or something useful is absent.
    Warn,
    /// It keeps the tunnel or the models from working.
    Fail,
    /// It was not looked at: it does not apply, or what it needs has failed.
    Skip,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}
