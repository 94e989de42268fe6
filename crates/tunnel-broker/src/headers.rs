//! Which headers pass, in either direction. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const CONNECTION_ID: HeaderName = HeaderName::from_static("x-tunnel-connection");
pub(crate) const MODEL: HeaderName = HeaderName::from_static("x-tunnel-model");
pub(crate) const QUEUE_POSITION: HeaderName = HeaderName::from_static("x-tunnel-queue-position");
pub(crate) const QUEUED_MS: HeaderName = HeaderName::from_static("x-tunnel-queued-ms");

/// Removes what concerns the caller's connection, the caller's identity, or us.
///
/// The backend gets its own `Host` from the caller of this function. `Trailer` stays: without it hyper sends
/// no trailers.
pub(crate) fn clean_request(headers: &mut HeaderMap) {
    let wants_trailers = headers.get(header::TE).is_some_and(|te| contains_token(te, "trailers"));
    retain(headers, |name| !is_hop_by_hop(name) && !is_callers_own(name));
    if wants_trailers {
        // The only use of TE that an intermediary passes on (RFC 9110 §10.1.4).
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Removes what concerns the backend's connection, its ideas of origins, its cookies, and our own names.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    retain(headers, |name| {
        !(is_hop_by_hop(name)
            || name == "set-cookie"
            || name == "set-cookie2"
            || name == "x-request-id"
            || name.starts_with("access-control-")
            || name.starts_with("x-tunnel-"))
    });
}

/// Reads the caller's request id. None when there is none, or when it is not fit for logs.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    const LONGEST: usize = 128;
    let fit =
        |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=');
    headers.get(REQUEST_ID).filter(|id| (1..=LONGEST).contains(&id.len()) && id.as_bytes().iter().all(fit))
}

/// Makes a request id: 128 random bits in hex.
pub(crate) fn new_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random: [u8; 16] = rand::random();
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    // Cannot fail: hex digits are visible ASCII.
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "te" | "transfer-encoding" | "upgrade" | "http2-settings" | "expect"
    ) || name.starts_with("proxy-")
}

fn is_callers_own(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "origin"
            | "referer"
            | "cookie"
            | "cookie2"
            | "authorization"
            | "x-api-key"
            | "api-key"
            | "forwarded"
            | "via"
            | "x-real-ip"
            | "x-client-ip"
            | "x-cluster-client-ip"
            | "x-original-forwarded-for"
            | "x-original-host"
            | "true-client-ip"
            | "cf-connecting-ip"
            | "fastly-client-ip"
    ) || name.starts_with("x-forwarded-")
        || name.starts_with("access-control-request-")
        || name.starts_with("tunnel-")
        || name.starts_with("x-tunnel-")
}

/// Keeps the headers that `keeps` accepts and that `Connection` does not name.
fn retain(headers: &mut HeaderMap, keeps: impl Fn(&str) -> bool) {
    // Few are removed: their names are collected first, since a map cannot be changed while it is read.
    let mut doomed: [Option<HeaderName>; 8] = Default::default();
    let mut more = true;
    while more {
        let mut found = 0;
        for name in headers.keys().filter(|name| !keeps(name.as_str()) && *name != header::CONNECTION) {
            if found == doomed.len() {
                break;
            }
            doomed[found] = Some(name.clone());
            found += 1;
        }
        more = found == doomed.len();
        for name in doomed.iter_mut().take(found).filter_map(Option::take) {
            headers.remove(&name);
        }
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // The length of the body is not a matter of the connection, whatever a caller claims.
            .filter(|name| *name != header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(&name);
        }
        headers.remove(header::CONNECTION);
    }
}

fn contains_token(value: &HeaderValue, token: &str) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_callers_identity_does_not_reach_the_backend() {
        let mut headers = map(&[
            ("host", "h"),
            ("origin", "o"),
            ("referer", "r"),
            ("cookie", "c"),
            ("authorization", "a"),
            ("proxy-authorization", "a"),
            ("proxy-connection", "a"),
            ("x-api-key", "k"),
            ("access-control-request-method", "m"),
            ("access-control-request-headers", "m"),
            ("forwarded", "f"),
            ("x-forwarded-for", "f"),
            ("x-forwarded-proto", "f"),
            ("x-real-ip", "f"),
            ("x-client-ip", "f"),
            ("x-cluster-client-ip", "f"),
            ("x-original-forwarded-for", "f"),
            ("x-original-host", "f"),
            ("true-client-ip", "f"),
            ("cf-connecting-ip", "f"),
            ("fastly-client-ip", "f"),
            ("via", "f"),
            ("tunnel-caller", "t"),
            ("tunnel-device", "t"),
            ("x-tunnel-connection", "t"),
            ("connection", "keep-alive, X-Secret , content-length"),
            ("keep-alive", "5"),
            ("x-secret", "s"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("accept", "x"),
            ("content-length", "4"),
            ("x-request-id", "1"),
            ("trailer", "x-sum"),
        ]);
        clean_request(&mut headers);
        assert_eq!(names(&headers), ["accept", "content-length", "trailer", "x-request-id"]);
    }

    #[test]
    fn a_wish_for_trailers_is_passed_on() {
        let mut headers = map(&[("te", "gzip, Trailers")]);
        clean_request(&mut headers);
        assert_eq!(
            (&headers["te"], &headers["connection"]),
            (&"trailers".parse().unwrap(), &"te".parse().unwrap())
        );
    }

    #[test]
    fn the_backends_cors_and_cookies_do_not_reach_the_caller() {
        let mut headers = map(&[
            ("access-control-allow-origin", "*"),
            ("access-control-max-age", "1"),
            ("set-cookie", "a=1"),
            ("x-tunnel-model", "forged"),
            ("x-request-id", "theirs"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("content-type", "text/plain"),
        ]);
        clean_response(&mut headers);
        assert_eq!(names(&headers), ["content-type"]);
    }

    #[test]
    fn an_id_that_could_forge_a_log_line_is_not_taken() {
        assert_eq!(request_id(&map(&[("x-request-id", "a-b_1.2")])).unwrap(), "a-b_1.2");
        assert_eq!(request_id(&map(&[("x-request-id", "a b")])), None);
        assert_eq!(request_id(&map(&[("x-request-id", "")])), None);
        assert_eq!(request_id(&HeaderMap::new()), None);
        let id = new_request_id();
        assert_eq!(
            (id.len(), request_id(&HeaderMap::from_iter([(REQUEST_ID, id.clone())]))),
            (32, Some(&id))
        );
    }
}
