//! Web origins that may talk to the control port.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// One entry of `allowedOrigins`: a scheme, a host, and a port or any port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern {
    scheme: String,
    host: String,
    port: Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// The scheme's own.
    Default,
    Exact(u16),
    Any,
}

/// A text that is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOrigin;

impl fmt::Display for BadOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an origin such as https://example.org or http://localhost:*")
    }
}

impl std::error::Error for BadOrigin {}

impl OriginPattern {
    /// Tells whether an `Origin` header's value is meant by this entry.
    ///
    /// Schemes and hosts compare without regard to case; a port that is the scheme's own may be left out.
    pub fn matches(&self, origin: &str) -> bool {
        let Ok(origin) = origin.parse::<Self>() else { return false };
        let port = match self.port {
            Port::Any => true,
            Port::Default | Port::Exact(_) => self.port_number() == origin.port_number(),
        };
        // A caller cannot send a wildcard.
        port && origin.port != Port::Any && self.scheme == origin.scheme && self.host == origin.host
    }

    /// Tells whether the entry has a wildcard, so that it opens reads only.
    pub fn has_wildcard(&self) -> bool {
        self.port == Port::Any
    }

    fn port_number(&self) -> Option<u16> {
        match (self.port, self.scheme.as_str()) {
            (Port::Exact(port), _) => Some(port),
            (Port::Default, "http") => Some(80),
            (Port::Default, "https") => Some(443),
            (Port::Default | Port::Any, _) => None,
        }
    }
}

impl FromStr for OriginPattern {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        let (scheme, authority) = text.split_once("://").ok_or(BadOrigin)?;
        let scheme_fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(scheme_fits) {
            return Err(BadOrigin);
        }
        // An IPv6 address has colons of its own, inside brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            None => Port::Default,
            Some("*") => Port::Any,
            // `+80` would parse.
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                Port::Exact(port.parse().map_err(|_| BadOrigin)?)
            }
            Some(_) => return Err(BadOrigin),
        };
        if !is_host(host) {
            return Err(BadOrigin);
        }
        Ok(Self { scheme: scheme.to_ascii_lowercase(), host: host.to_ascii_lowercase(), port })
    }
}

fn is_host(host: &str) -> bool {
    if let Some(ip) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return ip.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !host.is_empty() && host.chars().all(fits)
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        match self.port {
            Port::Default => Ok(()),
            Port::Exact(port) => write!(f, ":{port}"),
            Port::Any => f.write_str(":*"),
        }
    }
}

impl Serialize for OriginPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> OriginPattern {
        text.parse().unwrap()
    }

    #[test]
    fn wildcard_port_takes_each_port_and_none() {
        let any = pattern("http://localhost:*");
        assert!(any.has_wildcard());
        for origin in ["http://localhost:3000", "http://localhost", "HTTP://LOCALHOST:1"] {
            assert!(any.matches(origin), "{origin}");
        }
        for origin in [
            "https://localhost:3000",
            "http://localhost.evil.com",
            "http://evil.com",
            "http://localhost:*",
            "http://localhost:80@evil.com",
            "http://evil.com/http://localhost:1",
            "null",
            "",
            "http://localhost:99999",
            "http://localhost:+80",
        ] {
            assert!(!any.matches(origin), "{origin}");
        }
    }

    #[test]
    fn exact_entry_knows_the_default_port() {
        let app = pattern("https://app.example.org");
        assert!(!app.has_wildcard());
        assert!(app.matches("https://app.example.org"));
        assert!(app.matches("https://app.example.org:443"));
        assert!(!app.matches("https://app.example.org:8443"));
        assert!(!app.matches("http://app.example.org"));
        assert!(pattern("http://[::1]:8765").matches("http://[::1]:8765"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "*",
            "localhost",
            "http://",
            "http://*",
            "https://example.org/",
            "https://a b",
            "http://a:b",
            "http://u:p@host",
            "://x",
            "null",
            "http://[::1",
            "http://[zz]",
            "",
        ] {
            assert_eq!(text.parse::<OriginPattern>(), Err(BadOrigin), "{text}");
        }
    }

    #[test]
    fn display_is_what_was_parsed() {
        for text in ["http://localhost:*", "https://app.example.org", "http://[::1]:80", "tauri://localhost"]
        {
            assert_eq!(pattern(text).to_string(), text);
        }
    }
}
