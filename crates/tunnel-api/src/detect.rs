//! The answer of `POST /api/connections/detect`: the model servers that run on this machine.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::connection::ConnectionKind;

/// What answered on the ports that model servers usually have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Detected {
    /// The servers, in the order in which the ports were tried.
    pub servers: Vec<DetectedServer>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// One model server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DetectedServer {
    /// What it is.
    pub product: Product,
    /// What it speaks; the `type` of the entry that would add it to `connections`.
    pub kind: ConnectionKind,
    /// Its base address; the `url` of that entry.
    pub url: String,
    /// Version that it tells.
    pub version: Option<String>,
    /// Names of the models that it lists.
    pub models: Vec<String>,
    /// Id of the connection that leads there already, one that is switched off too. None where there is none yet.
    pub connection: Option<String>,
    /// An id that is free; the `id` of the entry that would add it.
    pub suggested_id: String,
}

/// A program that serves models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Product {
    /// Ollama.
    Ollama,
    /// llama.cpp's `llama-server`.
    LlamaCpp,
    /// vLLM.
    Vllm,
    /// LM Studio.
    LmStudio,
    /// Another one that speaks OpenAI's API.
    Other,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Product {
    /// Returns the name that people know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ollama => "Ollama",
            Self::LlamaCpp => "llama.cpp",
            Self::Vllm => "vLLM",
            Self::LmStudio => "LM Studio",
            Self::Other | Self::Unknown => "a server with OpenAI's API",
        }
    }
}
