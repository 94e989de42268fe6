//! Who is at the other end of a connection, or behind the proxy that is.

mod forwarded;

use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use self::forwarded::{Hop, Node};
use crate::config::{EdgeSettings, ProxyHeader};
use crate::listener::Connection;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The caller's address as far as it can be trusted.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// The `forwarded` header for its requests.
    pub(crate) forwarded: HeaderValue,
}

impl Client {
    /// The other end of a connection.
    pub(crate) fn direct(address: IpAddr, is_tls: bool) -> Self {
        let address = address.to_canonical();
        let hop = Hop { node: Node::Address(address), proto: Some(proto(is_tls)) };
        Self { address, forwarded: hop.to_header() }
    }

    /// Tells who sent a request with these headers: the other end of the connection, or, where that is a trusted proxy,
    /// the one that the proxy names: the right-most hop that is no trusted proxy itself. What stands to the left of it,
    /// anybody may have written.
    ///
    /// One header is read, of which the settings say that the proxies write it: the other they pass on as it came. A hop without an address (`unknown`, `_hidden`) has the address of the proxy that
    /// vouches for it.
    pub(crate) fn of(connection: &Connection, headers: &HeaderMap) -> Self {
        if !connection.is_proxy {
            return connection.direct.clone();
        }
        let settings = connection.shared.settings();
        Self::behind(&settings.edge, &connection.direct, headers).unwrap_or_else(|| connection.direct.clone())
    }

    /// Reads what a trusted proxy says; `None` where it says nothing.
    fn behind(edge: &EdgeSettings, proxy: &Self, headers: &HeaderMap) -> Option<Self> {
        let proxies = &edge.trusted_proxies;
        let hops = match edge.proxy_header {
            ProxyHeader::Forwarded => forwarded::forwarded(headers.get_all(FORWARDED)),
            ProxyHeader::XForwardedFor => {
                let mut hops = forwarded::x_forwarded_for(headers.get_all(X_FORWARDED_FOR));
                if let Some(last) = hops.last_mut() {
                    last.proto = forwarded::proto(headers.get_all(X_FORWARDED_PROTO));
                }
                hops
            }
        };
        let mut vouching = proxy.address;
        let mut said = None;
        let mut nearest_proto = None;
        for hop in hops.into_iter().rev() {
            // Each hop is written by the one to its right, which was found to be trusted.
            nearest_proto = hop.proto.or(nearest_proto);
            match hop.node {
                Node::Address(address) if is_trusted(proxies, address) => {
                    vouching = address;
                    said = Some(Hop { proto: nearest_proto, ..hop });
                }
                Node::Address(_) | Node::Hidden(_) => {
                    said = Some(Hop { proto: nearest_proto, ..hop });
                    break;
                }
                // What a proxy garbled, it did not vouch for.
                Node::Garbled => break,
            }
        }
        let hop = said?;
        let address = match hop.node {
            Node::Address(address) => address,
            Node::Hidden(_) | Node::Garbled => vouching,
        };
        Some(Self { address, forwarded: hop.to_header() })
    }
}

/// Returns the header's name.
pub(crate) fn name_of(header: ProxyHeader) -> HeaderName {
    match header {
        ProxyHeader::Forwarded => FORWARDED,
        ProxyHeader::XForwardedFor => X_FORWARDED_FOR,
    }
}

/// Tells whether an address is one of the trusted proxies.
pub(crate) fn is_trusted(proxies: &[IpNet], address: IpAddr) -> bool {
    // Most relays have none.
    if proxies.is_empty() {
        return false;
    }
    let address = address.to_canonical();
    proxies.iter().any(|net| net.contains(&address))
}

