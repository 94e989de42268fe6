//! Requests that the next reader might take for another one: hyper passes them, this relay does not.

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderValue, Request, StatusCode, Version};

use crate::error::Refusal;

/// Refuses a request whose framing or host is ambiguous. The connection is to end with the answer: what follows on it
/// may be a part of this request.
///
/// hyper has seen to the rest of RFC 9112 §6: of a body with both a coding and a length it drops the length and ends the
/// connection, and codings that do not end in `chunked` it refuses.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Refusal> {
    if request.version() > Version::HTTP_11 {
        return if is_one_host(request) { Ok(()) } else { Err(bad_host()) };
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Refusal::Unforwardable {
            status: StatusCode::NOT_IMPLEMENTED,
            code: "bad_transfer_coding",
            why: "The request has a transfer coding other than chunked. Send the body with Content-Length or with \
                  Transfer-Encoding: chunked; Content-Encoding passes as it is.",
        });
    }
    // RFC 9112 §3.2.
    let mut hosts = request.headers().get_all(HOST).iter();
    let one = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host),
        (Some(_), Some(_)) => false,
        (None, _) => request.version() < Version::HTTP_11,
    };
    if one {
        return Ok(());
    }
    Err(bad_host())
}

fn bad_host() -> Refusal {
    Refusal::Unforwardable {
        status: StatusCode::BAD_REQUEST,
        code: "bad_host",
        why: "The request has no Host header, more than one, or one that names no host. Send exactly one: the relay's \
              own name, with its port if it is not the usual one.",
    }
}

/// Tells whether a request of HTTP/2 names one host only: in `:authority`, in `host`, or the same in both
/// (RFC 9113 §8.3.1). Either may have the port that its scheme means anyway.
fn is_one_host<B>(request: &Request<B>) -> bool {
    let authority = request.uri().authority().map(Authority::as_str);
    let mut hosts = request.headers().get_all(HOST).iter();
    let one = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let usual: &[u8] = match request.uri().scheme_str() {
                Some("https") => b":443",
                Some("http") => b":80",
                _ => b"",
            };
            let short = |host: &'_ [u8]| host.strip_suffix(usual).unwrap_or(host).to_ascii_lowercase();
            let host_too = |authority: &str| {
                let (host, authority) = (host.as_bytes(), authority.as_bytes());
                host.eq_ignore_ascii_case(authority) || short(host) == short(authority)
            };
            is_host(host) && authority.is_none_or(host_too)
        }
        (Some(_), Some(_)) => false,
        (None, _) => true,
    };
    one && authority.is_none_or(|authority| !authority.contains('@'))
}

fn is_host(host: &HeaderValue) -> bool {
    // A client that has no name for the server sends an empty one.
    host.is_empty()
        || is_plain(host.as_bytes())
        || Authority::try_from(host.as_bytes()).is_ok_and(|authority| {
            let text = authority.as_str();
            // `http` takes any text for a port.
            let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
            let port = text.strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':'));
            !text.contains(['@', ',']) && port.is_none_or(is_port)
        })
}

/// Tells whether a host is a name or an IPv4 address, perhaps with a port, which is nearly each: without the copy that
/// [`Authority`] makes of what it reads.
fn is_plain(host: &[u8]) -> bool {
    let at = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
    let (name, port) = host.split_at(at);
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        && port.iter().skip(1).all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(version: Version, headers: &[(&str, &str)]) -> Option<&'static str> {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap()).err().map(|refusal| refusal.code())
    }

    #[test]
    fn one_host_that_is_one() {
        for good in ["relay.test", "relay.test:8443", "192.0.2.1", "[2001:db8::1]:80", ""] {
            assert_eq!(refusal(Version::HTTP_11, &[("host", good)]), None, "{good}");
        }
        for bad in ["a.test/path", "user@a.test", "a.test, b.test", "a b", "a.test:port"] {
            assert_eq!(refusal(Version::HTTP_11, &[("host", bad)]), Some("bad_host"), "{bad}");
        }
        assert_eq!(refusal(Version::HTTP_11, &[]), Some("bad_host"));
        assert_eq!(refusal(Version::HTTP_11, &[("host", "a"), ("host", "a")]), Some("bad_host"));
        assert_eq!(refusal(Version::HTTP_10, &[]), None);
        assert_eq!(refusal(Version::HTTP_2, &[]), None);
    }

    #[test]
    fn one_host_in_http2_whatever_it_stands_in() {
        let refused = |authority: &str, hosts: &[&str]| {
            let uri = match authority {
                "" => "/".to_owned(),
                with_scheme if with_scheme.contains("//") => format!("{with_scheme}/"),
                authority => format!("http://{authority}/"),
            };
            let mut request = Request::builder().version(Version::HTTP_2).uri(uri);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            check(&request.body(()).unwrap()).is_err()
        };
        for (authority, hosts) in [
            ("a:1", &[][..]),
            ("a:1", &["A:1"]),
            ("", &["a"]),
            ("a:80", &["A"]),
            ("a", &["a:80"]),
            ("https://a:443", &["a"]),
            ("https://[::1]", &["[::1]:443"]),
        ] {
            assert!(!refused(authority, hosts), "{authority} {hosts:?}");
        }
        for (authority, hosts) in [
            ("a", &["b"][..]),
            ("a", &["a", "a"]),
            ("", &["a", "b"]),
            ("u@a", &[]),
            ("", &["a/b"]),
            ("a", &["a:443"]),
            ("https://a:80", &["a"]),
        ] {
            assert!(refused(authority, hosts), "{authority} {hosts:?}");
        }
    }

    #[test]
    fn chunked_and_nothing_else() {
        let of = |codings: &[&'static str]| {
            let mut headers = vec![("host", "a")];
            headers.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
            refusal(Version::HTTP_11, &headers)
        };
        assert_eq!(of(&["chunked"]), None);
        assert_eq!(of(&["Chunked "]), None);
        for bad in [&["gzip, chunked"][..], &["chunked, chunked"], &["x", "chunked"], &["identity"], &[""]] {
            assert_eq!(of(bad), Some("bad_transfer_coding"), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_looks_plain_is_a_host_to_the_parser_too(host in "[a-z0-9.:@,\\[\\]/ -]{1,12}") {
            if is_plain(host.as_bytes()) {
                let authority = Authority::try_from(host.as_bytes());
                prop_assert!(authority.is_ok_and(|authority| host.starts_with(authority.host())), "{}", host);
            }
        }
    }
}
