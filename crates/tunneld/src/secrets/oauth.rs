//! What an OAuth 2 server is asked: to renew a token, and to revoke one.

use std::time::Duration;

use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::call::{Call, CallError, Way};
use super::credentials::{self, Credentials, Renewal};

/// A token that was issued, for the first time or anew.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) access_token: SecretString,
    /// Replaces the one that was shown, which is used up; `None` when that one goes on, or there is none.
    pub(crate) refresh_token: Option<SecretString>,
    /// How long the new one lasts, in seconds.
    pub(crate) expires_in: Option<i64>,
}

/// Why a token was not renewed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefreshError {
    #[error("{host} does not renew the token any more")]
    LoginExpired { host: String },
    #[error("{host} refuses to renew the token: {code}")]
    Refused { host: String, code: &'static str },
    #[error("{host} cannot renew the token now: it answered {status}")]
    Unavailable { host: String, status: StatusCode, retry_after: Option<Duration> },
    #[error("{host} gave an answer without a usable token")]
    BadAnswer { host: String },
    #[error(transparent)]
    Call(#[from] CallError),
}

impl RefreshError {
    /// Tells whether a further attempt can do no good.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::LoginExpired { .. } => true,
            Self::Refused { .. } | Self::Unavailable { .. } | Self::BadAnswer { .. } | Self::Call(_) => false,
        }
    }

    /// How long the server asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            Self::LoginExpired { .. } | Self::Refused { .. } | Self::BadAnswer { .. } | Self::Call(_) => None,
        }
    }
}

/// Codes of RFC 6749 §5.2 beside `invalid_grant`. What else stands there is not repeated.
const REFUSALS: [&str; 5] =
    ["invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"];

/// Renews a token: RFC 6749 §6.
pub(crate) async fn refresh(renewal: &Renewal, way: &Way) -> Result<Issued, RefreshError> {
    let mut form =
        vec![("grant_type", "refresh_token"), ("refresh_token", renewal.refresh_token.expose_secret())];
    if let Some(client_id) = &renewal.client_id {
        form.push(("client_id", client_id));
    }
    if let Some(resource) = &renewal.resource {
        form.push(("resource", resource));
    }
    let host = || renewal.token_endpoint.host();
    let answer = Call::post_form(&renewal.token_endpoint, &form).make(way).await?;
    if answer.status == StatusCode::OK {
        return issued(&answer.body).ok_or_else(|| RefreshError::BadAnswer { host: host() });
    }
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    // A proxy's page or a server in trouble says nothing about the login.
    let code = match answer.status.as_u16() {
        400 | 401 => {
            serde_json::from_slice::<Refusal>(&answer.body).map_or_else(|_| String::new(), |r| r.error)
        }
        _ => String::new(),
    };
    if code == "invalid_grant" {
        return Err(RefreshError::LoginExpired { host: host() });
    }
    Err(match REFUSALS.iter().find(|known| **known == code) {
        Some(code) => RefreshError::Refused { host: host(), code },
        None => {
            RefreshError::Unavailable { host: host(), status: answer.status, retry_after: answer.retry_after }
        }
    })
}

/// Reads what a token endpoint answers when it issues a token: RFC 6749 §5.1.
pub(crate) fn issued(body: &[u8]) -> Option<Issued> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: String,
        token_type: Option<String>,
        refresh_token: Option<String>,
        /// A number; some servers write it as text.
        expires_in: Option<Value>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    if answer.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return None;
    }
    let refresh_token = match answer.refresh_token {
        Some(token) => Some(credentials::token(&token)?),
        None => None,
    };
    let seconds = |value: Value| match value {
        Value::Number(number) => number.as_f64().map(|seconds| seconds as i64),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    Some(Issued {
        access_token: credentials::token(&answer.access_token)?,
        refresh_token,
        expires_in: answer.expires_in.and_then(seconds),
    })
}

/// Longest wait for a revocation: who logs out waits for it.
const REVOKE_LIMIT: Duration = Duration::from_secs(5);

/// Why it is not known that a token is void.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevokeError {
    #[error("{host} answered {status}")]
    Refused { host: String, status: StatusCode },
    #[error("{host} did not answer within {} s", REVOKE_LIMIT.as_secs())]
    Timeout { host: String },
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Makes a login void at its server: RFC 7009. `Ok(false)` where no address for that is known.
///
/// The refresh token where there is one: with it the server ends the access tokens too.
pub(crate) async fn revoke(login: &Credentials, way: &Way) -> Result<bool, RevokeError> {
    let Some(endpoint) = &login.revocation_endpoint else { return Ok(false) };
    let (token, hint) = match &login.renewal {
        Some(renewal) => (&renewal.refresh_token, "refresh_token"),
        None => (&login.access_token, "access_token"),
    };
    let mut form = vec![("token", token.expose_secret()), ("token_type_hint", hint)];
    if let Some(client_id) = login.renewal.as_ref().and_then(|renewal| renewal.client_id.as_deref()) {
        form.push(("client_id", client_id));
    }
    let posting = tokio::time::timeout(REVOKE_LIMIT, Call::post_form(endpoint, &form).make(way));
    let answer = posting.await.map_err(|_| RevokeError::Timeout { host: endpoint.host() })??;
    match answer.status.is_success() {
        true => Ok(true),
        false => Err(RevokeError::Refused { host: endpoint.host(), status: answer.status }),
    }
}

#[cfg(test)]
mod tests;
