//! What proxies write about the hops before them: `Forwarded` (RFC 7239) and `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use http::header::GetAll;

/// One hop, as the proxy behind it saw it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) node: Node,
    /// `http` or `https`.
    pub(super) proto: Option<&'static str>,
}

/// Who a hop was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Node {
    Address(IpAddr),
    /// `unknown`, or a name that begins with `_`: the proxy does not tell.
    Hidden(String),
    /// Nothing that a proxy writes.
    Garbled,
}

/// Hops that are looked at. Nobody has so many proxies of his own, and a caller may send thousands.
const MOST_HOPS: usize = 32;
/// RFC 7239 §6.3 has no limit.
const LONGEST_NAME: usize = 64;

impl Hop {
    /// Writes the hop as a `forwarded` header for the desktop.
    pub(super) fn to_header(&self) -> HeaderValue {
        let mut text = match &self.node {
            Node::Address(IpAddr::V4(ip)) => format!("for={ip}"),
            Node::Address(IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
            Node::Hidden(name) if name == "unknown" => "for=unknown".to_owned(),
            Node::Hidden(name) => format!("for=\"{name}\""),
            Node::Garbled => "for=unknown".to_owned(),
        };
        if let Some(proto) = self.proto {
            text.push_str(";proto=");
            text.push_str(proto);
        }
        HeaderValue::try_from(text).expect("addresses and names of letters are printable ASCII")
    }
}

/// Reads `X-Forwarded-For`, the nearest hop last.
pub(super) fn x_forwarded_for(values: GetAll<'_, HeaderValue>) -> Vec<Hop> {
    let mut hops = Vec::new();
    for value in values.iter().rev() {
        let text = value.to_str().unwrap_or("?");
        for item in text.rsplit(',').map(str::trim).filter(|item| !item.is_empty()) {
            if hops.len() == MOST_HOPS {
                break;
            }
            hops.push(Hop { node: node(item), proto: None });
        }
    }
    hops.reverse();
    hops
}

/// Reads `Forwarded`, the nearest hop last. An element without `for` is garbled: it hides a hop.
pub(super) fn forwarded(values: GetAll<'_, HeaderValue>) -> Vec<Hop> {
    let mut hops = Vec::new();
    for value in values {
        let Ok(text) = value.to_str() else {
            hops.push(Hop { node: Node::Garbled, proto: None });
            continue;
        };
        for element in split_outside_quotes(text, ',') {
            if !element.trim().is_empty() {
                hops.push(self::element(element));
            }
        }
    }
    let surplus = hops.len().saturating_sub(MOST_HOPS);
    hops.drain(..surplus);
    hops
}

fn element(text: &str) -> Hop {
    let mut hop = Hop { node: Node::Garbled, proto: None };
    for pair in split_outside_quotes(text, ';') {
        let Some((name, value)) = pair.split_once('=') else { continue };
        let Some(value) = unquote(value.trim()) else { continue };
        let name = name.trim();
        if name.eq_ignore_ascii_case("for") {
            hop.node = node(&value);
        } else if name.eq_ignore_ascii_case("proto") {
            hop.proto = scheme(&value);
        }
    }
    hop
}

/// Reads the scheme of `X-Forwarded-Proto`: the last of several is the nearest proxy's.
pub(super) fn proto(values: GetAll<'_, HeaderValue>) -> Option<&'static str> {
    scheme(values.iter().next_back()?.to_str().ok()?.rsplit(',').next()?.trim())
}

fn scheme(text: &str) -> Option<&'static str> {
    ["http", "https"].into_iter().find(|known| text.eq_ignore_ascii_case(known))
}

/// Reads an address with or without a port, in brackets or not, or a name that hides one.
fn node(text: &str) -> Node {
    if text.eq_ignore_ascii_case("unknown") {
        return Node::Hidden("unknown".to_owned());
    }
    if text.starts_with('_') {
        let is_name = text.len() <= LONGEST_NAME
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        return if is_name { Node::Hidden(text.to_owned()) } else { Node::Garbled };
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok();
    let address = address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    // A port may be hidden, too: `192.0.2.1:_port`.
    let address = address.or_else(|| text.rsplit_once(":_")?.0.trim_matches(['[', ']']).parse().ok());
    address.map_or(Node::Garbled, |address| Node::Address(address.to_canonical()))
}

/// Takes a quoted string apart (RFC 9110 §5.6.4); a token stays as it is.
fn unquote(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('"') else { return Some(text.to_owned()) };
    let inner = rest.strip_suffix('"')?;
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next()?),
            '"' => return None,
            c => plain.push(c),
        }
    }
    Some(plain)
}

fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::FORWARDED;
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Vec<Hop> {
        let mut map = HeaderMap::new();
        map.insert(FORWARDED, value.parse().unwrap());
        forwarded(map.get_all(FORWARDED))
    }

    fn address(text: &str, proto: Option<&'static str>) -> Hop {
        Hop { node: Node::Address(text.parse().unwrap()), proto }
    }

    fn hidden(name: &str) -> Hop {
        Hop { node: Node::Hidden(name.to_owned()), proto: None }
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let garbled = || Hop { node: Node::Garbled, proto: None };
        let cases = [
            ("for=\"_gazonk\"", vec![hidden("_gazonk")]),
            ("For=\"[2001:db8:cafe::17]:4711\"", vec![address("2001:db8:cafe::17", None)]),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", vec![address("192.0.2.60", Some("http"))]),
            (
                "for=192.0.2.43, for=198.51.100.17",
                vec![address("192.0.2.43", None), address("198.51.100.17", None)],
            ),
            (
                "for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown",
                vec![address("192.0.2.43", None), address("2001:db8:cafe::17", None), hidden("unknown")],
            ),
            ("for=_hidden, for=_SEVKISEK", vec![hidden("_hidden"), hidden("_SEVKISEK")]),
            ("for=\"192.0.2.1:_port\"", vec![address("192.0.2.1", None)]),
            ("for=\"_a,b;c=\\\"d\", for=192.0.2.1", vec![garbled(), address("192.0.2.1", None)]),
            ("by=203.0.113.43", vec![garbled()]),
            ("for=\"192.0.2.1", vec![garbled()]),
        ];
        for (text, hops) in cases {
            assert_eq!(read(text), hops, "{text}");
        }
    }

    #[test]
    fn a_thousand_hops_are_not_looked_at() {
        let many = vec!["for=192.0.2.1"; 1_000].join(",");
        let hops = read(&format!("{many}, for=198.51.100.17"));
        assert_eq!(hops.len(), MOST_HOPS);
        assert_eq!(hops.last(), Some(&address("198.51.100.17", None)));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_makes_a_header(text in "[ -~]{0,80}") {
            for hop in read(&text) {
                let header = hop.to_header();
                prop_assert!(header.to_str().unwrap().starts_with("for="));
                prop_assert_eq!(read(header.to_str().unwrap()).len(), 1, "{:?}", header);
            }
        }
    }
}
