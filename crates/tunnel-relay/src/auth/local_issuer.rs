//! The relay's own issuer: an Ed25519 key in the data directory signs tokens, the same key's public half checks
//! them. No identity provider is needed.

mod key_file;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tunnel_transport::DeviceName;

pub use key_file::IssuerError;

use super::cache::{Digest, VerifiedCache};
use super::{Principal, Scopes, TokenError};

/// The `iss` of tokens that a relay signs with its own key.
const ISSUER: &str = "tunnel-relay";

/// Longest token that is looked at, in bytes. Own tokens have about 350.
const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// Longest subject, in bytes: long enough for a mail address (RFC 5321 §4.5.3.1).
const SUBJECT_MAX_BYTES: usize = 254;

/// Signs tokens with the relay's own key.
pub struct LocalIssuer {
    signing: EncodingKey,
    public: DecodingKey,
    /// Names the key: tokens of another relay are told apart before their signature is looked at.
    key_id: String,
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
    jti: String,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
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
        let public = DecodingKey::from_ed_components(&parameters.x)
            .map_err(|source| IssuerError::BadKey { path: key_file::path(data_dir), source })?;
        let key_id = sha256(parameters.x.as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { signing, public, key_id })
    }

    /// Signs a token that is valid from `now` (seconds since 1970) for the grant's time.
    pub fn issue(&self, grant: &Grant, now: u64) -> Result<String, GrantError> {
        check_subject(&grant.subject)?;
        if grant.scopes == Scopes::default() {
            return Err(GrantError::NoScope);
        }
        if grant.ttl.as_secs() == 0 {
            return Err(GrantError::NoTime);
        }
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::EdDSA) };
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: grant.subject.clone(),
            scope: grant.scopes.as_str().to_owned(),
            device: grant.device.as_ref().map(ToString::to_string),
            models: grant.models.clone(),
            tier: grant.tier.clone(),
            jti: format!("{:032x}", rand::random::<u128>()),
            iat: now,
            exp: now.saturating_add(grant.ttl.as_secs()),
            nbf: None,
        };
        jsonwebtoken::encode(&header, &claims, &self.signing).map_err(GrantError::Sign)
    }

    /// Returns what checks this issuer's tokens.
    pub fn verifier(&self) -> Verifier {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // Times are compared in `Verifier::verify`, with the caller's clock and no leeway: these are own tokens.
        validation.validate_exp = false;
        validation.leeway = 0;
        Verifier {
            public: self.public.clone(),
            key_id: self.key_id.clone(),
            validation,
            verified: VerifiedCache::default(),
        }
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
///
/// The algorithm is fixed: `none`, HMAC with the public key as secret and the rest never reach a key.
pub struct Verifier {
    public: DecodingKey,
    key_id: String,
    validation: Validation,
    verified: VerifiedCache,
}

impl Verifier {
    /// Verifies a token at `now`, in seconds since 1970.
    ///
    /// The signature of a token that was verified a moment ago is not checked again, its expiry is.
    pub fn verify(&self, token: &str, now: u64) -> Result<Arc<Principal>, TokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::Invalid);
        }
        let digest = sha256(token.as_bytes());
        let principal = match self.verified.get(&digest) {
            Some(principal) => principal,
            None => {
                let principal = Arc::new(self.check(token, now)?);
                if principal.expires_at > now {
                    self.verified.insert(digest, Arc::clone(&principal));
                }
                principal
            }
        };
        // A token is good up to, not at, its `exp` (RFC 7519 §4.1.4).
        if principal.expires_at <= now {
            self.verified.remove(&digest);
            return Err(TokenError::Expired);
        }
        Ok(principal)
    }

    fn check(&self, token: &str, now: u64) -> Result<Principal, TokenError> {
        let data = jsonwebtoken::decode::<Claims>(token, &self.public, &self.validation)
            .map_err(|_| TokenError::Invalid)?;
        let (header, claims) = (data.header, data.claims);
        if header.crit.is_some() || header.kid.is_some_and(|kid| kid != self.key_id) {
            return Err(TokenError::Invalid);
        }
        if claims.nbf.is_some_and(|nbf| nbf > now) {
            return Err(TokenError::Invalid);
        }
        check_subject(&claims.sub).map_err(|_| TokenError::Invalid)?;
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
            expires_at: claims.exp,
        })
    }

    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.verified.len()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Printable ASCII only: a subject goes into a header, into logs and onto terminals.
fn check_subject(subject: &str) -> Result<(), GrantError> {
    let printable = subject.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if subject.trim().is_empty() || subject.len() > SUBJECT_MAX_BYTES || !printable {
        return Err(GrantError::BadSubject);
    }
    Ok(())
}

/// Writes `tunnel-caller` as a structured-field dictionary (RFC 8941 §3.2): `sub="…", token="…", scope="…"`.
fn caller_header(subject: &str, token_id: &str, scopes: Scopes) -> Option<HeaderValue> {
    let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let value =
        format!("sub=\"{}\", token=\"{}\", scope=\"{}\"", quote(subject), quote(token_id), scopes.as_str());
    HeaderValue::try_from(value).ok()
}

fn sha256(bytes: &[u8]) -> Digest {
    let digest = (DEFAULT_PROVIDER.key_utils.compute_digest)(bytes, ThumbprintHash::SHA256);
    digest.ok().and_then(|digest| digest.try_into().ok()).expect("SHA-256 takes any bytes and gives 32")
}

#[cfg(test)]
mod tests;
