use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use http::HeaderValue;
use http::uri::PathAndQuery;
use url::{Host, Url};

use crate::profile::Profile;

/// Where a backend is, in the forms that a request needs.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    /// The host without brackets: a name or an address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The value of `Host`.
    pub(crate) authority: HeaderValue,
    /// For people and logs: the URL without credentials, query and fragment.
    pub(crate) shown: String,
    /// What the URL's path puts before each request's path; mostly empty.
    prefix: String,
    addresses: Addresses,
}

#[derive(Debug)]
pub(crate) enum Addresses {
    /// Known without asking anyone, in the order to try.
    Fixed(Vec<IpAddr>),
    /// The name has to be looked up.
    Lookup,
    /// A socket of this machine.
    Socket(PathBuf),
}

impl Origin {
    pub(crate) fn new(profile: &Profile, url: &Url) -> Self {
        if url.scheme() == "unix" {
            return Self::of_socket(url);
        }
        let (host, addresses) = match url.host() {
            Some(Host::Ipv4(ip)) => (ip.to_string(), Addresses::Fixed(vec![ip.into()])),
            Some(Host::Ipv6(ip)) => (ip.to_string(), Addresses::Fixed(vec![ip.into()])),
            // Not looked up: `localhost` must not depend on a resolver, and Ollama listens on IPv4.
            Some(Host::Domain("localhost")) => ("localhost".to_owned(), Addresses::Fixed(localhost())),
            Some(Host::Domain(name)) => (name.to_owned(), Addresses::Lookup),
            // http and https URLs have a host; another scheme fails when it is connected to.
            None => (String::new(), Addresses::Fixed(Vec::new())),
        };
        let tls = url.scheme() == "https";
        let port = url.port_or_known_default().unwrap_or(80);
        let named = url.host_str().unwrap_or_default();
        let authority = url.port().map_or_else(|| named.to_owned(), |port| format!("{named}:{port}"));
        let mut prefix = url.path().trim_end_matches('/').to_owned();
        if let Some(own) = profile.own_path.as_deref()
            && let Some(before) = prefix.strip_suffix(own)
        {
            prefix.truncate(before.len());
        }
        let shown = format!("{}://{authority}{}", url.scheme(), url.path().trim_end_matches('/'));
        let authority = HeaderValue::from_str(&authority).unwrap_or_else(|_| HeaderValue::from_static(""));
        Self { tls, host, port, authority, shown, prefix, addresses }
    }

    /// A URL's path names the socket, so there is none left for requests.
    fn of_socket(url: &Url) -> Self {
        // Empty only where the URL names a host: nothing can be connected to there.
        let path = url.to_file_path().unwrap_or_default();
        Self {
            tls: false,
            host: "localhost".to_owned(),
            port: 0,
            // Some name has to be there (RFC 9112 §3.2), and this one no server refuses.
            authority: HeaderValue::from_static("localhost"),
            shown: format!("unix://{}", url.path()),
            prefix: String::new(),
            addresses: Addresses::Socket(path),
        }
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Tells whether the backend is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        match &self.addresses {
            Addresses::Fixed(ips) => !ips.is_empty() && ips.iter().all(IpAddr::is_loopback),
            Addresses::Lookup => false,
            Addresses::Socket(_) => true,
        }
    }

    /// Tells whether nobody on the way can read what is sent.
    pub(crate) fn keeps_secrets(&self) -> bool {
        self.tls || self.is_loopback()
    }

    /// Returns the request target in origin form; the bytes of the request's own are kept.
    pub(crate) fn target(&self, path_and_query: &PathAndQuery) -> Option<PathAndQuery> {
        if self.prefix.is_empty() {
            return Some(path_and_query.clone());
        }
        PathAndQuery::from_maybe_shared(format!("{}{path_and_query}", self.prefix)).ok()
    }
}

fn localhost() -> Vec<IpAddr> {
    vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendKind;

    fn origin(kind: BackendKind, url: &str) -> Origin {
        Origin::new(kind.profile(), &url.parse().unwrap())
    }

    fn target(origin: &Origin, target: &'static str) -> String {
        origin.target(&PathAndQuery::from_static(target)).unwrap().to_string()
    }

    #[test]
    fn credentials_are_not_shown() {
        let origin = origin(BackendKind::OpenAi, "https://me:secret@gpu.example:8443/llm/v1/?k=v");
        assert_eq!(origin.shown, "https://gpu.example:8443/llm/v1");
        assert_eq!(origin.authority, "gpu.example:8443");
        assert!(!format!("{origin:?}").contains("secret"));
    }

    #[test]
    fn a_path_is_a_prefix_but_openais_own_is_not_doubled() {
        let openai = origin(BackendKind::OpenAi, "http://h/llm/v1");
        assert_eq!(target(&openai, "/v1/models?x=%2F"), "/llm/v1/models?x=%2F");
        let ollama = origin(BackendKind::Ollama, "http://h/v1/");
        assert_eq!(target(&ollama, "/api/tags"), "/v1/api/tags");
        assert_eq!(target(&origin(BackendKind::OpenAi, "http://h:1"), "/v1/a//b"), "/v1/a//b");
    }

    #[test]
    fn localhost_is_both_loopback_addresses() {
        let origin = origin(BackendKind::Ollama, "http://localhost:11434");
        let Addresses::Fixed(ips) = origin.addresses() else { panic!("looked up") };
        assert_eq!(ips, &localhost());
        assert!(origin.is_loopback());
        assert_eq!(origin.port, 11434);
    }

    #[test]
    fn a_socket_is_this_machine_and_its_path_no_prefix() {
        let origin = origin(BackendKind::Plugin, "unix:///run/my%20plugin.sock");
        let Addresses::Socket(path) = origin.addresses() else { panic!("no socket") };
        assert_eq!(path.to_str(), Some("/run/my plugin.sock"));
        assert_eq!(target(&origin, "/v1/models"), "/v1/models");
        assert_eq!(
            (origin.authority.to_str().unwrap(), origin.shown.as_str()),
            ("localhost", "unix:///run/my%20plugin.sock")
        );
        assert!(origin.is_loopback() && origin.keeps_secrets());
    }

    #[test]
    fn secrets_stay_on_this_machine_or_under_tls() {
        let keeps = |url| origin(BackendKind::Cloud, url).keeps_secrets();
        assert!(
            keeps("https://relay.example") && keeps("http://127.0.0.1:8080") && keeps("http://localhost")
        );
        assert!(!keeps("http://relay.example") && !keeps("http://10.0.0.1") && !keeps("http://0.0.0.0"));
    }
}
