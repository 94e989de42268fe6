//! What can be read off a token without the issuer's key: for explanations and display only.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tunnel_transport::printable;

/// The times in a token, seconds since the epoch. Read without a check of the signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct TokenTimes {
    #[serde(rename = "iat")]
    pub(crate) issued: Option<i64>,
    #[serde(rename = "exp")]
    pub(crate) expires: Option<i64>,
    #[serde(rename = "nbf")]
    pub(crate) not_before: Option<i64>,
}

impl TokenTimes {
    /// Reads the times of a JWT; none of anything else.
    pub(crate) fn of(token: &SecretString) -> Self {
        payload(token).unwrap_or_default()
    }
}

/// Returns whom a JWT names as its subject.
pub(crate) fn subject(token: &SecretString) -> Option<String> {
    #[derive(Deserialize)]
    struct Subject {
        sub: String,
    }
    let Subject { sub } = payload(token)?;
    Some(printable(&sub)).filter(|sub| !sub.is_empty())
}

fn payload<T: DeserializeOwned>(token: &SecretString) -> Option<T> {
    let payload = token.expose_secret().split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_subject_are_read_off_a_jwt_and_nothing_else() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iat":100,"exp":200,"sub":"alice\u001b"}"#);
        let token = format!("e30.{payload}.sig").into();
        let times = TokenTimes { issued: Some(100), expires: Some(200), not_before: None };
        assert_eq!((TokenTimes::of(&token), subject(&token).as_deref()), (times, Some("alice")));
        let opaque = "opaque".to_owned().into();
        assert_eq!((TokenTimes::of(&opaque), subject(&opaque)), (TokenTimes::default(), None));
    }
}
