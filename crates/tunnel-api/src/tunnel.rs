//! The tunnel: what is wanted of it, how it stands, and the answer to an order.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The tunnel part of [`Status`](crate::Status).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tunnel {
    /// What the user wants.
    pub target: Target,
    /// How it stands.
    pub state: TunnelState,
    /// The relay's address, without credentials. None when the tunnel is switched off in the configuration.
    pub relay: Option<String>,
    /// The name under which the relay knows this machine.
    pub device: Option<String>,
    /// When `state` was entered.
    pub since: Option<Timestamp>,
    /// Latest round trip to the relay, in milliseconds. None until one was measured.
    pub rtt_ms: Option<f64>,
    /// How many times a new session was dialled since the daemon started, the first one not counted.
    pub reconnects: u64,
    /// How many times a cut link was resumed with its streams unharmed.
    pub resumes: u64,
    /// Why the tunnel is not up, as one sentence. None while it is up and has been from the start.
    ///
    /// The next step is in the entry of [`Status::warnings`](crate::Status::warnings) for which
    /// [`Warning::is_about_tunnel`](crate::Warning::is_about_tunnel) holds.
    pub last_error: Option<String>,
}

/// What the user wants of the tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Target {
    /// To be connected, for ever.
    Up,
    /// To stay away until started.
    Down,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// How the tunnel stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TunnelState {
    /// Not connected, and nothing is under way.
    Disconnected,
    /// A dial or a resume is under way.
    Connecting,
    /// Up: the relay can send requests.
    Connected,
    /// Waiting before the next dial.
    Backoff,
    /// Taken over by another daemon, or the token was not accepted: no dialling until a start, a new token or
    /// a change of the configuration.
    Refused,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

impl TunnelState {
    /// Returns the name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Backoff => "backoff",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for TunnelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Answer to `POST /api/tunnel/start`, `stop` and `restart`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TunnelAnswer {
    /// What was done, as one sentence.
    pub message: String,
    /// `success`; everything else is an [`ErrorBody`](crate::ErrorBody).
    pub status: String,
    /// When it was answered.
    pub timestamp: Timestamp,
}

impl TunnelAnswer {
    /// Returns an answer with status `success`.
    pub fn success(message: impl Into<String>, now: Timestamp) -> Self {
        Self { message: message.into(), status: "success".to_owned(), timestamp: now }
    }
}
