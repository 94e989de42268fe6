//! Which headers pass, in both directions.

use std::time::Duration;

use bytes::Bytes;
pub(crate) use http::header::FORWARDED;
use http::header::{CONNECTION, CONTENT_LENGTH, STRICT_TRANSPORT_SECURITY, UPGRADE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

/// What the desktop's policy and accounting need to know of the caller.
pub(crate) const TUNNEL_CALLER: HeaderName = HeaderName::from_static("tunnel-caller");
/// Which device a request is for, when the path does not say.
pub(crate) const TUNNEL_DEVICE: HeaderName = HeaderName::from_static("tunnel-device");

/// Takes out of a caller's request what must not reach the desktop: what concerns this connection only, the caller's
/// credentials, and the names under which the desktop trusts the relay.
pub(crate) fn strip_request(headers: &mut HeaderMap) {
    strip(headers, |name| {
        is_hop_by_hop(name)
            || matches!(
                name,
                "authorization" | "proxy-authorization" | "cookie" | "x-api-key"
                // The broker sets the backend's own, and hyper has answered `expect`.
                | "host" | "expect"
                | "x-request-id" | "tunnel-caller" | "tunnel-device"
            )
            || says_who_calls(name)
    });
}

/// Takes out of a response what concerned the tunnel's last hop only, what would speak for the relay's name, and the
/// backend's opinion on who may read it: a model server that allows every page must not open the relay to them.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    strip(headers, |name| {
        is_hop_by_hop(name) || speaks_for_the_origin(name) || name.starts_with("access-control-")
    });
}