fn proto(is_tls: bool) -> &'static str {
    if is_tls { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(proxy_header: ProxyHeader, headers: &[(&str, &str)]) -> Option<(String, String)> {
        let trusted_proxies =
            ["10.0.0.0/8", "2001:db8:ffff::/48"].iter().map(|net| net.parse().unwrap()).collect();
        let edge = EdgeSettings { trusted_proxies, proxy_header, ..EdgeSettings::default() };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let proxy = Client::direct([10, 0, 0, 1].into(), false);
        let client = Client::behind(&edge, &proxy, &map)?;
        Some((client.address.to_string(), client.forwarded.to_str().unwrap().to_owned()))
    }

    fn header_of(name: &str) -> ProxyHeader {
        if name == "forwarded" { ProxyHeader::Forwarded } else { ProxyHeader::XForwardedFor }
    }

    #[test]
    fn forwarded_names_the_caller() {
        let of = |address: IpAddr, tls| Client::direct(address, tls).forwarded;
        assert_eq!(of([192, 0, 2, 1].into(), false), "for=192.0.2.1;proto=http");
        assert_eq!(of("2001:db8::1".parse().unwrap(), true), "for=\"[2001:db8::1]\";proto=https");
        assert_eq!(of("::ffff:192.0.2.1".parse().unwrap(), false), "for=192.0.2.1;proto=http");
    }

    #[test]
    fn the_right_most_hop_that_is_no_proxy_is_the_caller() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
            (&[("x-forwarded-for", "6.6.6.6, 192.0.2.7")], "192.0.2.7"),
            (&[("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.9.9.9")], "192.0.2.7"),
            (&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
            (&[("x-forwarded-for", "192.0.2.7:4711")], "192.0.2.7"),
            (&[("x-forwarded-for", "2001:db8::7")], "2001:db8::7"),
            (&[("x-forwarded-for", "[2001:db8::7]:443")], "2001:db8::7"),
            (&[("x-forwarded-for", "::ffff:192.0.2.7")], "192.0.2.7"),
            // Nobody but proxies: the one that is farthest out.
            (&[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            // What the proxy could not have written is not read past.
            (&[("x-forwarded-for", "192.0.2.7, garbage, 10.0.0.2")], "10.0.0.2"),
            (&[("forwarded", "for=6.6.6.6, for=192.0.2.7")], "192.0.2.7"),
            (&[("forwarded", "for=192.0.2.7;proto=https;by=10.0.0.1")], "192.0.2.7"),
            (&[("forwarded", "For=\"[2001:db8::7]:4711\"")], "2001:db8::7"),
            (&[("forwarded", "for=192.0.2.7, for=\"[2001:db8:ffff::1]\"")], "192.0.2.7"),
            (&[("forwarded", "for=192.0.2.7, for=unknown")], "10.0.0.1"),
            (&[("forwarded", "for=_hidden, for=10.0.0.9")], "10.0.0.9"),
        ];
        for (headers, address) in cases {
            let header = header_of(headers[0].0);
            let said = behind(header, headers).map(|(address, _)| address);
            assert_eq!(said.as_deref(), Some(*address), "{headers:?}");
        }
    }

    #[test]
    fn the_header_that_the_proxy_does_not_write_is_not_read() {
        let headers = [("forwarded", "for=192.0.2.6"), ("x-forwarded-for", "192.0.2.7")];
        assert_eq!(behind(ProxyHeader::XForwardedFor, &headers).unwrap().0, "192.0.2.7");
        assert_eq!(behind(ProxyHeader::Forwarded, &headers).unwrap().0, "192.0.2.6");
        assert_eq!(behind(ProxyHeader::XForwardedFor, &headers[..1]), None);
        assert_eq!(behind(ProxyHeader::Forwarded, &headers[1..]), None);
    }

    #[test]
    fn a_proxy_that_says_nothing_is_the_caller() {
        for headers in
            [&[][..], &[("x-forwarded-for", "")], &[("x-forwarded-for", "what?")], &[("forwarded", ";;,")]]
        {
            for header in [ProxyHeader::XForwardedFor, ProxyHeader::Forwarded] {
                assert_eq!(behind(header, headers), None, "{headers:?}");
            }
        }
    }

    #[test]
    fn the_scheme_is_the_proxys_word() {
        let forwarded = |headers: &[(&str, &str)]| behind(header_of(headers[0].0), headers).unwrap().1;
        assert_eq!(
            forwarded(&[
                ("x-forwarded-for", "192.0.2.7"),
                ("x-forwarded-proto", "https, http"),
                ("x-forwarded-proto", "http, https")
            ]),
            "for=192.0.2.7;proto=https"
        );
        assert_eq!(
            forwarded(&[
                ("x-forwarded-for", "192.0.2.7"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-proto", "http")
            ]),
            "for=192.0.2.7;proto=http"
        );
        assert_eq!(
            forwarded(&[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")]),
            "for=192.0.2.7;proto=https"
        );
        assert_eq!(
            forwarded(&[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "gopher\"")]),
            "for=192.0.2.7"
        );
        assert_eq!(forwarded(&[("forwarded", "for=_hidden;proto=HTTPS")]), "for=\"_hidden\";proto=https");
        assert_eq!(forwarded(&[("forwarded", "for=unknown")]), "for=unknown");
    }
}
