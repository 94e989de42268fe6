//! Who is calling: bearer tokens become [`Principal`]s.

pub(crate) mod authority;
mod cache;
mod claims;
mod fetch;
mod issuer;
mod jwt;
mod key;
pub mod local_issuer;
mod remote_keys;
pub(crate) mod revoked;
mod shared_secret;
pub(crate) mod standing;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use tunnel_transport::DeviceName;

pub use local_issuer::{Grant, Issued, IssuerError, LocalIssuer, Verifier};
use standing::Origin;

/// What a verified token says about its holder.
///
/// `Debug` shows the subject and ids, never the token: that is not kept at all.
#[derive(Debug)]
pub struct Principal {
    /// The tenant: devices and callers of one subject find each other, those of two subjects never do.
    ///
    /// Of a token of the relay's own it is `sub`; of another issuer's it begins with that issuer's name and a colon.
    pub subject: Arc<str>,
    /// What the token allows.
    pub scopes: Scopes,
    /// The only device the token holds for; `None`: every device of the subject.
    pub device: Option<DeviceName>,
    /// The only models the token holds for, `*` at the end standing for any rest; `None`: every model.
    pub models: Option<Arc<[String]>>,
    /// The limits that apply, by name; `None`: those of the tier `default`.
    pub tier: Option<String>,
    /// The token's own id (`jti`), for audit and revocation.
    pub token_id: String,
    /// When the token was issued or, where it does not say, from when it is good, in seconds since 1970; 0 where it says
    /// neither.
    pub issued_at: u64,
    /// When the token ends, in seconds since 1970.
    pub expires_at: u64,
    /// The issuer that vouches for the subject, by its `iss`: whose token it is, or whose token asked for this key. `None`: the
    /// relay itself.
    pub issuer: Option<Arc<str>>,
    /// The `tunnel-caller` header for requests of this principal, made once.
    pub(crate) caller: HeaderValue,
    /// What it was verified against, for as long as that is trusted.
    pub(crate) origin: Arc<Origin>,
    /// At which change of what is revoked it was last found good; 0: never yet.
    pub(crate) checked: AtomicU64,
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    tunnel: bool,
    inference: bool,
    account: bool,
}

/// One thing that a token may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scope {
    /// A desktop may dial the relay and serve requests
    Tunnel,
    /// A caller may send requests to the subject's desktops
    Inference,
    /// Its holder is the subject in person: may make keys for apps, and revoke them
    Account,
}

impl Scope {
    /// Returns the scope's name as tokens carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Inference => "inference",
            Self::Account => "account",
        }
    }
}

impl Scopes {
    /// Reads a space-separated list; words of a newer version are passed over, they grant nothing here.
    pub fn parse(list: &str) -> Self {
        let mut scopes = Self::default();
        for word in list.split_ascii_whitespace() {
            match word {
                "tunnel" => scopes.tunnel = true,
                "inference" => scopes.inference = true,
                "account" => scopes.account = true,
                _ => {}
            }
        }
        scopes
    }

    /// Returns whether `scope` is in the set.
    pub fn has(self, scope: Scope) -> bool {
        match scope {
            Scope::Tunnel => self.tunnel,
            Scope::Inference => self.inference,
            Scope::Account => self.account,
        }
    }

    /// Returns whether all of `self` is in `other`.
    pub fn within(self, other: Self) -> bool {
        [Scope::Tunnel, Scope::Inference, Scope::Account]
            .into_iter()
            .all(|scope| !self.has(scope) || other.has(scope))
    }

    /// Returns the space-separated list.
    pub fn as_str(self) -> &'static str {
        match (self.tunnel, self.inference, self.account) {
            (true, true, true) => "tunnel inference account",
            (true, true, false) => "tunnel inference",
            (true, false, true) => "tunnel account",
            (false, true, true) => "inference account",
            (true, false, false) => "tunnel",
            (false, true, false) => "inference",
            (false, false, true) => "account",
            (false, false, false) => "",
        }
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut set = Self::default();
        for scope in scopes {
            match scope {
                Scope::Tunnel => set.tunnel = true,
                Scope::Inference => set.inference = true,
                Scope::Account => set.account = true,
            }
        }
        set
    }
}

/// Why a caller or a desktop was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is no `Authorization: Bearer` header.
    #[error("no bearer token was sent")]
    Missing,
    /// The token is not one of the relay or of an issuer that it trusts, or not yet valid.
    #[error("the token was not issued by this relay or one that it trusts, or is damaged")]
    Invalid,
    /// The token's time is over.
    #[error("the token has expired")]
    Expired,
    /// The token was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// The issuer's keys are not known yet, and cannot be had now: nothing can be said of the token.
    #[error("the issuer of the token cannot be asked for its keys now")]
    IssuerAway,
    /// The same, and tokens of this address wait for so many different keys already that most must be made up.
    #[error("tokens of this address wait for too many different keys")]
    Crowded,
}

impl TokenError {
    /// Tells whether there was a token and it was found bad: whoever sends many of those may be guessing. One that was not
    /// looked at says nothing of who sent it.
    pub(crate) fn is_of_the_token(self) -> bool {
        match self {
            Self::Invalid | Self::Expired | Self::Revoked => true,
            Self::Missing | Self::IssuerAway | Self::Crowded => false,
        }
    }
}

/// Takes the bearer token out of a request's headers.
///
/// Two `Authorization` headers are refused: two readers could pick different ones.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, TokenError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(TokenError::Missing)?;
    if values.next().is_some() {
        return Err(TokenError::Invalid);
    }
    let value = value.to_str().map_err(|_| TokenError::Invalid)?;
    let Some((scheme, token)) = value.split_once(' ') else { return Err(TokenError::Missing) };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(TokenError::Missing);
    }
    let token = token.trim();
    if token.is_empty() { Err(TokenError::Missing) } else { Ok(token) }
}

fn sha256(bytes: &[u8]) -> cache::Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Longest life of a token that the relay issues itself: what `token create` and `max_key_ttl_s` allow at most.
pub(crate) const LONGEST_LIFE: Duration = Duration::from_secs(3_650 * 24 * 60 * 60);

/// Returns the wall clock in whole seconds since 1970, as tokens count.
pub(crate) fn unix_now() -> u64 {
    // A clock before 1970 makes every token valid for longer, never a panic.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn bearer_is_taken_in_any_case_and_once_only() {
        assert_eq!(bearer(&headers(&["Bearer abc"])), Ok("abc"));
        assert_eq!(bearer(&headers(&["bEARER   abc "])), Ok("abc"));
        assert_eq!(bearer(&headers(&[])), Err(TokenError::Missing));
        assert_eq!(bearer(&headers(&["Basic abc"])), Err(TokenError::Missing));
        assert_eq!(bearer(&headers(&["Bearer"])), Err(TokenError::Missing));
        assert_eq!(bearer(&headers(&["Bearer "])), Err(TokenError::Missing));
        assert_eq!(bearer(&headers(&["Bearer a", "Bearer b"])), Err(TokenError::Invalid));
    }

    #[test]
    fn unknown_scopes_grant_nothing() {
        let scopes = Scopes::parse("admin  inference future");
        assert!(scopes.has(Scope::Inference) && !scopes.has(Scope::Tunnel));
        assert_eq!(scopes.as_str(), "inference");
        assert_eq!(Scopes::parse("").as_str(), "");
        assert_eq!(
            [Scope::Inference, Scope::Tunnel].into_iter().collect::<Scopes>().as_str(),
            "tunnel inference"
        );
    }
}
