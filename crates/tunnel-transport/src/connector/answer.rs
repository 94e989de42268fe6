//! What a relay answers to a dial.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use crate::SUBPROTOCOL;
use crate::closed::printable;
use crate::dial_error::DialError;
use crate::names::SessionId;
use crate::settings;

/// The headers of a 101.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) session: SessionId,
    pub(super) received: u64,
    pub(super) grace: Duration,
    pub(super) window: u64,
}

impl Answer {
    /// Reads a 101; the error says in which way it is not a relay's.
    pub(super) fn parse(headers: &HeaderMap, key: &str) -> Result<Self, String> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        if text("sec-websocket-accept") != Some(accept.as_str()) {
            return Err("its WebSocket answer belongs to another request".to_owned());
        }
        if text("sec-websocket-protocol") != Some(SUBPROTOCOL) {
            return Err(format!("it takes WebSockets and does not speak {SUBPROTOCOL}"));
        }
        let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
        let answer = || {
            Some(Self {
                session: text("tunnel-session")?.parse().ok()?,
                received: number("tunnel-received")?,
                grace: number("tunnel-grace")
                    .map_or(settings::GRACE, Duration::from_secs)
                    .min(settings::GRACE_MAX),
                window: number("tunnel-window")
                    .unwrap_or(settings::WINDOW)
                    .clamp(*settings::WINDOW_BOUNDS.start(), *settings::WINDOW_BOUNDS.end()),
            })
        };
        answer().ok_or_else(|| "its answer names no session".to_owned())
    }
}

/// The most bytes of a refusal that are read.
const REFUSAL: usize = 16 * 1024;
/// Without a `Retry-After`.
const BUSY: Duration = Duration::from_secs(5);
/// No relay can send a desktop away for longer: a typo there must not cost a day.
const BUSY_MAX: Duration = Duration::from_secs(600);

/// Reads an answer that is not a 101.
pub(super) async fn refusal(host: String, response: Response<Incoming>) -> DialError {
    let status = response.status();
    let headers = response.headers().clone();
    let is_problem = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/problem+json"));
    let mut code = None;
    let mut detail = format!("it answered {status}");
    if is_problem && let Ok(body) = Limited::new(response.into_body(), REFUSAL).collect().await {
        let body = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        code = string_field(&body, "code");
        detail = string_field(&body, "detail").unwrap_or(detail);
    }
    match (status, code.as_deref()) {
        (StatusCode::UNAUTHORIZED, Some("token_expired")) => {
            DialError::TokenExpired { host, clock_off_s: clock_off(&headers, SystemTime::now()) }
        }
        (StatusCode::UNAUTHORIZED, _) => DialError::TokenInvalid { host, detail },
        (StatusCode::FORBIDDEN, Some(_)) => DialError::NotAllowed { host, detail },
        (StatusCode::CONFLICT, Some("replaced")) => DialError::Replaced { host },
        (StatusCode::GONE, Some("session_gone")) => DialError::SessionGone,
        (StatusCode::UPGRADE_REQUIRED, _) => DialError::VersionUnsupported { host, detail },
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => {
            let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            DialError::Busy { host, after: after.map_or(BUSY, Duration::from_secs).min(BUSY_MAX) }
        }
        _ => DialError::NotARelay { host, detail },
    }
}

/// Takes a text from a JSON object, without what a terminal would act on.
fn string_field(body: &serde_json::Value, name: &str) -> Option<String> {
    Some(printable(body.get(name)?.as_str()?))
}

/// Returns how many seconds the local clock is ahead of the one that wrote `Date`.
fn clock_off(headers: &HeaderMap, now: SystemTime) -> Option<i64> {
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    match now.duration_since(date) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).ok(),
        Err(behind) => i64::try_from(behind.duration().as_secs()).ok().map(|s| -s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relays_sentence_is_taken_and_nothing_that_a_terminal_acts_on() {
        let body = serde_json::json!({"code": "not_allowed", "detail": "the \"scope\" is \u{1b}[2Jwrong", "status": 403});
        assert_eq!(string_field(&body, "code").as_deref(), Some("not_allowed"));
        assert_eq!(string_field(&body, "detail").as_deref(), Some("the \"scope\" is [2Jwrong"));
        assert_eq!(string_field(&body, "status"), None);
        assert_eq!(string_field(&serde_json::Value::Null, "code"), None);
    }

    #[test]
    fn the_clock_is_compared_with_the_relays() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Thu, 01 Jan 2026 00:10:00 GMT".parse().unwrap());
        let at = |text| httpdate::parse_http_date(text).unwrap();
        assert_eq!(clock_off(&headers, at("Thu, 01 Jan 2026 00:11:00 GMT")), Some(60));
        assert_eq!(clock_off(&headers, at("Thu, 01 Jan 2026 00:00:00 GMT")), Some(-600));
        assert_eq!(clock_off(&HeaderMap::new(), SystemTime::now()), None);
    }

    #[test]
    fn a_101_must_be_the_answer_to_this_dial() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let mut headers = HeaderMap::new();
        // The example of RFC 6455 §1.3.
        headers.insert("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".parse().unwrap());
        assert!(Answer::parse(&headers, key).unwrap_err().contains("tunnel.v1"));
        headers.insert("sec-websocket-protocol", "tunnel.v1".parse().unwrap());
        assert!(Answer::parse(&headers, key).unwrap_err().contains("session"));
        headers.insert("tunnel-session", "00000000000000000000000000000001".parse().unwrap());
        headers.insert("tunnel-received", "0".parse().unwrap());
        assert_eq!(Answer::parse(&headers, key).unwrap().window, settings::WINDOW);
        assert!(Answer::parse(&headers, "another").is_err());
        headers.insert("tunnel-grace", "30".parse().unwrap());
        assert_eq!(Answer::parse(&headers, key).unwrap().grace, Duration::from_secs(30));
        // No clock has room for it.
        headers.insert("tunnel-grace", u64::MAX.to_string().parse().unwrap());
        let grace = Answer::parse(&headers, key).unwrap().grace;
        assert!(std::time::Instant::now().checked_add(grace).is_some(), "{grace:?}");
    }
}
