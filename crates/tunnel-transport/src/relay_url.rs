//! The address of a relay.

use std::fmt;

use url::{Host, Url};

/// Where a relay is: `https://…`, or `http://…` for a loopback address only, since a token travels there.
///
/// `wss` and `ws` are taken as other names for the two. User, password, query and fragment are refused: the
/// address is shown in logs and status.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayUrl {
    url: Url,
    host: String,
}

/// Says why text is not the address of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayUrlError {
    /// It cannot be read as an address with a host.
    #[error("not an address such as https://relay.example.org")]
    Malformed,
    /// Another scheme than http(s).
    #[error("it must start with https:// (or http:// for a relay on this machine)")]
    Scheme,
    /// Plain http to another machine.
    #[error("plain http would show the token to the network; use https:// for a relay on another machine")]
    PlainHttp,
    /// Something that has no place in an address that is logged.
    #[error("it must not hold a user, a password, a query or a fragment")]
    Extra,
}

impl RelayUrl {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<Self, RelayUrlError> {
        let text = match text.split_once("://") {
            Some(("wss", rest)) => format!("https://{rest}"),
            Some(("ws", rest)) => format!("http://{rest}"),
            _ => text.to_owned(),
        };
        let url = Url::parse(&text).map_err(|_| RelayUrlError::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(RelayUrlError::Scheme);
        }
        if !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some()
        {
            return Err(RelayUrlError::Extra);
        }
        let host = match url.host().ok_or(RelayUrlError::Malformed)? {
            // Brackets are for the address bar; resolvers and TLS take the bare form.
            Host::Ipv6(ip) => ip.to_string(),
            host => host.to_string(),
        };
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err(RelayUrlError::PlainHttp);
        }
        Ok(Self { url, host })
    }

    /// Returns the host: a name or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, the scheme's own where none is written.
    pub fn port(&self) -> u16 {
        // Cannot fail: both schemes have a default port.
        self.url.port_or_known_default().expect("http and https have ports")
    }

    /// Tells whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Returns the value of the `Host` header.
    pub fn authority(&self) -> &str {
        self.url.authority()
    }

    /// Returns `path` below the address's own path, as the target of a request.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.url.path().trim_end_matches('/'))
    }
}

/// Tells whether an address can only mean this machine: `localhost`, what is below it, or a loopback IP.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            // With the dot of a full name it is the same name.
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        // An IPv4 address may be written as an IPv6 one.
        Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        None => false,
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in [
            "http://127.0.0.1:8080",
            "http://localhost",
            "ws://[::1]:1",
            "https://relay.example",
            "wss://r.example/x",
        ] {
            assert!(RelayUrl::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://relay.example", RelayUrlError::PlainHttp),
            ("ws://10.0.0.1", RelayUrlError::PlainHttp),
            ("http://127.0.0.1.nip.example", RelayUrlError::PlainHttp),
            ("ftp://relay.example", RelayUrlError::Scheme),
            ("relay.example", RelayUrlError::Malformed),
            ("https://user:secret@relay.example", RelayUrlError::Extra),
            ("https://relay.example?token=x", RelayUrlError::Extra),
        ] {
            assert_eq!(RelayUrl::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_relay_below_a_path_is_dialled_there() {
        let url = RelayUrl::parse("https://example.org/relay/").unwrap();
        assert_eq!(url.join("/_tunnel/v1/connect"), "/relay/_tunnel/v1/connect");
        assert_eq!((url.host(), url.port()), ("example.org", 443));
        assert_eq!(RelayUrl::parse("http://[::1]:80").unwrap().host(), "::1");
    }
}
