//! What a token endpoint answers to one who logs in.

use std::time::Duration;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::LoginError;
use crate::secrets::{Answer, CallError, Issued, issued};

/// What came of one question for a token.
#[derive(Debug)]
pub(super) enum Grant {
    Issued(Issued),
    /// The person has not finished yet.
    Pending,
    SlowDown,
    /// The provider cannot answer now, and may ask to wait.
    Trouble(Option<Duration>),
    Ended(LoginError),
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Judges what a token endpoint answered: RFC 8628 §3.5.
pub(super) fn judge(answer: &Answer, host: &str) -> Grant {
    if answer.status == StatusCode::OK {
        let bad = || LoginError::BadProvider { host: host.to_owned(), why: "its answer has no usable token" };
        return issued(&answer.body).map_or_else(|| Grant::Ended(bad()), Grant::Issued);
    }
    let refusal = serde_json::from_slice::<Refusal>(&answer.body);
    let refused = |code| Grant::Ended(LoginError::Refused { host: host.to_owned(), code });
    // By the code: some providers answer 403 or 429 where the standard has 400.
    match refusal.as_ref().map(|refusal| refusal.error.as_str()) {
        _ if !answer.status.is_client_error() => Grant::Trouble(answer.retry_after),
        Ok("authorization_pending") => Grant::Pending,
        Ok("slow_down") => Grant::SlowDown,
        Ok("access_denied") => Grant::Ended(LoginError::Denied { host: host.to_owned() }),
        Ok("expired_token") => Grant::Ended(LoginError::TimedOut),
        Ok("invalid_grant") => refused("invalid_grant"),
        Ok("invalid_client") => refused("invalid_client"),
        Ok("unauthorized_client") => refused("unauthorized_client"),
        Ok("invalid_target") => refused("invalid_target"),
        Ok("invalid_scope") => refused("invalid_scope"),
        Ok("unsupported_grant_type") => refused("unsupported_grant_type"),
        Ok("invalid_request") => refused("invalid_request"),
        // A proxy's page, or a provider that asks for less.
        Ok(_) | Err(_) => Grant::Trouble(answer.retry_after),
    }
}

/// The moment that is `life` from now, for people and programs; waits are measured by another clock.
pub(super) fn after(life: Duration) -> Timestamp {
    let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX);
    Timestamp::now().checked_add(life).unwrap_or(Timestamp::MAX)
}

/// Tells what ended a login at a token endpoint. For the one that has no second try.
pub(super) fn exchanged(answer: Result<Answer, CallError>, host: &str) -> Result<Issued, LoginError> {
    let answer = answer?;
    match judge(&answer, host) {
        Grant::Issued(issued) => Ok(issued),
        Grant::Ended(error) => Err(error),
        Grant::Pending | Grant::SlowDown | Grant::Trouble(_) => {
            Err(LoginError::Unavailable { host: host.to_owned(), status: answer.status })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str) -> Grant {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: body.to_owned().into(),
        };
        judge(&answer, "login.example")
    }

    #[test]
    fn word_of_the_provider_counts_whatever_its_status() {
        for status in [400, 403, 429] {
            assert!(
                matches!(judged(status, r#"{"error":"authorization_pending"}"#), Grant::Pending),
                "{status}"
            );
            assert!(matches!(judged(status, r#"{"error":"slow_down"}"#), Grant::SlowDown), "{status}");
        }
        let ended = |error: &str| match judged(400, &format!(r#"{{"error":"{error}"}}"#)) {
            Grant::Ended(error) => error.code(),
            other => panic!("{error}: {other:?}"),
        };
        assert_eq!(
            ["access_denied", "expired_token", "invalid_grant", "invalid_client"].map(ended),
            ["access_denied", "login_timeout", "login_refused", "login_refused"]
        );
    }

    #[test]
    fn trouble_and_strangers_end_nothing_and_are_not_repeated() {
        let cases = [
            (500, r#"{"error":"access_denied"}"#),
            (302, ""),
            (400, r#"{"error":"canary"}"#),
            (404, "<html>"),
        ];
        for (status, body) in cases {
            assert!(matches!(judged(status, body), Grant::Trouble(None)), "{status} {body}");
        }
        let useless = judged(200, r#"{"access_token":"canary two"}"#);
        let shown = format!("{useless:?}");
        assert!(
            matches!(useless, Grant::Ended(LoginError::BadProvider { .. })) && !shown.contains("canary"),
            "{shown}"
        );
    }
}