/// What proxies write about those before them. The relay says it anew in `forwarded`; a caller could write the others,
/// and a backend may believe them.
fn says_who_calls(name: &str) -> bool {
    matches!(
        name,
        "forwarded"
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
}

/// What a browser would remember of, or do to, the relay's own name: all desktops of all tenants share that.
fn speaks_for_the_origin(name: &str) -> bool {
    matches!(
        name,
        "strict-transport-security"
            | "alt-svc"
            | "clear-site-data"
            | "nel"
            | "report-to"
            | "reporting-endpoints"
            | "service-worker-allowed"
            | "set-cookie"
            | "set-cookie2"
    )
}

/// Takes out of trailers what `strip` takes out of headers, and what would say something else about a body that has been
/// read (RFC 9110 §6.5.1). Other frames stay as they are.
pub(crate) fn strip_trailers(frame: Frame<Bytes>, strip: impl Fn(&mut HeaderMap)) -> Frame<Bytes> {
    if !frame.is_trailers() {
        return frame;
    }
    match frame.into_trailers() {
        Ok(mut trailers) => {
            strip(&mut trailers);
            self::strip(&mut trailers, |name| {
                name.starts_with("content-") || matches!(name, "trailer" | "host" | "cache-control")
            });
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// RFC 9110 §7.6.1, with the names of older texts. `trailer` passes: it tells a receiver what will come.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

fn strip(headers: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    strip_named_by_connection(headers);
    // HTTP/2 takes a length that is said several times, if it is the same, and the next hop may not (RFC 9110 §8.6).
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some()
        && let Some(length) = headers.get(CONTENT_LENGTH).cloned()
    {
        headers.insert(CONTENT_LENGTH, length);
    }
    // One look at each name that is there costs less than asking for each name that may be. Few go, in most requests
    // three; those beyond the array's end go in the next round.
    loop {
        let mut doomed = [const { None::<HeaderName> }; 8];
        let going = headers.keys().filter(|name| goes(name.as_str()));
        let n_doomed = doomed.iter_mut().zip(going).map(|(slot, name)| *slot = Some(name.clone())).count();
        for name in doomed.into_iter().flatten() {
            headers.remove(name);
        }
        if n_doomed < 8 {
            return;
        }
    }
}

/// Removes the headers that `Connection` names for this hop.
fn strip_named_by_connection(headers: &mut HeaderMap) {
    let is_plain = |value: &HeaderValue| {
        value.as_bytes().eq_ignore_ascii_case(b"keep-alive")
            || value.as_bytes().eq_ignore_ascii_case(b"close")
    };
    if headers.get_all(CONNECTION).iter().all(is_plain) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Returns how long a request says that its body is. hyper has refused those that say it twice or otherwise badly.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Tells whether a caller wants to speak WebSocket.
///
/// Any other upgrade may be ignored (RFC 9110 §7.8); Java's client offers `h2c` with each first request.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    let names = |header, wanted: &str| {
        headers
            .get_all(header)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    headers.contains_key(UPGRADE) && names(UPGRADE, "websocket") && names(CONNECTION, "upgrade")
}

/// Adds what each answer says to a browser: not to guess types, and to come back by TLS only.
pub(crate) fn harden(headers: &mut HeaderMap, tls_max_age: Option<Duration>) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(max_age) = tls_max_age.filter(|max_age| !max_age.is_zero()) {
        let text = format!("max-age={}", max_age.as_secs());
        headers.insert(
            STRICT_TRANSPORT_SECURITY,
            HeaderValue::try_from(text).expect("digits are a header value"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn nothing_of_this_hop_and_no_credential_reaches_the_desktop() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("host", "relay.example"),
            ("authorization", "Bearer secret"),
            ("proxy-authorization", "Basic secret"),
            ("x-api-key", "secret"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("expect", "100-continue"),
            ("x-request-id", "mine"),
            ("forwarded", "for=1.2.3.4"),
            ("tunnel-caller", "sub=\"root\""),
            ("tunnel-device", "desk"),
            ("content-type", "application/json"),
            ("content-length", "2"),
            ("content-length", "2"),
            ("accept", "*/*"),
            ("user-agent", "x"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-something-new", "1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-client-ip", "10.0.0.1"),
            ("x-cluster-client-ip", "10.0.0.1"),
            ("x-original-forwarded-for", "10.0.0.1"),
            ("x-original-host", "x"),
            ("true-client-ip", "10.0.0.1"),
            ("cf-connecting-ip", "10.0.0.1"),
            ("fastly-client-ip", "10.0.0.1"),
            ("via", "1.1 x"),
            ("trailer", "x-sum"),
        ]);
        strip_request(&mut headers);
        assert_eq!(names(&headers), ["accept", "content-length", "content-type", "trailer", "user-agent"]);
        assert_eq!(headers.get_all(CONTENT_LENGTH).iter().count(), 1);
    }

    #[test]
    fn a_response_keeps_what_is_for_the_caller() {
        let mut headers = map(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("content-type", "text/event-stream"),
            ("www-authenticate", "Basic"),
        ]);
        strip_response(&mut headers);
        assert_eq!(names(&headers), ["content-type", "www-authenticate"]);
    }

    #[test]
    fn trailers_bring_nothing_in_that_headers_may_not() {
        let sent = map(&[
            ("x-sum", "1"),
            ("content-length", "5"),
            ("content-type", "text/html"),
            ("host", "evil.test"),
            ("authorization", "Bearer secret"),
            ("set-cookie", "a=1"),
            ("tunnel-caller", "sub=\"root\""),
            ("x-forwarded-for", "10.0.0.1"),
        ]);
        let left = |strip: fn(&mut HeaderMap)| {
            strip_trailers(Frame::trailers(sent.clone()), strip).into_trailers().unwrap()
        };
        assert_eq!(names(&left(strip_request)), ["set-cookie", "x-sum"]);
        assert!(!left(strip_response).contains_key("set-cookie"));
        let data = strip_trailers(Frame::data(Bytes::from_static(b"x")), strip_request);
        assert_eq!(data.into_data().unwrap(), "x");
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        assert!(wants_websocket(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])));
        assert!(!wants_websocket(&map(&[("connection", "keep-alive"), ("upgrade", "websocket")])));
        assert!(!wants_websocket(&map(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")])));
        assert!(!wants_websocket(&map(&[("connection", "upgrade")])));
    }

    #[test]
    fn the_backend_does_not_say_which_pages_may_read_and_speaks_for_no_name() {
        let mut headers = map(&[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "*"),
            ("access-control-something-new", "*"),
            ("strict-transport-security", "max-age=1"),
            ("alt-svc", "h3=\"evil.test:443\""),
            ("clear-site-data", "\"*\""),
            ("nel", "{}"),
            ("report-to", "{}"),
            ("reporting-endpoints", "a=\"https://evil.test\""),
            ("service-worker-allowed", "/"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=1"),
            ("set-cookie2", "a=1"),
            ("content-type", "application/json"),
        ]);
        strip_response(&mut headers);
        assert_eq!(names(&headers), ["content-type"]);
    }

    #[test]
    fn a_browser_is_told_to_come_back_by_tls_only_where_it_came_by_tls() {
        let hardened = |max_age| {
            let mut headers = HeaderMap::new();
            harden(&mut headers, max_age);
            headers.get(STRICT_TRANSPORT_SECURITY).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(hardened(Some(Duration::from_secs(600))).as_deref(), Some("max-age=600"));
        assert_eq!(hardened(Some(Duration::ZERO)), None);
        assert_eq!(hardened(None), None);
    }
}
