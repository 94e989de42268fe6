use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use http::HeaderValue;
use http::uri::PathAndQuery;
use url::{Host, Url};

use crate::config::BackendKind;

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
    /// The socket of a server that listens on no network.
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug)]
pub(crate) enum Addresses {
    /// Known without asking anyone, in the order to try.
    Fixed(Vec<IpAddr>),
    /// The name has to be looked up.
    Lookup,
}

impl Origin {
    pub(crate) fn new(kind: BackendKind, url: &Url) -> Self {
        let (host, addresses) = match url.host() {
            Some(Host::Ipv4(ip)) => (ip.to_string(), Addresses::Fixed(vec![ip.into()])),
            Some(Host::Ipv6(ip)) => (ip.to_string(), Addresses::Fixed(vec![ip.into()])),
            // Not looked up: `localhost` must not depend on a resolver, and Ollama listens on IPv4.
            Some(Host::Domain("localhost")) => ("localhost".to_owned(), Addresses::Fixed(localhost())),
            Some(Host::Domain(name)) => (name.to_owned(), Addresses::Lookup),
            // http and https URLs have a host; another scheme fails when it is connected to.
            None => (String::new(), Addresses::Fixed(Vec::new())),
        };
        if url.scheme() == "unix" {
            return Self::unix(url);
        }
        let tls = url.scheme() == "https";
        let port = url.port_or_known_default().unwrap_or(80);
        let named = url.host_str().unwrap_or_default();
        let authority = url.port().map_or_else(|| named.to_owned(), |port| format!("{named}:{port}"));
        let mut prefix = url.path().trim_end_matches('/').to_owned();
        if kind == BackendKind::OpenAi && (prefix == "/v1" || prefix.ends_with("/v1")) {
            prefix.truncate(prefix.len() - "/v1".len());
        }
        let shown = format!("{}://{authority}{}", url.scheme(), url.path().trim_end_matches('/'));
        let authority = HeaderValue::from_str(&authority).unwrap_or_else(|_| HeaderValue::from_static(""));
        Self { tls, host, port, authority, shown, prefix, addresses, socket: None }
    }

    fn unix(url: &Url) -> Self {
        let path: Vec<u8> = percent_decode(url.path());
        Self {
            tls: false,
            host: "localhost".to_owned(),
            port: 80,
            authority: HeaderValue::from_static("localhost"),
            shown: format!("unix://{}", String::from_utf8_lossy(&path)),
            prefix: String::new(),
            addresses: Addresses::Fixed(Vec::new()),
            socket: Some(PathBuf::from(OsString::from_vec(path))),
        }
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Tells whether the backend is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        if self.socket.is_some() {
            return true;
        }
        match &self.addresses {
            Addresses::Fixed(ips) => !ips.is_empty() && ips.iter().all(IpAddr::is_loopback),
            Addresses::Lookup => false,
        }
    }

    /// Returns the request target in origin form; the bytes of the request's own are kept.
    pub(crate) fn target(&self, path_and_query: &PathAndQuery) -> Option<PathAndQuery> {
        if self.prefix.is_empty() {
            return Some(path_and_query.clone());
        }
        PathAndQuery::from_maybe_shared(format!("{}{path_and_query}", self.prefix)).ok()
    }
}

/// Takes `%20` and such out of the path of an address.
fn percent_decode(path: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        let decoded = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        rest = if decoded.is_some() { &behind[2..] } else { behind };
        out.push(decoded.unwrap_or(*first));
    }
    out
}

fn localhost() -> Vec<IpAddr> {
    vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(kind: BackendKind, url: &str) -> Origin {
        Origin::new(kind, &url.parse().unwrap())
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
}
