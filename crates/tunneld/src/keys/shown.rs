//! Where a caller shows its key: in a header, never in the address, which is written down in too many places.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::token::Shown;

/// Headers that hold nothing but a key, as clients of Anthropic's and Azure's APIs send it.
const PLAIN: [&str; 2] = ["x-api-key", "api-key"];

/// Returns what a caller shows as its key: a local one where there is one, else anything.
///
/// Apps that must have some key send a placeholder in one header and may have ours in another.
pub(crate) fn shown(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get_all(AUTHORIZATION).iter().filter_map(bearer);
    let plain =
        PLAIN.into_iter().flat_map(|name| headers.get_all(name)).filter_map(|value| value.to_str().ok());
    let mut any = None;
    for text in bearer.chain(plain).map(str::trim) {
        if is_local_key(text) {
            return Some(text);
        }
        any = any.or(Some(text));
    }
    any
}

/// Tells whether what is shown has the form of a local key, which no placeholder has.
pub(crate) fn is_local_key(shown: &str) -> bool {
    Shown::parse(shown).is_some()
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(rest)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        shown(&headers.iter().map(header).collect()).map(str::to_owned)
    }

    const KEY: &str = "tk_0123456789_00000000000000000000000000000000000000000000000000000000000000ff";

    #[test]
    fn key_is_found_in_each_of_its_headers() {
        assert_eq!(of(&[("authorization", "Bearer tk_1")]).as_deref(), Some("tk_1"));
        assert_eq!(of(&[("authorization", "bearer  tk_1 ")]).as_deref(), Some("tk_1"));
        assert_eq!(of(&[("x-api-key", "tk_1")]).as_deref(), Some("tk_1"));
        assert_eq!(of(&[("api-key", "tk_1")]).as_deref(), Some("tk_1"));
        assert_eq!(of(&[("authorization", "Bearer dummy")]).as_deref(), Some("dummy"));
        assert_eq!(of(&[("authorization", "Basic dGtfMQ==")]), None);
        assert_eq!(of(&[("cookie", "tk_1")]), None);
    }

    #[test]
    fn key_goes_before_placeholders() {
        for placeholder in ["Bearer dummy", "Bearer tk_placeholder"] {
            assert_eq!(of(&[("authorization", placeholder), ("x-api-key", KEY)]).as_deref(), Some(KEY));
        }
    }
}
