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

/// How a person proves who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LoginFlow {
    /// In a browser on this machine, which comes back to the daemon (RFC 8252, with PKCE).
    Browser,
    /// In a browser on whatever machine, with a code that is typed there (RFC 8628).
    DeviceCode,
    /// A value that this program does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl LoginFlow {
    /// Returns the name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Browser => "browser",
            Self::DeviceCode => "device_code",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for LoginFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Body of `POST /api/auth/login`; it may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LoginRequest {
    /// Which way to log in. Default `device_code`.
    pub flow: LoginFlow,
}

impl Default for LoginRequest {
    fn default() -> Self {
        Self { flow: LoginFlow::DeviceCode }
    }
}

/// Answer of `POST /api/auth/login`: what the person has to do now.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct LoginBegun {
    /// The way that was taken.
    pub flow: LoginFlow,
    /// Page on which `user_code` is typed. None in the flow `browser`.
    pub verification_uri: Option<String>,
    /// The same page with the code in it already, for a link or a QR code. None where the provider has none.
    pub verification_uri_complete: Option<String>,
    /// What is typed there. None in the flow `browser`.
    pub user_code: Option<String>,
    /// Page to open in a browser on this machine. None in the flow `device_code`.
    pub authorization_url: Option<String>,
    /// When the login ends unfinished.
    pub expires_at: Timestamp,
    /// How often the daemon asks whether it is done, in seconds. None in the flow `browser`.
    pub interval_s: Option<u64>,
}

impl fmt::Debug for LoginBegun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Codes and addresses of a login are for its user alone.
        f.debug_struct("LoginBegun").field("flow", &self.flow).finish_non_exhaustive()
    }
}

/// How a login stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LoginState {
    /// None was begun since the daemon started, or it was cancelled.
    None,
    /// The person has to act.
    Pending,
    /// The token is stored.
    Done,
    /// It ended without a token; `error` says why.
    Failed,
    /// A value that a newer daemon sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Answer of `GET` and `DELETE /api/auth/login`: the login that was begun last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct LoginStatus {
    /// How it stands.
    pub state: LoginState,
    /// Which way was taken. None where there is no login.
    pub flow: Option<LoginFlow>,
    /// Why it failed, as one sentence with the next step.
    pub error: Option<String>,
    /// The same as a stable word: `access_denied`, `login_timeout`, `login_unavailable`, `login_refused`,
    /// `provider_unavailable`, `secret_store_unavailable`.
    pub code: Option<String>,
    /// When a pending login ends unfinished.
    pub expires_at: Option<Timestamp>,
}
