//! What someone should look at, with the next step.

use jiff::Timestamp;
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
/// A key of the configuration says something, and nothing in this version heeds it.
pub const KEY_WITHOUT_EFFECT: &str = "key_without_effect";
/// A door of the daemon could not be opened, because its port is taken.
pub const PORT_TAKEN: &str = "port_taken";
/// The gateway for other machines speaks plain HTTP, so that the network can read along.
pub const LAN_GATEWAY_PLAIN: &str = "lan_gateway_plain";
/// The gateway for other machines cannot take its certificate.
pub const LAN_GATEWAY_TLS: &str = "lan_gateway_tls";
/// A backend does not answer its probes.
pub const CONNECTION_DOWN: &str = "connection_down";
/// A plugin's program does not start, ends by itself or does not answer; it is started again and again.
pub const PLUGIN_FAILING: &str = "plugin_failing";
/// A plugin's program runs without a sandbox, because there is no systemd of the user's to make one.
pub const PLUGIN_UNSANDBOXED: &str = "plugin_unsandboxed";
/// The state database was damaged; it has been set aside and a new one begun.
pub const STATE_CORRUPT: &str = "state_corrupt";
/// The state database was written by a newer version; it is left alone and nothing is kept.
pub const STATE_NEWER: &str = "state_newer";
/// The state database cannot be used, or cannot be written at the moment.
pub const STATE_DEGRADED: &str = "state_degraded";

/// A connection's probes take longer than `alerts.latencyMs`.
pub const LATENCY_HIGH: &str = "latency_high";
/// More of a connection's requests fail than `alerts.errorRatePercent`.
pub const ERROR_RATE_HIGH: &str = "error_rate_high";
/// As many requests of a connection have failed one after another as `alerts.consecutiveFailures` says.
pub const FAILURES_IN_A_ROW: &str = "failures_in_a_row";
/// The daemon holds more memory than `alerts.memoryMB`.
pub const MEMORY_HIGH: &str = "memory_high";

/// There is no keyring to keep the token in: no session bus, no program that provides one, or no default keyring.
pub const KEYRING_ABSENT: &str = "keyring_absent";
/// The keyring is locked, and what it holds cannot be read until it is unlocked.
pub const KEYRING_LOCKED: &str = "keyring_locked";
/// The keyring, or the bus on the way to it, does not answer.
pub const KEYRING_TIMEOUT: &str = "keyring_timeout";
/// The keyring answers with an error.
pub const KEYRING_FAILED: &str = "keyring_failed";
/// The file that holds the token, or its key, cannot be used.
pub const SECRET_FILE_UNUSABLE: &str = "secret_file_unusable";
/// A renewed token could not be stored: it is lost with a restart.
pub const TOKEN_NOT_STORED: &str = "token_not_stored";
/// The token could not be renewed yet.
pub const TOKEN_REFRESH_FAILED: &str = "token_refresh_failed";
/// The token is not renewed any more: it takes a new login.
pub const LOGIN_EXPIRED: &str = "login_expired";

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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// When it began to hold, which may be some seconds before it was first shown. None from an older daemon.
    pub since: Option<Timestamp>,
}

impl Warning {
    /// Returns a warning of severity [`Severity::Warning`].
    pub fn new(code: &str, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            severity: Severity::Warning,
            message: message.into(),
            next_step: next_step.into(),
            since: None,
        }
    }

    /// Returns the same warning with another severity.
    #[must_use]
    pub fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// Tells whether nobody has to do anything: such a next step begins with `nothing`.
    pub fn passes_by_itself(&self) -> bool {
        self.next_step.starts_with("nothing")
    }

    /// Tells whether it explains why the tunnel is not up.
    pub fn is_about_tunnel(&self) -> bool {
        TUNNEL_CODES.contains(&self.code.as_str())
    }
}

/// The answer of `GET /api/warnings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Warnings {
    /// The most severe first.
    pub warnings: Vec<Warning>,
    /// When it was answered.
    pub timestamp: Timestamp,
}

/// How much a [`Warning`] matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
