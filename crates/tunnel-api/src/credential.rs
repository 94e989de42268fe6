//! The secrets of connections: what `GET /api/credentials` answers, and what stores one. Values are never shown.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::auth::StoredIn;

/// Answer of `GET /api/credentials`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct StoredCredentials {
    /// The secrets that are kept, by name.
    pub credentials: Vec<StoredCredential>,
}

/// A secret that is kept for connections; answer of what changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct StoredCredential {
    /// Its name: the `credential` of a connection.
    pub name: String,
    /// Where it is kept; [`StoredIn::None`] when it is kept no longer.
    pub stored_in: StoredIn,
    /// The connections that it is sent to, by id.
    pub connections: Vec<String>,
}

/// Body of `PUT /api/credentials/{name}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CredentialRequest {
    /// The secret, as it was issued: sent as `Authorization: Bearer`.
    pub secret: String,
}

impl fmt::Debug for CredentialRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialRequest").finish_non_exhaustive()
    }
}
