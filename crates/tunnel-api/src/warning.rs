//! What someone should look at, with the next step.

use serde::{Deserialize, Serialize};

/// The token was good once and is over.
pub const TOKEN_EXPIRED: &str = "token_expired";
/// The relay does not know the token, or it was made by another relay.
pub const TOKEN_INVALID: &str = "token_invalid";
/// The token is genuine, but not one for opening a tunnel with this device.
pub const TOKEN_SCOPE: &str = "token_scope";
/// There is no token, so there is nothing to dial with.
pub const NO_TOKEN: &str = "no_token";
/// Something answers at the relay's address that does not speak the tunnel protocol.
pub const NOT_A_RELAY: &str = "not_a_relay";
/// The relay cannot be reached.
pub const RELAY_UNREACHABLE: &str = "relay_unreachable";
/// The relay can be reached, but TLS with it fails.
pub const RELAY_TLS: &str = "relay_tls";
/// The clock of this machine and that of the relay are too far apart for tokens to be judged.
pub const CLOCK_SKEW: &str = "clock_skew";
/// Another daemon opened the tunnel with the same device name, and this one stays down.
pub const REPLACED: &str = "replaced";
/// The configuration file could not be used; what was loaded before is in force.
pub const CONFIG_INVALID: &str = "config_invalid";
/// A changed key takes effect only after a restart.
pub const RESTART_REQUIRED: &str = "restart_required";
/// A door of the daemon could not be opened, because its port is taken.
pub const PORT_TAKEN: &str = "port_taken";
/// A backend does not answer its probes.
pub const CONNECTION_DOWN: &str = "connection_down";

/// Codes of the warnings that explain why the tunnel is not up.
///
/// A client shows the `next_step` of such a warning beside [`Tunnel::last_error`](crate::Tunnel::last_error).
pub const TUNNEL_CODES: [&str; 9] = [
    TOKEN_EXPIRED,
    TOKEN_INVALID,
    TOKEN_SCOPE,
    NO_TOKEN,
    NOT_A_RELAY,
    RELAY_UNREACHABLE,
    RELAY_TLS,
    CLOCK_SKEW,
    REPLACED,
];

/// Something that a person should look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warning {
    /// Stable machine code, such as [`TOKEN_EXPIRED`]. A later daemon may send codes that are not listed here.
    pub code: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence: what is wrong. Ends without a full stop; carries no secret.
    pub message: String,
    /// What to do about it, as an imperative sentence or a command. Empty when there is nothing to do.
    pub next_step: String,
}

impl Warning {
    /// Returns a warning of severity [`Severity::Warning`].
    pub fn new(code: &str, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            severity: Severity::Warning,
            message: message.into(),
            next_step: next_step.into(),
        }
    }

    /// Returns the same warning with another severity.
    #[must_use]
    pub fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// Tells whether it explains why the tunnel is not up.
    pub fn is_about_tunnel(&self) -> bool {
        TUNNEL_CODES.contains(&self.code.as_str())
    }
}

/// How much a [`Warning`] matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; nothing is impaired.
    Info,
    /// Someone should look, it still works.
    Warning,
    /// A part of the daemon does not do its job.
    Error,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}
