//! A connection: a backend that requests can go to, as the API shows it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Id of the built-in local Ollama.
pub const OLLAMA_ID: &str = "ollama";
/// Id of the cloud connection: the tunnel to the relay.
pub const CLOUD_ID: &str = "cloud";

/// Latency above which a connection is not better than [`Quality::Good`].
const GOOD_LATENCY: Duration = Duration::from_secs(1);
/// Latency above which a connection is [`Quality::Poor`].
const POOR_LATENCY: Duration = Duration::from_secs(5);
/// Share of failed requests above which a connection is not better than [`Quality::Good`].
const GOOD_ERROR_RATE: f64 = 0.05;
/// Share of failed requests above which a connection is [`Quality::Critical`].
const CRITICAL_ERROR_RATE: f64 = 0.10;
/// Age of the last check above which a connection needs attention: the prober must have died.
const STALE_CHECK_SECONDS: i64 = 5 * 60;

/// A backend as `GET /api/status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Connection {
    /// Unique id; `ollama` for the first local Ollama, `cloud` for the relay.
    pub id: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ConnectionKind,
    /// The APIs that it speaks, as far as is known. Empty for the tunnel, and from an older daemon.
    pub speaks: Vec<Api>,
    /// How it stands.
    pub state: ConnectionState,
    /// How it is, in more words than `state` has; `unknown` from an older daemon.
    pub health: ConnectionHealth,
    /// Whether `state` is [`ConnectionState::Connected`].
    pub connected: bool,
    /// Its address, without credentials.
    pub endpoint: String,
    /// Version that it tells. None until it told one, or when it has none to tell.
    pub version: Option<String>,
    /// Names of the models that it lists.
    pub models: Vec<String>,
    /// Latest time a probe took, in milliseconds. None until one was answered.
    pub latency: Option<f64>,
    /// When it was last probed.
    pub last_check: Option<Timestamp>,
    /// How good it is; see [`quality`].
    pub quality: Quality,
    /// Why it is not connected, as one sentence.
    pub error: Option<String>,
    /// Requests that it is working on.
    pub in_flight: u64,
    /// Requests that wait for a free slot on it.
    pub queued: u64,
    /// Whether requests are let through to it.
    pub breaker: Breaker,
}

impl Connection {
    /// Tells whether it is the tunnel to the relay rather than a server that requests go out to.
    pub fn is_tunnel(&self) -> bool {
        self.id == CLOUD_ID
    }

    /// Tells whether it is known to speak this API. Of an older daemon only the type tells.
    pub fn speaks(&self, api: Api) -> bool {
        if self.speaks.is_empty() && !self.is_tunnel() {
            return match api {
                Api::Ollama => self.kind == ConnectionKind::Ollama,
                Api::Openai => true,
                Api::Unknown => false,
            };
        }
        self.speaks.contains(&api)
    }

    /// Tells whether someone should look: it is down, [`Quality::Critical`] or [`Quality::Poor`], or was last
    /// checked more than five minutes before `now`. One that loads its model needs nothing but time.
    pub fn needs_attention(&self, now: Timestamp) -> bool {
        let stale = self
            .last_check
            .is_some_and(|checked| now.as_second().saturating_sub(checked.as_second()) > STALE_CHECK_SECONDS);
        let bad = !self.connected || matches!(self.quality, Quality::Critical | Quality::Poor);
        (bad && self.health != ConnectionHealth::Warming) || stale
    }

    /// Returns the state in one word for a list: `warming` and `unauthorised` where it is one of these, else the
    /// name of [`state`](Self::state).
    pub fn word(&self) -> &'static str {
        match self.health {
            ConnectionHealth::Warming | ConnectionHealth::Unauthorised => self.health.as_str(),
            ConnectionHealth::Unknown
            | ConnectionHealth::Up
            | ConnectionHealth::Busy
            | ConnectionHealth::Degraded
            | ConnectionHealth::Down => self.state.as_str(),
        }
    }

    /// Returns the state as a short text for people, such as `Connected, 3 models, 12 ms`.
    pub fn description(&self) -> String {
        match self.health {
            ConnectionHealth::Warming => return "Warming up: it is loading its model".to_owned(),
            ConnectionHealth::Unauthorised => return self.failed("Not authorised"),
            ConnectionHealth::Unknown
            | ConnectionHealth::Up
            | ConnectionHealth::Busy
            | ConnectionHealth::Degraded
            | ConnectionHealth::Down => {}
        }
        match self.state {
            ConnectionState::Connected => {
                let mut text = "Connected".to_owned();
                match self.models.len() {
                    0 => {}
                    1 => text.push_str(", 1 model"),
                    n => text.push_str(&format!(", {n} models")),
                }
                if let Some(latency) = self.latency {
                    text.push_str(&format!(", {latency:.0} ms"));
                }
                match self.health {
                    ConnectionHealth::Busy => text.push_str(", busy"),
                    ConnectionHealth::Degraded => text.push_str(", degraded"),
                    ConnectionHealth::Unknown
                    | ConnectionHealth::Up
                    | ConnectionHealth::Warming
                    | ConnectionHealth::Down
                    | ConnectionHealth::Unauthorised => {}
                }
                text
            }
            ConnectionState::Connecting => "Connecting".to_owned(),
            ConnectionState::Disconnected => self.failed("Disconnected"),
            ConnectionState::Error => self.failed("Error"),
            ConnectionState::Unknown => self.failed("Unknown"),
        }
    }

    fn failed(&self, state: &str) -> String {
        match &self.error {
            Some(error) => format!("{state}: {error}"),
            None => state.to_owned(),
        }
    }

    /// Returns the connection with what `GET /api/connections` adds.
    pub fn into_report(self, now: Timestamp) -> ConnectionReport {
        ConnectionReport {
            status_description: self.description(),
            needs_attention: self.needs_attention(now),
            connection: self,
        }
    }
}

