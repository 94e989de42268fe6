//! Who may use the admin API.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::ExposeSecret as _;

use crate::admin::problem::Problem;
use crate::audit::Event;
use crate::auth;
use crate::relay::Shared;

/// Lets a request through, or says why not.
pub(super) async fn check(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match refuse(request.headers(), shared.admin.token.expose_secret()) {
        None => next.run(request).await,
        Some(problem) => {
            shared.audit.note(&Event::TokenRefused { client: peer.ip(), code: problem.code });
            problem.into_response()
        }
    }
}

/// Says why a request with these headers may not pass.
///
/// A browser on the operator's machine can reach the address, too: pages are told by their `Origin`, and a page that has
/// bound its own name to the address by its `Host`.
fn refuse(headers: &HeaderMap, token: &str) -> Option<Problem> {
    if headers.contains_key(ORIGIN) {
        return Some(Problem::new(
            StatusCode::FORBIDDEN,
            "admin_origin",
            "The admin API is not for pages in a browser: the request has an Origin.",
        ));
    }
    if !headers.get(HOST).and_then(|host| host.to_str().ok()).is_some_and(is_an_address) {
        return Some(Problem::new(
            StatusCode::FORBIDDEN,
            "admin_host",
            "Call the admin API by an IP address or as localhost: the request's Host is another name.",
        ));
    }
    let right = auth::bearer(headers)
        .is_ok_and(|sent| verify_slices_are_equal(sent.as_bytes(), token.as_bytes()).is_ok());
    if right {
        return None;
    }
    let code =
        if headers.contains_key(AUTHORIZATION) { "admin_token_invalid" } else { "admin_token_missing" };
    Some(Problem::new(
        StatusCode::UNAUTHORIZED,
        code,
        "The admin API wants the token in the file admin-token of the data directory, as Authorization: Bearer. On the \
         relay's machine: tunnel-relay admin --data-dir DIR …",
    ))
}

/// Whether a `Host` is an IP address or `localhost`, with or without a port.
fn is_an_address(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "0"));
    if port.parse::<u16>().is_err() {
        return host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|v6| v6.parse::<IpAddr>().is_ok());
    }
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        list.iter().map(pair).collect()
    }

    #[test]
    fn only_the_token_at_an_address_without_a_page_passes() {
        let right = ("authorization", "Bearer secret");
        let code =
            |list: &[(&'static str, &str)]| refuse(&headers(list), "secret").map(|problem| problem.code);
        assert_eq!(code(&[right, ("host", "127.0.0.1:9090")]), None);
        assert_eq!(code(&[("host", "127.0.0.1:9090")]), Some("admin_token_missing"));
        for wrong in ["Bearer secret2", "Bearer secre", "Basic secret", "Bearer"] {
            assert_eq!(
                code(&[("authorization", wrong), ("host", "127.0.0.1")]),
                Some("admin_token_invalid"),
                "{wrong}"
            );
        }
        let page = ("origin", "http://127.0.0.1:9090");
        assert_eq!(code(&[right, ("host", "127.0.0.1:9090"), page]), Some("admin_origin"));
        assert_eq!(code(&[right, ("host", "rebound.example:9090")]), Some("admin_host"));
        assert_eq!(code(&[right]), Some("admin_host"));
    }

    #[test]
    fn addresses_and_localhost_are_hosts() {
        for host in ["127.0.0.1", "10.0.0.7:9090", "localhost", "LOCALHOST:1", "[::1]:9090", "[::1]", "::1"] {
            assert!(is_an_address(host), "{host}");
        }
        for host in
            ["", "relay", "localhost.example", "127.0.0.1.example:80", "localhost:x", "[relay]", "a:1:2"]
        {
            assert!(!is_an_address(host), "{host}");
        }
    }
}
