//! Keys for apps. A remote one is a token narrower than the login, made by the relay; a local one is made here, for
//! callers that reach this machine and are not its user's own programs.

use std::fmt;
use std::num::NonZeroU32;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::RemotePaths;

/// Where a key is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum KeyReach {
    /// At the relay, which makes it.
    #[default]
    Remote,
    /// At the gateway of this machine: for containers, other users, and the network where `lanGateway` is open.
    Local,
    /// A value that a newer daemon sent.
    #[serde(other)]
    Unknown,
}

/// How much may be asked with a key. What is left out is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeyLimits {
    /// Requests a minute. As many may come at once.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens a minute, of prompts and answers. A request is let in while some are left, and charged with what it took. Each
    /// that runs holds a sixteenth of the limit, so at most sixteen run at once; what they take beyond it is made good before
    /// the next one is let in.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Requests that may run at once.
    pub concurrent: Option<NonZeroU32>,
}

impl KeyLimits {
    /// Tells whether anything is limited.
    pub fn is_some(&self) -> bool {
        *self != Self::default()
    }
}

/// The limits that a key is to have, as [`KeyLimits`] describes them. A name that is none is refused: a misspelled limit
/// would limit nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct WantedLimits {
    /// Requests a minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens a minute, of prompts and answers.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Requests that may run at once.
    pub concurrent: Option<NonZeroU32>,
}

impl From<WantedLimits> for KeyLimits {
    fn from(wanted: WantedLimits) -> Self {
        let WantedLimits { requests_per_minute, tokens_per_minute, concurrent } = wanted;
        Self { requests_per_minute, tokens_per_minute, concurrent }
    }
}

/// Body of `POST /api/keys`. All of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct KeyRequest {
    /// Where it is to be good. Default: at the relay.
    pub reach: KeyReach,
    /// What it is for, for people: at most 64 characters.
    pub name: Option<String>,
    /// What it allows. Default `["inference"]`; never more than the login allows. A local key takes `paths` instead.
    pub scopes: Vec<String>,
    /// The one desktop that it reaches. Default: all of the account. Not for a local key.
    pub device: Option<String>,
    /// The models that it may ask for, at most 32; a `*` at the end stands for any rest. Default: all.
    pub models: Vec<String>,
    /// What a local key may reach: `inference`, `all`, or rules such as `["POST /api/chat"]`. Default `inference`. For a
    /// remote one `remotePaths` in the configuration decides.
    pub paths: RemotePaths,
    /// How much may be asked with it; also a remote key is held to that by this daemon.
    pub limits: WantedLimits,
    /// How long it holds, in seconds. Default: as the relay decides, which also has a maximum; a local one: until it is
    /// revoked.
    pub expires_in: Option<u64>,
}

/// A key that was made from this machine. Its token is not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Key {
    /// What it is called, in lists and in the usage; no secret.
    pub id: String,
    /// Where it is good.
    pub reach: KeyReach,
    /// The relay that made it: its host, with an unusual port. Empty for a local one.
    pub relay: String,
    /// What it is for.
    pub name: Option<String>,
    /// What it allows.
    pub scopes: Vec<String>,
    /// The one desktop that it reaches. None: all.
    pub device: Option<String>,
    /// The models that it may ask for. Empty: all.
    pub models: Vec<String>,
    /// What a local one may reach.
    pub paths: RemotePaths,
    /// How much may be asked with it.
    pub limits: KeyLimits,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was last used here, to the minute. None: never, or that is not known here.
    pub last_used_at: Option<Timestamp>,
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
    /// What an app shows to the relay, or to the gateway, as `Authorization: Bearer`.
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

/// How each local key begins, `tk_<id>_<secret>`: so that it is told from an app's placeholder and from the tokens of
/// others, and found where it has leaked to.
pub const LOCAL_KEY_PREFIX: &str = "tk_";

/// Returns the id of the local key that is meant by an id or by a whole key, which many have at hand instead; the secret
/// must go nowhere. None: what is given belongs to no local key.
pub fn local_key_id(text: &str) -> Option<&str> {
    let digits = text.strip_prefix(LOCAL_KEY_PREFIX)?.split('_').next()?;
    text.get(..LOCAL_KEY_PREFIX.len() + digits.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_whole_key_its_id_is_taken() {
        assert_eq!(local_key_id("tk_0123456789_5ec4e7"), Some("tk_0123456789"));
        assert_eq!(local_key_id("tk_0123456789"), Some("tk_0123456789"));
        assert_eq!(local_key_id("tk_0123456789_"), Some("tk_0123456789"));
        assert_eq!(local_key_id("sha256-00"), None);
    }
}
