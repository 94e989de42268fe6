//! What is stored: the token, and what it takes to renew it.

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};

use super::claims::{self, TokenTimes};
use super::endpoint::Endpoint;

/// Larger than any token that fits the relay's limit for headers.
pub(crate) const MAX_TOKEN_BYTES: usize = 32 * 1024;
/// Larger than two tokens and their surroundings; what is longer in a store is not ours.
pub(super) const MAX_STORED_BYTES: usize = 128 * 1024;

/// A login: one entry of a store.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) access_token: SecretString,
    /// How it is renewed; `None` for a token that somebody else renews.
    pub(crate) renewal: Option<Renewal>,
    /// Where it is revoked at logout.
    pub(crate) revocation_endpoint: Option<Endpoint>,
    /// Whom it is for: what was read off the first token, since a later one may be opaque.
    pub(crate) subject: Option<String>,
    /// When it was issued and when it ends.
    pub(crate) lease: Option<Lease>,
    /// When it was stored, seconds since the epoch: of two entries the newer one counts.
    pub(crate) stored_at: i64,
}

/// What an OAuth 2 server asks for to renew a token.
#[derive(Debug, Clone)]
pub(crate) struct Renewal {
    pub(crate) refresh_token: SecretString,
    pub(crate) token_endpoint: Endpoint,
    pub(crate) client_id: Option<String>,
    /// For whom the token is asked for, where the server wants that named: RFC 8707.
    pub(crate) resource: Option<String>,
}

/// The life of a token by this machine's clock, seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) issued_at: i64,
    pub(crate) expires_at: i64,
}

/// The entry as JSON.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    version: u32,
    stored_at: i64,
    access_token: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revocation_endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<Lease>,
}

/// Of the entry. Fields may be added without a new one: unknown ones are skipped.
const VERSION: u32 = 1;

impl Credentials {
    /// A bare token, stored at `now`.
    pub(crate) fn bare(access_token: SecretString, now: i64) -> Self {
        Self {
            subject: claims::subject(&access_token),
            lease: Lease::of(&access_token, now),
            access_token,
            renewal: None,
            revocation_endpoint: None,
            stored_at: now,
        }
    }

    /// Writes the entry.
    pub(crate) fn to_json(&self) -> SecretSlice<u8> {
        let renewal = self.renewal.as_ref();
        let stored = Stored {
            version: VERSION,
            stored_at: self.stored_at,
            access_token: self.access_token.expose_secret().into(),
            refresh_token: renewal.map(|renewal| renewal.refresh_token.expose_secret().into()),
            token_endpoint: renewal.map(|renewal| renewal.token_endpoint.url().to_string()),
            revocation_endpoint: self.revocation_endpoint.as_ref().map(|endpoint| endpoint.url().to_string()),
            client_id: renewal.and_then(|renewal| renewal.client_id.clone()),
            resource: renewal.and_then(|renewal| renewal.resource.clone()),
            subject: self.subject.clone(),
            lease: self.lease,
        };
        // Cannot fail: strings and numbers only.
        serde_json::to_vec(&stored).expect("plain data").into()
    }

    /// Reads an entry; `None` of anything else.
    pub(crate) fn from_json(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_STORED_BYTES {
            return None;
        }
        let stored: Stored<'_> =
            serde_json::from_slice(bytes).ok().filter(|s: &Stored<'_>| s.version == VERSION)?;
        let endpoint = |text: Option<String>| text.and_then(|text| Endpoint::parse(&text).ok());
        let renewal = match (stored.refresh_token, endpoint(stored.token_endpoint)) {
            (Some(refresh_token), Some(token_endpoint)) => Some(Renewal {
                refresh_token: token(&refresh_token)?,
                token_endpoint,
                client_id: stored.client_id,
                resource: stored.resource,
            }),
            _ => None,
        };
        Some(Self {
            access_token: token(&stored.access_token)?,
            renewal,
            revocation_endpoint: endpoint(stored.revocation_endpoint),
            subject: stored.subject,
            lease: stored.lease,
            stored_at: stored.stored_at,
        })
    }

    /// Tells whether both have the same token.
    pub(super) fn same_token(&self, other: &Self) -> bool {
        self.access_token.expose_secret() == other.access_token.expose_secret()
    }
}

impl Lease {
    /// Reads the life of a JWT that was seen at `now`; `None` of a token that does not say when it ends.
    pub(crate) fn of(token: &SecretString, now: i64) -> Option<Self> {
        let times = TokenTimes::of(token);
        let expires_at = times.expires?;
        Some(Self { issued_at: times.issued.unwrap_or(now).min(expires_at), expires_at })
    }

