//! The address of an authorization server's endpoint.

use std::fmt;

use tunnel_transport::{RelayUrl, is_loopback};
use url::{Host, Url};

/// Where tokens are renewed or revoked: `https`, or `http` to this machine, since a token travels there.
///
/// Shown as its host alone: what stands in path and query is between the server and its client.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(Url);

/// Why text is no such address. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("is not an address such as https://login.example.org/token")]
    Malformed,
    #[error("must start with https:// (or http:// for this machine)")]
    Plain,
    #[error("must not hold a user, a password or a fragment")]
    Extra,
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Self, EndpointError> {
        let url = Url::parse(text).map_err(|_| EndpointError::Malformed)?;
        if !url.has_host() {
            return Err(EndpointError::Malformed);
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) => {}
            _ => return Err(EndpointError::Plain),
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(EndpointError::Extra);
        }
        Ok(Self(url))
    }

    /// Returns what lies at a path below a relay's address. The path is fit for a request line and ends there: it has no
    /// fragment.
    pub(crate) fn of_relay(relay: &RelayUrl, path: &str) -> Self {
        Self::parse(&format!("{relay}{path}"))
            .expect("a relay's address is https, or http to this machine, without user or fragment")
    }

    pub(crate) fn url(&self) -> &Url {
        &self.0
    }

    /// The host, a name or an address without brackets.
    pub(crate) fn host(&self) -> String {
        match self.0.host() {
            Some(Host::Ipv6(ip)) => ip.to_string(),
            Some(host) => host.to_string(),
            // Cannot happen: `parse` asks for a host.
            None => String::new(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        // Cannot fail: both schemes have a default port.
        self.0.port_or_known_default().expect("http and https have ports")
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_travel_encrypted_or_not_off_this_machine() {
        for good in ["https://login.example/token?tenant=a", "http://127.0.0.1:9/t", "http://[::1]/t"] {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://login.example/token", EndpointError::Plain),
            ("ftp://127.0.0.1/", EndpointError::Plain),
            ("login.example", EndpointError::Malformed),
            ("https://me:secret@login.example", EndpointError::Extra),
            ("https://login.example/#x", EndpointError::Extra),
        ] {
            assert_eq!(Endpoint::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn paths_lie_below_the_relays_own() {
        for (relay, expected) in [
            ("wss://relay.example", "https://relay.example/_tunnel/v1/login"),
            ("https://relay.example:8443/below/", "https://relay.example:8443/below/_tunnel/v1/login"),
            ("ws://[::1]:9", "http://[::1]:9/_tunnel/v1/login"),
        ] {
            let relay = RelayUrl::parse(relay).unwrap();
            assert_eq!(Endpoint::of_relay(&relay, "/_tunnel/v1/login").url().as_str(), expected);
        }
    }

    #[test]
    fn only_the_host_is_shown() {
        let endpoint = Endpoint::parse("https://login.example/a/secret?b=c").unwrap();
        assert_eq!(
            (endpoint.to_string(), format!("{endpoint:?}")),
            ("login.example".into(), "Endpoint(login.example)".into())
        );
    }
}
