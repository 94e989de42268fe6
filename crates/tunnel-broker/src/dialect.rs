//! The two APIs: what backends say in them, and how they are asked.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::connect::ConnectError;
use crate::credential::NoSecret;
use crate::health::Fault;
use crate::profile::{Api, Names, Speaks, Text};
use crate::status::ModelInfo;

mod list;
pub(crate) mod memory;
pub(crate) mod ollama;
pub(crate) mod openai;
mod probe;

pub(crate) use probe::{Habits, probe};

/// What a backend says of itself.
#[derive(Debug)]
pub(crate) struct Probed {
    pub(crate) version: Option<String>,
    /// How long the first answer took.
    pub(crate) latency: Duration,
    /// The APIs that it turned out to speak.
    pub(crate) speaks: Speaks,
    pub(crate) listing: Listing,
}

/// The models of one backend, in its own order.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Listing {
    pub(crate) models: Vec<Listed>,
    /// Ollama's entries for models in memory, as it sent them.
    pub(crate) running: Vec<Value>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) loaded: bool,
    pub(crate) size_bytes: Option<u64>,
    /// The API in whose list it stands.
    pub(crate) api: Api,
    /// The backend's own description, passed on in listings of the same API.
    pub(crate) entry: Value,
}

impl Listed {
    pub(crate) fn info(&self) -> ModelInfo {
        ModelInfo { name: self.name.clone(), loaded: self.loaded, size_bytes: self.size_bytes }
    }

    /// Tells whether a configured name means this model.
    pub(crate) fn is_called(&self, names: Names, name: &str) -> bool {
        self.name == name || (names.tags && self.name.strip_suffix(":latest") == Some(name))
    }

    /// Describes it as OpenAI's list does. `backend` owns what has no other owner.
    pub(crate) fn as_openai(&self, backend: &str) -> Value {
        match self.api {
            Api::Ollama => ollama::as_openai(self),
            Api::OpenAi => openai::completed(&self.entry, backend),
        }
    }
}

/// Why a probe failed. The texts are for people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer to {path} within {} s", .after.as_secs())]
    Silent { path: Text, after: Duration },
    #[error("the connection broke while {0} was asked")]
    Broken(Text),
    #[error("{path} was answered with status {}", .status.as_u16())]
    Status { path: Text, status: StatusCode },
    #[error("{path} was answered, but not as {server} does")]
    Strange { path: Text, server: Text },
    #[error("{0} was answered with more than any list of models has")]
    TooMuch(Text),
    #[error("still loading its model")]
    Loading,
    #[error("unauthorised: {path} was answered with status {}; {step}", .status.as_u16())]
    Unauthorised { path: Text, status: StatusCode, step: String },
    #[error("unauthorised: {0}")]
    NoSecret(#[from] NoSecret),
}

impl ProbeError {
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Connect(_) => Fault::Unreachable,
            Self::Loading => Fault::Loading,
            Self::Unauthorised { .. } | Self::NoSecret(_) => Fault::Unauthorised,
            Self::Silent { .. }
            | Self::Broken(_)
            | Self::Status { .. }
            | Self::Strange { .. }
            | Self::TooMuch(_) => Fault::Misbehaves,
        }
    }

    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Refused(_)))
    }

    /// Tells whether the server says nothing at all: a stopped process still accepts until its queue is full. One
    /// that refuses may only have closed its door, and finish what it has.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Silent { .. } | Self::Connect(ConnectError::Timeout { .. }))
    }

    /// Tells whether asking again would bring the same.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Unauthorised { .. } | Self::NoSecret(_))
    }
}