/// Returns how good a connection is.
///
/// `latency` is that of its latest probe, `error_rate` the share of its recent requests that failed, 0 to 1.
/// Not connected or more than 10 % errors is [`Quality::Critical`]; over 5 s [`Quality::Poor`]; over 1 s or
/// more than 5 % errors [`Quality::Good`]; else [`Quality::Excellent`].
pub fn quality(connected: bool, latency: Option<Duration>, error_rate: f64) -> Quality {
    let latency = latency.unwrap_or_default();
    if !connected || error_rate > CRITICAL_ERROR_RATE {
        Quality::Critical
    } else if latency > POOR_LATENCY {
        Quality::Poor
    } else if latency > GOOD_LATENCY || error_rate > GOOD_ERROR_RATE {
        Quality::Good
    } else {
        Quality::Excellent
    }
}

/// An API that a connection may speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Api {
    /// Ollama's, at `/api`.
    Ollama,
    /// OpenAI's, at `/v1`.
    Openai,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConnectionKind {
    /// Ollama's API.
    Ollama,
    /// Any server with OpenAI's API.
    Openai,
    /// llama.cpp's `llama-server`.
    Llamacpp,
    /// vLLM.
    Vllm,
    /// LM Studio.
    Lmstudio,
    /// The tunnel to the relay, or an account elsewhere.
    Cloud,
    /// A process of the user's that speaks HTTP.
    Plugin,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

impl ConnectionKind {
    /// Returns the kind of this name; [`ConnectionKind::Unknown`] where there is none.
    pub fn named(name: &str) -> Self {
        let all = [
            Self::Ollama,
            Self::Openai,
            Self::Llamacpp,
            Self::Vllm,
            Self::Lmstudio,
            Self::Cloud,
            Self::Plugin,
        ];
        all.into_iter().find(|kind| kind.as_str() == name).unwrap_or_default()
    }

    /// Returns the name that the API and the configuration use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Openai => "openai",
            Self::Llamacpp => "llamacpp",
            Self::Vllm => "vllm",
            Self::Lmstudio => "lmstudio",
            Self::Cloud => "cloud",
            Self::Plugin => "plugin",
            Self::Unknown => "unknown",
        }
    }
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConnectionState {
    /// It answers.
    Connected,
    /// The first probe, or a dial, is under way.
    Connecting,
    /// It does not answer, or is switched off.
    Disconnected,
    /// It answers, but not as it should.
    Error,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

impl ConnectionState {
    /// Returns the name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Connecting => "connecting",
            Self::Disconnected => "disconnected",
            Self::Error => "error",
            Self::Unknown => "unknown",
        }
    }
}

/// How a connection is: what its probes, its requests and its load say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConnectionHealth {
    /// All is well.
    Up,
    /// All is well, and it runs as many requests as it may.
    Busy,
    /// It loads its model and says so: requests wait for it. Its state is [`ConnectionState::Connecting`].
    Warming,
    /// It can be used, but its last probe or many of its requests failed, or it is just coming back.
    Degraded,
    /// It cannot be used.
    Down,
    /// It does not accept our credential.
    Unauthorised,
    /// Not known yet, or a value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

impl ConnectionHealth {
    /// Returns the name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Busy => "busy",
            Self::Warming => "warming",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Unauthorised => "unauthorised",
            Self::Unknown => "unknown",
        }
    }
}

/// How good a connection is; see [`quality`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Quality {
    /// Up, fast, without errors.
    Excellent,
    /// Up, but slowish or with some errors.
    Good,
    /// Up, but slow.
    Poor,
    /// Down, or failing often.
    Critical,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Whether requests are let through to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Breaker {
    /// They are.
    Closed,
    /// They are not, unless there is no other: it failed too often.
    Open,
    /// One is, to see whether it works again.
    HalfOpen,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A connection as `GET /api/connections` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConnectionReport {
    /// The connection itself; its fields stand beside the two below.
    #[serde(flatten)]
    pub connection: Connection,
    /// Its state as a short text for people.
    pub status_description: String,
    /// Whether someone should look; see [`Connection::needs_attention`].
    pub needs_attention: bool,
}

/// Answer of `GET /api/connections`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Connections {
    /// All connections, those that are down included.
    pub connections: Vec<ConnectionReport>,
    /// How many there are.
    pub total_connections: usize,
    /// How many of them are connected.
    pub active_connections: usize,
    /// When it was answered.
    pub timestamp: Timestamp,
}

impl Connections {
    /// Returns the answer for these connections, as seen at `now`.
    pub fn new(connections: impl IntoIterator<Item = Connection>, now: Timestamp) -> Self {
        let connections: Vec<_> =
            connections.into_iter().map(|connection| connection.into_report(now)).collect();
        Self {
            total_connections: connections.len(),
            active_connections: connections.iter().filter(|report| report.connection.connected).count(),
            connections,
            timestamp: now,
        }
    }
}

/// The answer of `POST /api/connections/{id}/test`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ConnectionTest {
    /// Whether it can be used.
    pub ok: bool,
    /// What was found, as one sentence.
    pub message: String,
    /// The connection as it is now.
    pub connection: ConnectionReport,
    /// When it was answered.
    pub timestamp: Timestamp,
}
