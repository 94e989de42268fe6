//! What the two kinds of backend say and how they say it.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use crate::config::BackendKind;
use crate::connect::ConnectError;
use crate::exchange::{Limits, get};
use crate::health::Fault;
use crate::status::ModelInfo;
use crate::upstream::Upstream;

pub(crate) mod memory;
pub(crate) mod ollama;
pub(crate) mod openai;

/// What a backend says of itself.
#[derive(Debug)]
pub(crate) struct Probed {
    pub(crate) version: Option<String>,
    /// How long the first answer took.
    pub(crate) latency: Duration,
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
    /// The backend's own description, passed on in listings of the same dialect.
    pub(crate) entry: Value,
}

impl Listed {
    pub(crate) fn info(&self) -> ModelInfo {
        ModelInfo { name: self.name.clone(), loaded: self.loaded, size_bytes: self.size_bytes }
    }

    /// Tells whether a configured name means this model.
    pub(crate) fn is_called(&self, kind: BackendKind, name: &str) -> bool {
        self.name == name || (kind == BackendKind::Ollama && self.name.strip_suffix(":latest") == Some(name))
    }
}

/// Why a probe failed. The texts are for people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no answer to {path} within {} s", .after.as_secs())]
    Silent { path: &'static str, after: Duration },
    #[error("the connection broke while {0} was asked")]
    Broken(&'static str),
    #[error("{path} was answered with status {}", .status.as_u16())]
    Status { path: &'static str, status: StatusCode },
    #[error("{path} was answered, but not as {server} does")]
    Strange { path: &'static str, server: &'static str },
    #[error("{0} was answered with more than any list of models has")]
    TooMuch(&'static str),
    #[error("still loading its model")]
    Loading,
}

impl ProbeError {
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Connect(_) => Fault::Unreachable,
            Self::Silent { .. }
            | Self::Broken(_)
            | Self::Status { .. }
            | Self::Strange { .. }
            | Self::TooMuch(_)
            | Self::Loading => Fault::Misbehaves,
        }
    }

    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Refused(_)))
    }
}

/// Longest wait for the answer to one question of a probe.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a prober keeps from one probe to the next.
#[derive(Debug, Default)]
pub(crate) struct Habits {
    /// Set once a server with OpenAI's API has said that it has no `/health`: some log each such question.
    pub(crate) no_health: bool,
}

/// Asks a backend how it is and what it has. `declared`: the configuration names its models.
pub(crate) async fn probe(
    upstream: &Upstream,
    connect_timeout: Duration,
    declared: bool,
    habits: &mut Habits,
) -> Result<Probed, ProbeError> {
    let asker = Asker { upstream, limits: Limits { connect: connect_timeout, answer: ANSWER_LIMIT } };
    match upstream.kind {
        BackendKind::Ollama => ollama::probe(&asker).await,
        BackendKind::OpenAi => openai::probe(&asker, declared, habits).await,
    }
}

/// Asks one backend small questions.
pub(crate) struct Asker<'a> {
    upstream: &'a Upstream,
    limits: Limits,
}

impl Asker<'_> {
    async fn ask(&self, path: &'static str) -> Result<(StatusCode, Bytes), ProbeError> {
        get(self.upstream, path, &self.limits).await
    }

    /// Asks, and takes only a success.
    async fn ask_ok(&self, path: &'static str) -> Result<Bytes, ProbeError> {
        match self.ask(path).await? {
            (status, body) if status.is_success() => Ok(body),
            (status, _) => Err(ProbeError::Status { path, status }),
        }
    }
}
