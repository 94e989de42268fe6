//! Documents of issuers, fetched over HTTP: small, in time, from where they should come.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Map, Value};
use tracing::error;
use url::{Host, Url};

use super::jwt::Strict;

/// Longest document. Key sets have a few thousand bytes.
const BODY_MAX_BYTES: usize = 1024 * 1024;

/// Longest wait for a document, from the name's address to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a document may be used without asking again, whatever its `max-age` says.
const SHORTEST_AGE: Duration = Duration::from_secs(5 * 60);
const LONGEST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Fetches documents.
#[derive(Debug)]
pub(super) struct Fetcher {
    /// For other machines: TLS, and the proxy that the environment names.
    outward: reqwest::Client,
    /// For this machine: never through a proxy.
    inward: reqwest::Client,
}

/// A document.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) members: Map<String, Value>,
    /// How long it may be used before it should be fetched anew.
    pub(super) fresh_for: Duration,
}

/// Why there is no document. Says nothing of what it holds.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{url} is neither https nor on this machine")]
    Insecure { url: Url },
    #[error("could not fetch {url}")]
    Transport {
        url: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answered {status}")]
    Status { url: Url, status: http::StatusCode },
    #[error("{url} sent more than {BODY_MAX_BYTES} bytes")]
    TooLong { url: Url },
    #[error("{url} sent no JSON object")]
    Malformed { url: Url },
    #[error("{url} is of the issuer {found}, not of {wanted}")]
    OtherIssuer { url: Url, found: String, wanted: String },
    #[error("{issuer} is no URL, so there is no address to ask for its keys")]
    NoAddress { issuer: String },
    #[error("{url} names no address of keys")]
    NoKeysAddress { url: Url },
    #[error("{url} holds no key that could be used")]
    NoKeys { url: Url },
}

impl Fetcher {
    pub(super) fn new() -> Self {
        let tls = tunnel_transport::tls_config(None).map_or_else(
            |error| {
                error!(%error, "keys of issuers cannot be fetched over TLS");
                without_roots()
            },
            |tls| (*tls).clone(),
        );
        let client = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                // Whoever the issuer is, it does not say where else its keys might be.
                .redirect(reqwest::redirect::Policy::none())
                .timeout(TIMEOUT)
                // A fetch in minutes needs no connection that is kept.
                .pool_max_idle_per_host(0)
                .user_agent(concat!("tunnel-relay/", env!("CARGO_PKG_VERSION")))
        };
        // Cannot fail: the TLS settings are rustls's own, and nothing else is read from outside.
        let built = |builder: reqwest::ClientBuilder| builder.build().expect("a client of fixed settings");
        Self { outward: built(client()), inward: built(client().no_proxy()) }
    }

    /// Fetches a JSON object.
    pub(super) async fn get(&self, url: &Url) -> Result<Document, FetchError> {
        let client = match (url.scheme(), is_loopback(url)) {
            ("https" | "http", true) => &self.inward,
            ("https", false) => &self.outward,
            _ => return Err(FetchError::Insecure { url: url.clone() }),
        };
        let failed =
            |source: reqwest::Error| FetchError::Transport { url: url.clone(), source: source.without_url() };
        let mut response =
            client.get(url.clone()).header(ACCEPT, "application/json").send().await.map_err(failed)?;
        let status = response.status();
        if status != http::StatusCode::OK {
            return Err(FetchError::Status { url: url.clone(), status });
        }
        let fresh_for = freshness(
            response.headers().get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()),
        );
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > BODY_MAX_BYTES {
                return Err(FetchError::TooLong { url: url.clone() });
            }
            body.extend_from_slice(&piece);
        }
        match serde_json::from_slice(&body) {
            Ok(Strict(Value::Object(members))) => Ok(Document { members, fresh_for }),
            Ok(_) | Err(_) => Err(FetchError::Malformed { url: url.clone() }),
        }
    }
}

/// Trusts nobody: every connection fails.
fn without_roots() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of both versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// Tells whether an address is on this machine, where nobody listens in.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn freshness<'a>(mut cache_control: impl Iterator<Item = &'a str>) -> Duration {
    let max_age = cache_control.find_map(|value| {
        value.split(',').find_map(|directive| {
            let (name, seconds) = directive.trim().split_once('=')?;
            name.eq_ignore_ascii_case("max-age").then(|| seconds.trim_matches('"').parse::<u64>().ok())?
        })
    });
    max_age.map_or(SHORTEST_AGE, Duration::from_secs).clamp(SHORTEST_AGE, LONGEST_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_used_for_minutes_to_a_day() {
        let of = |value: &str| freshness([value].into_iter()).as_secs();
        assert_eq!(of("public, max-age=3600, stale-while-revalidate=15"), 3_600);
        assert_eq!(of("Max-Age=0"), 300);
        assert_eq!(of("no-store"), 300);
        assert_eq!(of("max-age=99999999999999999999"), 300);
        assert_eq!(of("max-age=31536000"), 86_400);
        assert_eq!(freshness(std::iter::empty()).as_secs(), 300);
    }

    #[tokio::test]
    async fn plain_http_to_another_machine_is_refused() {
        let url = "http://issuer.example/keys".parse().unwrap();
        assert!(matches!(Fetcher::new().get(&url).await.unwrap_err(), FetchError::Insecure { .. }));
    }
}
