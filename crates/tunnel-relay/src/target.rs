//! What a request is aimed at: the tunnel endpoint, the relay itself, or a path on a device.

use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;

use crate::account::Resource;

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A desktop dials.
    Connect,
    /// Somebody asks whether the relay is alive.
    Health,
    /// Somebody asks the relay itself.
    Own(Resource),
    /// A path that belongs to the tunnel itself and is never forwarded.
    Reserved,
    /// A request for a device.
    Device,
}

/// What a path said about the device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prefixed {
    pub(crate) device: String,
    pub(crate) rest: PathAndQuery,
}

/// Tells where a path leads. The path is as the caller wrote it.
pub(crate) fn target(path: &str) -> Target {
    match path {
        tunnel_transport::CONNECT_PATH => Target::Connect,
        "/health" => Target::Health,
        "/_tunnel/v1/login" => Target::Own(Resource::Login),
        "/_tunnel/v1/devices" => Target::Own(Resource::Devices),
        "/_tunnel/v1/tokens" => Target::Own(Resource::Tokens),
        _ => match path.strip_prefix("/_tunnel/v1/tokens/") {
            Some(id) => Target::Own(Resource::Token(id.to_owned())),
            None if is_reserved(path) => Target::Reserved,
            None => Target::Device,
        },
    }
}

/// Takes `/d/<device>` off the front of a path; `None` when there is no such prefix.
pub(crate) fn split_device(uri: &Uri) -> Option<Prefixed> {
    let after = uri.path().strip_prefix("/d/")?;
    let (device, path) = after.split_at(after.find('/').unwrap_or(after.len()));
    let path = if path.is_empty() { "/" } else { path };
    let rest = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // Cannot fail: a piece of a path that was parsed already.
    let rest = PathAndQuery::try_from(rest).ok()?;
    Some(Prefixed { device: device.to_owned(), rest })
}

/// Tells whether some reader of the path may take it for one under `/_tunnel`, however it is spelled.
fn is_reserved(path: &str) -> bool {
    // Nearly all paths are plain and end here.
    let plain = !path.contains(['%', '\\', ';']) && !path.contains("//") && !path.contains("/.");
    let first_is_reserved = |path: &str| {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        first.eq_ignore_ascii_case("_tunnel")
    };
    if plain {
        return first_is_reserved(path);
    }
    let mut decoded: Cow<'_, str> = path.into();
    // Some servers decode twice; a path that is still changing after that is nobody's honest spelling.
    for _ in 0..3 {
        decoded = percent_decode(&decoded).into();
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        let segment = segment.split(';').next().unwrap_or_default().trim_matches(|c: char| c <= ' ');
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    first_is_reserved(&segments.join("/"))
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_paths_are_found() {
        assert_eq!(target("/_tunnel/v1/connect"), Target::Connect);
        assert_eq!(target("/health"), Target::Health);
        assert_eq!(target("/"), Target::Device);
        assert_eq!(target("/v1/chat/completions"), Target::Device);
        assert_eq!(target("/d/desk/api/chat"), Target::Device);
        assert_eq!(target("/x/_tunnel"), Target::Device);
        assert_eq!(target("/_tunnels"), Target::Device);
    }

    #[test]
    fn no_spelling_of_the_tunnels_paths_is_forwarded() {
        let spellings = [
            "/_tunnel",
            "/_tunnel/",
            "/_tunnel/v1/migrate",
            "/_tunnel/v1/connect/",
            "/_TUNNEL/v1/migrate",
            "//_tunnel/v1/migrate",
            "/%5ftunnel/v1/migrate",
            "/%5Ftunnel/v1/migrate",
            "/%255ftunnel/v1/migrate",
            "/_%74unnel/v1/migrate",
            "/./_tunnel/v1/migrate",
            "/x/../_tunnel/v1/migrate",
            "/x/%2e%2e/_tunnel/v1/migrate",
            "/x/..%2f_tunnel/v1/migrate",
            "/x/..;/_tunnel/v1/migrate",
            "/_tunnel;x=1/v1/migrate",
            "/..\\_tunnel\\v1\\migrate",
            "/%2f_tunnel/v1/migrate",
            "/../../_tunnel/v1/migrate",
        ];
        for path in spellings {
            assert_eq!(target(path), Target::Reserved, "{path}");
        }
    }

    #[test]
    fn a_device_prefix_is_taken_off_and_the_rest_is_untouched() {
        let split = |uri: &str| {
            let prefixed = split_device(&uri.parse().unwrap())?;
            Some((prefixed.device, prefixed.rest.to_string()))
        };
        let expect = |device: &str, rest: &str| Some((device.to_owned(), rest.to_owned()));
        assert_eq!(split("/d/desk/v1/models?a=%20&b"), expect("desk", "/v1/models?a=%20&b"));
        assert_eq!(split("/d/desk"), expect("desk", "/"));
        assert_eq!(split("/d/desk?x"), expect("desk", "/?x"));
        assert_eq!(split("/d/desk//a%2Fb/"), expect("desk", "//a%2Fb/"));
        assert_eq!(split("/d/"), expect("", "/"));
        assert_eq!(split("/d"), None);
        assert_eq!(split("/data/x"), None);
        assert_eq!(split("/v1/d/x"), None);
    }
}
