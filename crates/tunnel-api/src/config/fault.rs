//! A fault of a configuration: which key, what it says, what it should say.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest text of a value that a fault repeats, in characters.
const SHOWN_CHARS: usize = 80;

/// One value, or one key, that breaks its rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Fault {
    /// Path of the key, such as `ollamaPort` or `connections[1].url`.
    pub key: String,
    /// The value as JSON, shortened. None when it is not there, or could be or hold a secret.
    pub value: Option<String>,
    /// What would be right, as a sentence without a full stop.
    pub rule: String,
    /// A known key that is spelled much like this unknown one.
    pub did_you_mean: Option<String>,
}

impl Fault {
    /// Returns the fault of a value that may be shown.
    pub(super) fn of(key: &str, value: &Value, rule: impl Into<String>) -> Self {
        Self { value: Some(shown(value)), ..Self::hidden(key, rule) }
    }

    /// Returns the fault of a value that is not shown.
    pub(super) fn hidden(key: &str, rule: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: None, rule: rule.into(), did_you_mean: None }
    }
}

impl fmt::Display for Fault {
    /// Writes one line: `ollamaPort: Ollama port must be between 1 and 65535 (found 70000)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A key comes from a file: it may hold line ends or terminal controls.
        write!(f, "{}: {}", self.key.escape_debug(), self.rule)?;
        if let Some(value) = &self.value {
            write!(f, " (found {value})")?;
        }
        if let Some(key) = &self.did_you_mean {
            write!(f, "; did you mean {key}?")?;
        }
        Ok(())
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(_) => return "an object".to_owned(),
        Value::Array(_) => return "a list".to_owned(),
        Value::String(text) => format!("\"{}\"", text.escape_debug()),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
