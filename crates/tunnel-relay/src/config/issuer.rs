//! Whose tokens are taken besides the relay's own, and how a desktop logs in.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::rules;
use super::table::{Table, nearest};
use crate::auth::{Scope, Scopes};

/// An issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// A short name: `[a-z0-9-]`, unique. Tenants of this issuer are `<name>:<tenant claim>`, so the name stays with the
    /// issuer: another one under the same name would have the devices of those before.
    ///
    /// When the issuer leaves the settings, or has another name or `issuer`, its tokens are not taken any more, nor are the
    /// keys that were made with them.
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
    /// none, which is the tier `default`. Keys that are made with such a token keep its tier, and last no longer than
    /// [`Settings::max_tiered_key_ttl`](super::Settings::max_tiered_key_ttl).
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

/// What keys of an address may sign with.
const ASYMMETRIC: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
/// What a shared secret may sign with.
const SYMMETRIC: [&str; 1] = ["HS256"];
/// What clocks may differ by, in seconds, at most: more would keep tokens alive that have expired.
const MAX_LEEWAY_S: u64 = 600;
/// Issuers that a relay can have. Each costs a look at every token that is not known yet.
const MAX_ISSUERS: usize = 64;

/// Reads all `[[issuers]]`.
pub(super) fn read_all(root: &mut Table<'_>) -> Vec<IssuerSettings> {
    let mut names: Vec<String> = Vec::new();
    let mut identifiers: Vec<String> = Vec::new();
    let read = root.tables("issuers", |table| {
        let issuer = IssuerSettings::read(table)?;
        if names.contains(&issuer.name) {
            table.fault("name", format!("is {} a second time; names are unique", issuer.name));
        }
        // A token says in `iss` whose it is, so two of one name could not be told apart.
        if identifiers.contains(&issuer.issuer) {
            table.fault(
                "issuer",
                "stands for another of the [[issuers]] already; put all its audiences there",
            );
        }
        names.push(issuer.name.clone());
        identifiers.push(issuer.issuer.clone());
        Some(issuer)
    });
    if read.len() > MAX_ISSUERS {
        root.fault("issuers", format!("are {}; {MAX_ISSUERS} is the most", read.len()));
    }
    read.into_iter().flatten().collect()
}

impl IssuerSettings {
    fn read(table: &mut Table<'_>) -> Option<Self> {
        table.require("name", "is missing: a short name, which the issuer's tenants are known by");
        table.require("issuer", "is missing: what stands in the tokens' iss, exactly");
        table.require("audiences", "is missing: without one, tokens made for other services would be taken");
        let name = table.parsed("name", rules::issuer_name);
        let keys = KeySource::read(table);
        let issuer = match keys {
            // That is where discovery asks.
            Some(KeySource::Discovery) => {
                table.parsed("issuer", |text| rules::fetched_url(text).map(|_| text.to_owned()))
            }
            Some(KeySource::Jwks(_) | KeySource::SecretFile(_)) | None => table.text("issuer"),
        };
        let audiences = table.list("audiences", |text| Ok(text.to_owned()));
        if audiences.as_ref().is_some_and(Vec::is_empty) {
            table.fault("audiences", "must not be empty: tokens made for other services would be taken");
        }
        let algorithms = read_algorithms(table);
        let tenant_claim = table.text("tenant_claim").unwrap_or_else(|| "sub".to_owned());
        let (tier_claim, scope_claim) = (table.text("tier_claim"), table.text("scope_claim"));
        let scopes = table.list("scopes", scope).unwrap_or_else(|| ALL_SCOPES.to_vec());
        let leeway = table.seconds("leeway_s", 0..=MAX_LEEWAY_S).unwrap_or(DEFAULT_LEEWAY);
        Some(Self {
            name: name?,
            issuer: issuer?,
            keys: keys?,
            algorithms,
            audiences: audiences?,
            tenant_claim,
            tier_claim,
            scope_claim,
            scopes: scopes.into_iter().collect(),
            leeway,
        })
    }
}

const DEFAULT_LEEWAY: Duration = Duration::from_secs(60);
const ALL_SCOPES: [Scope; 3] = [Scope::Tunnel, Scope::Inference, Scope::Account];

fn scope(text: &str) -> Result<Scope, String> {
    let known = || ALL_SCOPES.iter().map(|scope| scope.as_str());
    ALL_SCOPES.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| match nearest(text, known()) {
        Some(scope) => format!("is no scope; did you mean {scope}?"),
        None => format!("is no scope; there are {}", known().collect::<Vec<_>>().join(", ")),
    })
}

fn read_algorithms(table: &mut Table<'_>) -> Vec<String> {
    let (known, whose): (&[&str], &str) =
        if table.has("secret_file") { (&SYMMETRIC, "a secret") } else { (&ASYMMETRIC, "keys of an address") };
    let listed = table.list("algorithms", |text| {
        if known.contains(&text) {
            return Ok(text.to_owned());
        }
        // `none`, and a public key taken for a secret, are the oldest holes of tokens.
        Err(format!("is no algorithm that this relay takes for {whose}; there are {}", known.join(", ")))
    });
    if listed.as_ref().is_some_and(Vec::is_empty) {
        table.fault("algorithms", "must not be empty; leave it out for the default");
    }
    listed.unwrap_or_else(|| known.iter().map(|&name| name.to_owned()).collect())
}

impl KeySource {
    /// `None`: there is a fault, which was noted.
    fn read(table: &mut Table<'_>) -> Option<Self> {
        let jwks = table.parsed("jwks_url", rules::fetched_url);
        let secret = table.file("secret_file");
        match (table.has("jwks_url"), table.has("secret_file")) {
            (true, true) => {
                table.fault("secret_file", "stands beside jwks_url; an issuer's keys come from one place");
                None
            }
            (true, false) => jwks.map(Self::Jwks),
            (false, true) => secret.map(Self::SecretFile),
            (false, false) => Some(Self::Discovery),
        }
    }
}

impl LoginSettings {
    pub(super) fn read(table: &mut Table<'_>) -> Option<Self> {
        table.require("issuer", "is missing: the name of one of the [[issuers]]");
        table.require("client_id", "is missing: the public client that desktops are at that issuer");
        let (issuer, client_id) = (table.text("issuer"), table.text("client_id"));
        let scope = table.text("scope").unwrap_or_else(|| "openid offline_access".to_owned());
        let (audience, resource) = (table.text("audience"), table.text("resource"));
        Some(Self { issuer: issuer?, client_id: client_id?, scope, audience, resource })
    }
}
