//! An operator's order that tokens are not to be taken any more.

use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
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
    IssuedBefore(When),
}

/// A time by the relay's clock, which judges tokens: another one may be ahead or behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum When {
    /// When the order is carried out.
    Now,
    At(Timestamp),
}

impl TryFrom<String> for When {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "now" { Ok(Self::Now) } else { text.parse().map(Self::At) }
    }
}

impl When {
    /// Returns the time, in whole seconds since 1970.
    fn seconds(self, now: Timestamp) -> Result<u64, Problem> {
        let at = match self {
            Self::Now => now,
            Self::At(at) if at.duration_since(now) > AHEAD_MAX => {
                return Err(bad(
                    "issued_before is in the future by the relay's clock: nobody could log in until then, and it could not be \
                     taken back. Send \"now\" for all that were issued so far.",
                ));
            }
            Self::At(at) => at,
        };
        Ok(seconds(at).unwrap_or_default())
    }
}

/// How far ahead of the relay's clock an order may be: clocks differ by as much.
const AHEAD_MAX: SignedDuration = SignedDuration::from_secs(60);

/// The order as it is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    subject: String,
    token_id: Option<String>,
    /// When the token ends, where its id does not say: one of another issuer, or of an earlier version of the relay. Default:
    /// when the longest-lived token that the relay could make now would.
    expires_at: Option<Timestamp>,
    /// All tokens of the subject that were issued earlier than a time, or `now`. A token that says neither when it was issued
    /// nor from when it is good is one of them, whenever its issuer makes it.
    issued_before: Option<When>,
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
                 or issued_before (all that were issued earlier; \"now\": all so far). Times are like 2030-01-31T12:00:00Z.")
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
                let before = before.seconds(Timestamp::now())?;
                let detail = timestamp(before).map(|at| at.to_string()).unwrap_or_default();
                shared.audit.note(&Event::Admin { action: "revoke_all", subject, detail: &detail });
                shared.authority.revoke_issued_before(&self.subject, before).await.map_err(problem)?
            }
        };
        Ok(timestamp(until))
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

fn timestamp(seconds: u64) -> Option<Timestamp> {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok())
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
    fn the_relays_own_clock_says_what_is_now_and_what_is_not_yet() {
        let now: Timestamp = "2030-01-31T12:00:00.5Z".parse().unwrap();
        let at = |text: &str| When::try_from(text.to_owned()).unwrap().seconds(now).ok();
        let up = now.as_second() as u64 + 1;
        assert_eq!(at("now"), Some(up));
        assert_eq!(at("2030-01-31T11:59:00Z"), Some(up - 61));
        assert_eq!(at("2030-01-31T12:01:00Z"), Some(up + 59));
        assert_eq!(at("2030-01-31T12:01:01Z"), None);
        assert_eq!(at("3030-01-31T12:00:00Z"), None);
    }

    #[test]
    fn an_order_is_about_one_token_or_about_all() {
        let read = |text: &str| Revocation::read(text.as_bytes()).is_ok();
        assert!(read(r#"{"subject":"a","token_id":"t"}"#));
        assert!(read(r#"{"subject":"a","token_id":"t","expires_at":"2030-01-01T00:00:00Z"}"#));
        assert!(read(r#"{"subject":"a","issued_before":"2030-01-01T00:00:00Z"}"#));
        assert!(read(r#"{"subject":"a","issued_before":"now"}"#));
        for bad in [
            "",
            "{}",
            // All of somebody's tokens are never revoked because a member was forgotten.
            r#"{"subject":"a"}"#,
            r#"{"token_id":"t"}"#,
            r#"{"subject":"a","token_id":"t","issued_before":"2030-01-01T00:00:00Z"}"#,
            r#"{"subject":"a","issued_before":"2030-01-01T00:00:00Z","expires_at":"2030-01-01T00:00:00Z"}"#,
            r#"{"subject":"a","issued_before":"then"}"#,
            r#"{"subject":"a","token_id":"t","until":1}"#,
        ] {
            assert!(!read(bad), "{bad}");
        }
    }
}
