//! What a caller is told whose key does not let it in, or not now.

use std::time::Duration;

use bytes::Bytes;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::limits::{Limit, OverLimit};
use super::ring::BadKey;
use crate::refused::Refused;

/// Why a request that needs a key, or shows one, is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyRefusal {
    #[error(
        "your connection is another user's or comes from a container, and such callers need a key; make one as the user who \
         runs tunneld: tunnelctl keys create --local --name NAME; and send it as Authorization: Bearer KEY"
    )]
    MissingAtGateway,
    #[error(
        "callers from the network need a key; make one on the machine that runs tunneld: tunnelctl keys create --local \
         --name NAME; and send it as Authorization: Bearer KEY"
    )]
    MissingOnLan,
    #[error(
        "this key is not known here; send one that was made on the machine that runs tunneld with: tunnelctl keys create \
         --local"
    )]
    Unknown,
    #[error(
        "this key was revoked; make another one on the machine that runs tunneld: tunnelctl keys create --local"
    )]
    Revoked,
    #[error(
        "this key has expired; make another one on the machine that runs tunneld: tunnelctl keys create --local"
    )]
    Expired,
    #[error(
        "too many wrong keys came from your address; mend the key: a good one is let in at once; do not send this one again \
         within {} s", .0.as_secs()
    )]
    TooManyTries(Duration),
    #[error("{}", over(.0))]
    Over(OverLimit),
}

fn over(over: &OverLimit) -> String {
    let seconds = over.retry_after.as_secs();
    match over.limit {
        Limit::RequestsPerMinute(most) => {
            format!("this key may ask {most} times a minute, and has; try again in {seconds} s")
        }
        Limit::TokensPerMinute(most) => {
            format!(
                "this key may take {most} tokens a minute, and has, or may with what it runs already; try again in {seconds} s"
            )
        }
        Limit::Concurrent(most) => {
            format!(
                "this key may run {most} requests at once, and does; try again when one of them has ended"
            )
        }
    }
}

impl From<BadKey> for KeyRefusal {
    fn from(bad: BadKey) -> Self {
        match bad {
            BadKey::Unknown => Self::Unknown,
            BadKey::Revoked => Self::Revoked,
            BadKey::Expired => Self::Expired,
        }
    }
}

impl KeyRefusal {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyTries(after) => Some(*after),
            Self::Over(over) => Some(over.retry_after),
            Self::MissingAtGateway | Self::MissingOnLan | Self::Unknown | Self::Revoked | Self::Expired => {
                None
            }
        }
    }

    /// Writes the answer: 401 with a wrong key or none, 429 beyond a limit.
    pub(crate) fn response(self, path: &str) -> Response<Full<Bytes>> {
        let retry_after = self.retry_after();
        let (status, kind, code) = match self {
            // As OpenAI's API words it, which its clients know.
            Self::MissingAtGateway | Self::MissingOnLan | Self::Unknown | Self::Revoked | Self::Expired => {
                (StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_api_key")
            }
            Self::TooManyTries(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "too_many_wrong_keys")
            }
            Self::Over(OverLimit { limit, .. }) => {
                let code = match limit {
                    Limit::RequestsPerMinute(_) => "requests_per_minute",
                    Limit::TokensPerMinute(_) => "tokens_per_minute",
                    Limit::Concurrent(_) => "concurrent_requests",
                };
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code)
            }
        };
        let mut response = Refused { status, kind, code, message: self.to_string() }.response(path);
        let headers = response.headers_mut();
        if let Some(after) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        } else {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tunneld\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn told(refusal: KeyRefusal) -> (http::response::Parts, serde_json::Value) {
        let (head, body) = refusal.response("/v1/chat/completions").into_parts();
        (head, serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap())
    }

    #[tokio::test]
    async fn wrong_key_is_told_as_openai_does_and_says_how_to_get_one() {
        for refusal in [KeyRefusal::MissingAtGateway, KeyRefusal::MissingOnLan, KeyRefusal::Unknown] {
            let (head, body) = told(refusal).await;
            assert_eq!((head.status.as_u16(), &body["error"]["code"]), (401, &"invalid_api_key".into()));
            assert!(head.headers[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
            assert!(
                body["error"]["message"].as_str().unwrap().contains("tunnelctl keys create --local"),
                "{body}"
            );
        }
    }

    #[tokio::test]
    async fn limit_is_named_with_when_to_come_again() {
        let retry_after = Duration::from_secs(10);
        let (head, body) =
            told(KeyRefusal::Over(OverLimit { limit: Limit::RequestsPerMinute(6), retry_after })).await;
        assert_eq!((head.status.as_u16(), &head.headers[RETRY_AFTER]), (429, &HeaderValue::from(10)));
        assert_eq!(body["error"]["type"], "rate_limit_error");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("6 times a minute") && message.contains("10 s"), "{message}");
    }
}
