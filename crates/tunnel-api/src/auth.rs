//! The login: what `GET /api/auth` answers, and what stores a token.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Answer of `GET /api/auth`, and of what changes the login.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct AuthStatus {
    /// Whether there is a token that has not expired by this machine's clock. Whether the relay takes it is told
    /// by the tunnel's state.
    pub authenticated: bool,
    /// Whom the token is for, as it says itself. Not verified: for display only.
    pub subject: Option<String>,
    /// When the token ends, as it says itself. Not verified: for display only.
    pub expires_at: Option<Timestamp>,
    /// Where the token is kept.
    pub stored_in: StoredIn,
    /// Whether the daemon renews the token by itself before it ends.
    pub refreshable: bool,
    /// What went wrong last with the login, as one sentence. None when all is well.
    pub last_error: Option<String>,
}

/// Where a token is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StoredIn {
    /// The desktop's keyring (Secret Service).
    Keyring,
    /// systemd's credential `cloud-token`.
    Credential,
    /// An encrypted file in the state directory.
    File,
    /// The file that `--token-file` names.
    TokenFile,
    /// Nowhere: there is no token.
    None,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

impl StoredIn {
    /// Returns the name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keyring => "keyring",
            Self::Credential => "credential",
            Self::File => "file",
            Self::TokenFile => "token_file",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for StoredIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Body of `PUT /api/auth/token`. Its `Debug` shows none of the values.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The token to show to the relay.
    pub token: String,
    /// What renews it; with it the daemon keeps the login alive. Needs `token_endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// Address at which the token is renewed (OAuth 2, RFC 6749 §6): https, or http to this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
    /// Address at which the token is revoked at logout (RFC 7009).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_endpoint: Option<String>,
    /// Under which name the client is known at these addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest").finish_non_exhaustive()
    }
}
