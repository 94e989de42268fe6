//! Whose tokens are taken besides the relay's own, and how a desktop logs in.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::auth::Scopes;

/// An issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// A short name: `[a-z0-9-]`, unique. Tenants of this issuer are `<name>:<tenant claim>`.
    pub name: String,
    /// What stands in `iss`, exactly.
    pub issuer: String,
    /// Where its keys come from.
    pub keys: KeySource,
    /// The algorithms that are taken, by their names in RFC 7518. Default: all asymmetric ones that the relay knows, for
    /// keys of an address; HS256 for a secret. A key is only ever used with the algorithms of its own type.
    pub algorithms: Vec<String>,
    /// One of these must be in `aud`. Not empty.
    pub audiences: Vec<String>,
    /// The claim that names the tenant. Default `sub`; `org_id` or the like lets a team share its desktops.
    pub tenant_claim: String,
    /// The claim that names the tier: a name, or a path with dots into an object, such as `app_metadata.tier`. Default:
    /// none, which is the tier `default`.
    pub tier_claim: Option<String>,
    /// The claim that lists scopes of ours (text with spaces, or a list of texts). Default: none.
    pub scope_claim: Option<String>,
    /// What a token of this issuer allows where `scope_claim` is not set. Default: tunnel, inference, account.
    pub scopes: Scopes,
    /// What the clocks may differ by, in seconds. Default 60.
    pub leeway: Duration,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// By OpenID Connect discovery: `<issuer>/.well-known/openid-configuration` says.
    Discovery,
    /// A JSON Web Key Set at this address.
    Jwks(Url),
    /// A shared secret in this file (HS256): a Supabase project's legacy `JWT secret`. Read anew when it changes.
    SecretFile(PathBuf),
}

/// How a desktop logs in: what `GET /_tunnel/v1/login` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSettings {
    /// The name of one of the issuers with [`KeySource::Discovery`].
    pub issuer: String,
    /// The client that desktops are: public, without a secret.
    pub client_id: String,
    /// What is asked for. Default `openid offline_access`.
    pub scope: String,
    /// `audience` of the request, which some providers (Auth0) want.
    pub audience: Option<String>,
    /// `resource` of the request (RFC 8707), which others want.
    pub resource: Option<String>,
}
