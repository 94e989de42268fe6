//! The relay's own issuer: an Ed25519 key in the data directory signs tokens, the same key's public half checks
//! them. No identity provider is needed.

mod key_file;
mod token_id;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tunnel_transport::DeviceName;

pub use key_file::IssuerError;

use super::claims::{SUBJECT_MAX_BYTES, Times, caller_header, is_subject, is_token_id};
use super::jwt::Jwt;
use super::key::Key;
use super::standing::Origin;
use super::{Principal, Scopes, TokenError, sha256};
use crate::hex::hex;
use token_id::TokenIds;

/// The `iss` of tokens that a relay signs with its own key.
pub(super) const ISSUER: &str = "tunnel-relay";

/// Signs tokens with the relay's own key.
pub struct LocalIssuer {
    signing: EncodingKey,
    /// The public half, 32 bytes.
    public: Vec<u8>,
    /// Names the key: tokens of another relay are told apart before their signature is looked at.
    key_id: String,
    ids: TokenIds,
}

/// What a new token is to say.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The tenant.
    pub subject: String,
    /// What the token allows; at least one scope.
    pub scopes: Scopes,
    /// The only device that the token holds for; `None`: every device of the subject.
    pub device: Option<DeviceName>,
    /// The only models that the token holds for; `None`: every model.
    pub models: Option<Vec<String>>,
    /// Name of the limits that apply.
    pub tier: Option<String>,
    /// How long the token is valid.
    pub ttl: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    models: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    /// Of a key that was made with another issuer's token: that issuer's `iss`. It falls with that issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    jti: String,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
}

/// A token that was just signed.
#[derive(Clone)]
pub struct Issued {
    /// The token itself.
    pub token: String,
    /// Its id, for revocation.
    pub id: String,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
}

impl LocalIssuer {
    /// Reads the key from `data_dir`, or makes it there; the directory is made too, with mode 0700.
    ///
    /// Two processes that start at once end with one key. A directory or a key that others can read is refused, and
    /// the error says how to mend it.
    pub fn open(data_dir: &Path) -> Result<Self, IssuerError> {
        let signing = key_file::open(data_dir)?;
        let public_key = Jwk::from_encoding_key(&signing, Algorithm::EdDSA)
            .map_err(|source| IssuerError::BadKey { path: key_file::path(data_dir), source })?;
        let AlgorithmParameters::OctetKeyPair(parameters) = &public_key.algorithm else {
            unreachable!("an Ed25519 key's public half is an octet key pair");
        };
        let public = URL_SAFE_NO_PAD.decode(&parameters.x).expect("a key that was just encoded");
        let key_id = hex(&sha256(parameters.x.as_bytes())[..8]);
        let ids = TokenIds::new(signing.as_bytes());
        Ok(Self { signing, public, key_id, ids })
    }

    /// Signs a token that is valid from `now` (seconds since 1970) for the grant's time.
    pub fn issue(&self, grant: &Grant, now: u64) -> Result<String, GrantError> {
        self.sign(grant, None, now).map(|issued| issued.token)
    }

    /// The same, and says what was signed. `via`: the `iss` of the issuer whose token asks for it; the new one is not taken
    /// any more when that issuer leaves the settings.
    pub fn sign(&self, grant: &Grant, via: Option<&str>, now: u64) -> Result<Issued, GrantError> {
        if !is_subject(&grant.subject) {
            return Err(GrantError::BadSubject);
        }
        if grant.scopes == Scopes::default() {
            return Err(GrantError::NoScope);
        }
        if grant.ttl.as_secs() == 0 {
            return Err(GrantError::NoTime);
        }
        let exp = now.saturating_add(grant.ttl.as_secs());
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::EdDSA) };
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: grant.subject.clone(),
            scope: grant.scopes.as_str().to_owned(),
            device: grant.device.as_ref().map(ToString::to_string),
            models: grant.models.clone(),
            tier: grant.tier.clone(),
            via: via.map(str::to_owned),
            jti: self.ids.make(&grant.subject, exp),
            iat: now,
            exp,
            nbf: None,
        };
        let token = jsonwebtoken::encode(&header, &claims, &self.signing).map_err(GrantError::Sign)?;
        Ok(Issued { token, id: claims.jti, expires_at: claims.exp })
    }

    /// Returns when the token of this id ends, in seconds since 1970, where the id proves to be one of a token that was made
    /// here for this subject. Those of earlier versions prove nothing.
    pub(crate) fn end_of(&self, token_id: &str, subject: &str) -> Option<u64> {
        self.ids.end(token_id, subject)
    }

    /// Returns what checks this issuer's tokens.
    pub fn verifier(&self) -> Verifier {
        Verifier { key: Key::ed25519(self.key_id.clone(), self.public.clone()), origin: Arc::default() }
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for LocalIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalIssuer").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Why a token cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The subject is empty, too long, or not printable ASCII.
    #[error("a subject is 1 to {SUBJECT_MAX_BYTES} printable ASCII characters")]
    BadSubject,
    /// No scope was asked for.
    #[error("a token needs at least one scope")]
    NoScope,
    /// The time to live is below one second.
    #[error("a token must be valid for at least one second")]
    NoTime,
    /// The key did not sign.
    #[error("could not sign the token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// Checks tokens of a [`LocalIssuer`].
#[derive(Debug)]
pub struct Verifier {
    key: Key,
    origin: Arc<Origin>,
}

impl Verifier {
    /// Verifies a token at `now`, in seconds since 1970. Whether it was revoked, or has fallen with the issuer through which
    /// it was made, is not asked here.
    pub fn verify(&self, token: &str, now: u64) -> Result<Arc<Principal>, TokenError> {
        let principal = self.check(&Jwt::parse(token)?, now)?;
        // A token is good up to, not at, its `exp` (RFC 7519 §4.1.4).
        if principal.expires_at <= now {
            return Err(TokenError::Expired);
        }
        Ok(Arc::new(principal))
    }

    /// Verifies all of a token but its end.
    pub(super) fn check(&self, jwt: &Jwt<'_>, now: u64) -> Result<Principal, TokenError> {
        let is_named = jwt.key_id.is_none() || jwt.key_id == self.key.id;
        if !is_named || !self.key.verifies(jwt.algorithm, jwt.signed, &jwt.signature) {
            return Err(TokenError::Invalid);
        }
        // Own clocks: no leeway.
        let times = Times::check(&jwt.claims, 0, now)?;
        let claims: Claims =
            serde_json::from_value(Value::Object(jwt.claims.clone())).map_err(|_| TokenError::Invalid)?;
        if claims.iss != ISSUER || !is_subject(&claims.sub) || !is_token_id(&claims.jti) {
            return Err(TokenError::Invalid);
        }
        let device = match claims.device {
            // A name that cannot be a device's would otherwise hold for none, or, read carelessly, for all.
            Some(name) => Some(name.parse().map_err(|_| TokenError::Invalid)?),
            None => None,
        };
        let scopes = Scopes::parse(&claims.scope);
        Ok(Principal {
            caller: caller_header(&claims.sub, &claims.jti, scopes).ok_or(TokenError::Invalid)?,
            subject: claims.sub.into(),
            scopes,
            device,
            models: claims.models.map(Into::into),
            tier: claims.tier,
            token_id: claims.jti,
            issued_at: times.issued,
            expires_at: times.until,
            issuer: claims.via.map(Into::into),
            origin: Arc::clone(&self.origin),
            checked: AtomicU64::new(0),
        })
    }
}

#[cfg(test)]
mod tests;
