//! An operator's order that tokens are not to be taken any more.

use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;

use crate::admin::problem::Problem;
use crate::audit::Event;
use crate::auth::revoked::{By, RevokeError};
use crate::auth::{LONGEST_LIFE, unix_now};
use crate::relay::Shared;

/// An order.
#[derive(Debug)]
pub(super) struct Revocation {
    subject: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Token { id: String, expires_at: Option<Timestamp> },
    IssuedBefore(Timestamp),
}

/// The order as it is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    subject: String,
    token_id: Option<String>,
    /// When the token ends, where its id does not say: one of another issuer, or of an earlier version of the relay. Default:
    /// when the longest-lived token that the relay could make now would.
    expires_at: Option<Timestamp>,
    /// All tokens of the subject that were issued earlier. A token that does not say when it was issued is one of them.
    issued_before: Option<Timestamp>,
}

impl Revocation {
    pub(super) fn read(body: &[u8]) -> Result<Self, Problem> {
        let sent: Option<Sent> = serde_json::from_slice(body).ok();
        let order = sent.and_then(|Sent { subject, token_id, expires_at, issued_before }| {
            let what = match (token_id, expires_at, issued_before) {
                (Some(id), expires_at, None) => What::Token { id, expires_at },
                (None, None, Some(before)) => What::IssuedBefore(before),
                (Some(_), _, Some(_)) | (None, _, _) => return None,
            };
            Some(Self { subject, what })
        });
        order.ok_or_else(|| {
            bad("Send JSON with subject (whose tokens) and either token_id (the token's jti; with expires_at, where that is known) \
                 or issued_before (all that were issued earlier). Times are like 2030-01-31T12:00:00Z.")
        })
    }

    /// Carries it out: requests with such a token are refused, streams and sessions that it opened end. Returns until when the
    /// order is kept.
    pub(super) async fn carry_out(&self, shared: &Shared) -> Result<Option<Timestamp>, Problem> {
        let subject = Some(self.subject.as_str());
        let until = match &self.what {
            What::Token { id, expires_at } => {
                shared.audit.note(&Event::Admin { action: "revoke", subject, detail: "" });
                let until = end_of(shared, &self.subject, id, *expires_at)?;
                let revoked = shared.authority.revoke(&self.subject, id, until, By::Operator).await;
                revoked.map_err(problem)?;
                shared.audit.note(&Event::TokenRevoked { subject: &self.subject, token_id: id });
                until
            }
            What::IssuedBefore(before) => {
                let detail = before.to_string();
                shared.audit.note(&Event::Admin { action: "revoke_all", subject, detail: &detail });
                let before = seconds(*before).unwrap_or_default();
                shared.authority.revoke_issued_before(&self.subject, before).await.map_err(problem)?
            }
        };
        Ok(i64::try_from(until).ok().and_then(|until| Timestamp::from_second(until).ok()))
    }
}

/// Returns when a token ends, as far as that is known.
fn end_of(shared: &Shared, subject: &str, token_id: &str, said: Option<Timestamp>) -> Result<u64, Problem> {
    // What the id proves is right, whatever somebody has read off a list.
    if let Some(end) = shared.issuer.end_of(token_id, subject) {
        return Ok(end);
    }
    let Some(said) = said else { return Ok(unix_now().saturating_add(LONGEST_LIFE.as_secs())) };
    seconds(said)
        .filter(|end| *end > unix_now())
        .ok_or_else(|| bad("expires_at is over: a token that has expired need not be revoked."))
}

/// Whole seconds since 1970, rounded up: a token says no more than in which second it was issued, and one of the same second
/// counts as earlier.
fn seconds(at: Timestamp) -> Option<u64> {
    let up = i64::from(at.subsec_nanosecond() > 0);
    u64::try_from(at.as_second() + up).ok()
}

fn bad(why: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", why)
}

fn problem(error: RevokeError) -> Problem {
    let (status, code) = match error {
        RevokeError::BadId => (StatusCode::BAD_REQUEST, "bad_request"),
        RevokeError::Full | RevokeError::FullOfSubject | RevokeError::Unsaved(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "not_revoked")
        }
    };
    Problem::new(status, code, format!("{error}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_that_has_begun_counts_as_over() {
        let at = |text: &str| seconds(text.parse().unwrap());
        assert_eq!(at("1970-01-01T00:00:07Z"), Some(7));
        assert_eq!(at("1970-01-01T00:00:07.000001Z"), Some(8));
        assert_eq!(at("1969-12-31T23:59:50Z"), None);
    }

    #[test]
    fn an_order_is_about_one_token_or_about_all() {
        let read = |text: &str| Revocation::read(text.as_bytes()).is_ok();
        assert!(read(r#"{"subject":"a","token_id":"t"}"#));
        assert!(read(r#"{"subject":"a","token_id":"t","expires_at":"2030-01-01T00:00:00Z"}"#));
        assert!(read(r#"{"subject":"a","issued_before":"2030-01-01T00:00:00Z"}"#));
        for bad in [
            "",
            "{}",
            // All of somebody's tokens are never revoked because a member was forgotten.
            r#"{"subject":"a"}"#,
            r#"{"token_id":"t"}"#,
            r#"{"subject":"a","token_id":"t","issued_before":"2030-01-01T00:00:00Z"}"#,
            r#"{"subject":"a","issued_before":"2030-01-01T00:00:00Z","expires_at":"2030-01-01T00:00:00Z"}"#,
            r#"{"subject":"a","issued_before":"now"}"#,
            r#"{"subject":"a","token_id":"t","until":1}"#,
        ] {
            assert!(!read(bad), "{bad}");
        }
    }
}
