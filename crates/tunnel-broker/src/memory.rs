//! Models in and out of the memory of their servers.

mod keeper;
mod order;
mod plan;

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

pub(crate) use keeper::keep;
pub(crate) use order::{load, unload};

/// A model that is to be loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadOrder {
    /// A name as requests have it: an alias or `<connection>/<model>`, too.
    pub model: String,
    /// The only connection that will do. None: the one that would be asked first.
    pub connection: Option<String>,
    /// How long it stays after its last request. None: as the server does.
    pub keep_alive: Option<KeepAlive>,
}

/// How long a model stays in memory after its last request, as Ollama takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Below 0: for ever.
    Seconds(i64),
    /// A text such as `30m` or `1h30m`.
    Text(String),
}

impl KeepAlive {
    /// Reads seconds, or a text such as `30m`; none of anything else.
    pub fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Number(seconds) => seconds.as_i64().map(Self::Seconds),
            Value::String(text) if is_duration(text) => Some(Self::Text(text.clone())),
            Value::String(text) => text.parse().ok().map(Self::Seconds),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Seconds(seconds) => (*seconds).into(),
            Self::Text(text) => text.as_str().into(),
        }
    }
}

/// Tells whether Go, in which Ollama is written, reads this as a duration: numbers, each with its unit.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    let mut n_parts = 0;
    while !rest.is_empty() {
        let number = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let digits = rest[..rest.len() - number.len()].split('.').filter(|part| !part.is_empty()).count();
        let unit = ["ns", "us", "ms", "s", "m", "h"].iter().filter_map(|unit| number.strip_prefix(unit));
        // `m` is the beginning of `ms`, too: the longer one leaves less.
        let Some(left) = unit.min_by_key(|left| left.len()) else { return false };
        if !(1..=2).contains(&digits) {
            return false;
        }
        rest = left;
        n_parts += 1;
    }
    n_parts > 0 && text.len() <= 40
}

/// What was done to one model on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The model's name in the catalogue.
    pub model: String,
    /// The connection's id.
    pub connection: String,
    /// Whether it is in memory afterwards.
    pub loaded: bool,
    /// Whether that was otherwise before.
    pub changed: bool,
    /// How long it took.
    pub took: Duration,
}

/// Why a model was neither loaded nor unloaded. The texts are for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    #[error("model '{0}' is on no connection; GET /api/models lists what there is")]
    UnknownModel(String),
    #[error("there is no connection with the id '{0}'; GET /api/connections lists them")]
    UnknownConnection(String),
    #[error("connection '{id}' is down{}", .why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Down { id: String, why: Option<String> },
    #[error("connection '{id}' {why}")]
    Unable { id: String, why: &'static str },
    #[error("connection '{id}' could not be reached: {why}")]
    Unreachable { id: String, why: String },
    #[error("connection '{id}' answered with status {}{}", .status.as_u16(), told(.message))]
    Refused { id: String, status: StatusCode, message: Option<String> },
    #[error(
        "connection '{0}' began to load the model and could not; what its server writes to its log says why"
    )]
    Failed(String),
    #[error("connection '{0}' broke off; the model may still be loaded")]
    Broken(String),
    #[error("connection '{id}' was not done within {} s; the model may still be loaded", .after.as_secs())]
    Late { id: String, after: Duration },
    #[error("it was cancelled")]
    Cancelled,
}

fn told(message: &Option<String>) -> String {
    message.as_ref().map(|message| format!(": {message}")).unwrap_or_default()
}

/// A model that is to be kept in memory, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptWarm {
    /// As it is configured: `<model>` or `<connection>/<model>`.
    pub model: String,
    /// The connection that has it, or is loading it.
    pub connection: Option<String>,
    /// How it stands.
    pub state: WarmState,
    /// Why it is not in memory, for people.
    pub error: Option<String>,
}

/// How a model stands that is to be kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmState {
    /// It is in memory.
    Loaded,
    /// It is being loaded.
    Loading,
    /// Its backend is down or at work, or no backend has it.
    Waiting,
    /// It could not be loaded; that is tried again.
    Failed,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_seconds_or_what_go_reads() {
        for good in ["5m", "1h30m", "-1s", "1.5h", "300ms", "10us"] {
            assert_eq!(KeepAlive::read(&json!(good)), Some(KeepAlive::Text(good.to_owned())), "{good}");
        }
        assert_eq!(KeepAlive::read(&json!(-1)), Some(KeepAlive::Seconds(-1)));
        assert_eq!(KeepAlive::read(&json!("600")), Some(KeepAlive::Seconds(600)));
        for bad in [
            json!("m"),
            json!("5x"),
            json!("1m2"),
            json!("5 m"),
            json!(""),
            json!("."),
            json!(".s"),
            json!(null),
            json!(1.5),
        ] {
            assert_eq!(KeepAlive::read(&bad), None, "{bad}");
        }
    }
}
