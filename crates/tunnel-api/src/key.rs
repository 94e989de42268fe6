//! Keys for apps: tokens narrower than the login, made by the relay for one who is logged in.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Body of `POST /api/keys`. All of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct KeyRequest {
    /// What it is for, for people: at most 64 characters.
    pub name: Option<String>,
    /// What it allows. Default `["inference"]`; never more than the login allows.
    pub scopes: Vec<String>,
    /// The one desktop that it reaches. Default: all of the account.
    pub device: Option<String>,
    /// The models that it may ask for, at most 32. Default: all.
    pub models: Vec<String>,
    /// How long it holds, in seconds. Default: as the relay decides, which also has a maximum.
    pub expires_in: Option<u64>,
}

/// A key that was made from this machine. Its token is not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Key {
    /// What the relay calls it.
    pub id: String,
    /// The relay that made it: its host, with an unusual port.
    pub relay: String,
    /// What it is for.
    pub name: Option<String>,
    /// What it allows.
    pub scopes: Vec<String>,
    /// The one desktop that it reaches. None: all.
    pub device: Option<String>,
    /// The models that it may ask for. Empty: all.
    pub models: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked from this machine. None: it was not.
    pub revoked_at: Option<Timestamp>,
}

/// Answer of `POST /api/keys`: the only time that the token is shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct NewKey {
    /// What is kept of it.
    #[serde(flatten)]
    pub key: Key,
    /// What an app shows to the relay, as `Authorization: Bearer`.
    pub token: String,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Answer of `GET /api/keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Keys {
    /// The keys that were made from this machine, the newest first. Those that ended long ago are forgotten.
    pub keys: Vec<Key>,
    /// When it was answered.
    pub timestamp: Timestamp,
}