    /// The life of a token that was issued just now: by how long it lasts, whatever the issuer's clock says. The relay
    /// goes by the token alone, so its own word counts where the answer promises more.
    pub(crate) fn fresh(token: &SecretString, expires_in: Option<i64>, now: i64) -> Option<Self> {
        let times = TokenTimes::of(token);
        let own = times.expires.zip(times.issued).map(|(expires, issued)| expires.saturating_sub(issued));
        let lasts = [expires_in, own].into_iter().flatten().filter(|lasts| *lasts > 0).min();
        match lasts {
            Some(lasts) => Some(Self { issued_at: now, expires_at: now.saturating_add(lasts) }),
            None => Self::of(token, now),
        }
    }
}

/// Takes text for a token if a header can carry it; a second line or a quote would end up as a puzzling refusal.
pub(crate) fn parse_token(text: SecretString) -> Option<SecretString> {
    let bytes = text.expose_secret().as_bytes();
    let fit = !bytes.is_empty() && bytes.len() <= MAX_TOKEN_BYTES && bytes.iter().all(u8::is_ascii_graphic);
    fit.then_some(text)
}

/// Like [`parse_token`], of text that somebody else owns.
pub(super) fn token(text: &str) -> Option<SecretString> {
    parse_token(text.into())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn full() -> Credentials {
        Credentials {
            access_token: "canary-access".to_owned().into(),
            renewal: Some(Renewal {
                refresh_token: "canary-refresh".to_owned().into(),
                token_endpoint: Endpoint::parse("https://login.example/token?canary").unwrap(),
                client_id: Some("desk".to_owned()),
                resource: Some("https://relay.example/".to_owned()),
            }),
            revocation_endpoint: Some(Endpoint::parse("https://login.example/revoke").unwrap()),
            subject: Some("alice".to_owned()),
            lease: Some(Lease { issued_at: 100, expires_at: 200 }),
            stored_at: 150,
        }
    }

    #[test]
    fn entry_comes_back_as_it_was_written() {
        let json = full().to_json();
        let back = Credentials::from_json(json.expose_secret()).unwrap();
        assert_eq!(back.to_json().expose_secret(), json.expose_secret());
        let renewal = back.renewal.unwrap();
        assert_eq!(renewal.refresh_token.expose_secret(), "canary-refresh");
        assert_eq!(renewal.token_endpoint.url().query(), Some("canary"));
    }

    #[test]
    fn something_else_is_no_entry() {
        for other in ["", "{}", "a.b.c", r#"{"version":2,"stored_at":1,"access_token":"a"}"#] {
            assert!(Credentials::from_json(other.as_bytes()).is_none(), "{other}");
        }
        let earlier = r#"{"version":1,"stored_at":1,"access_token":"a","refresh_token":"b","token_endpoint":"https://x.example/t","client_id":"desk"}"#;
        let renewal = Credentials::from_json(earlier.as_bytes()).unwrap().renewal.unwrap();
        assert_eq!((renewal.client_id.as_deref(), renewal.resource), (Some("desk"), None));
        let two_lines = r#"{"version":1,"stored_at":1,"access_token":"a\nb"}"#;
        assert!(Credentials::from_json(two_lines.as_bytes()).is_none());
        let later = r#"{"version":1,"stored_at":1,"access_token":"a","new":{}}"#;
        assert!(Credentials::from_json(later.as_bytes()).is_some());
    }

    #[test]
    fn nothing_secret_is_shown() {
        let shown = format!("{:?} {:?}", full(), full().to_json());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn life_of_a_new_token_is_counted_by_our_own_clock() {
        let opaque = "opaque".to_owned().into();
        let lease = Lease::fresh(&opaque, Some(600), 10_000);
        assert_eq!(lease, Some(Lease { issued_at: 10_000, expires_at: 10_600 }));
        assert_eq!(Lease::fresh(&opaque, None, 10_000), None);
        let says = |issued: i64, expires: i64| {
            let payload = URL_SAFE_NO_PAD.encode(format!(r#"{{"iat":{issued},"exp":{expires}}}"#));
            Lease::fresh(&format!("e30.{payload}.sig").into(), Some(600), 10_000).unwrap().expires_at
        };
        assert_eq!((says(5, 305), says(5, 9_005), says(5, 5)), (10_300, 10_600, 10_600));
        assert_eq!(Lease::of(&opaque, 10_000), None);
    }
}
