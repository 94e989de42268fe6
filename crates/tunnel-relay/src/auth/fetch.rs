//! Documents of issuers, fetched over HTTP: small, in time, from where they should come.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
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

/// Fetches documents. Follows no redirect: whoever the issuer is, it does not say where else its keys might be.
#[derive(Debug)]
pub(super) struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
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
    #[error("{url} is neither https nor on this machine, or is on this machine and named from elsewhere")]
    Insecure { url: Url },
    #[error("could not fetch {url}")]
    Transport {
        url: Url,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{url} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout { url: Url },
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
        let mut tls = tunnel_transport::tls_config(None).map_or_else(
            |error| {
                error!(%error, "keys of issuers cannot be fetched over TLS");
                without_roots()
            },
            |tls| (*tls).clone(),
        );
        // A tunnel's protocols are in it. The connector puts in its own, and does not start where there are some.
        tls.alpn_protocols.clear();
        let mut tcp = HttpConnector::new();
        // Both schemes: which address may be asked without TLS is decided for each.
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        // A fetch in minutes needs no connection that is kept.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { client }
    }

    /// Fetches a JSON object.
    pub(super) async fn get(&self, url: &Url) -> Result<Document, FetchError> {
        if url.scheme() != "https" && !(is_plain(url) && is_loopback(url)) {
            return Err(FetchError::Insecure { url: url.clone() });
        }
        let fetched = tokio::time::timeout(TIMEOUT, self.fetch(url)).await;
        let (headers, body) = fetched.map_err(|_| FetchError::Timeout { url: url.clone() })??;
        let cache_control = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        match serde_json::from_slice(&body) {
            Ok(Strict(Value::Object(members))) => {
                Ok(Document { members, fresh_for: freshness(cache_control) })
            }
            Ok(_) | Err(_) => Err(FetchError::Malformed { url: url.clone() }),
        }
    }

    async fn fetch(&self, url: &Url) -> Result<(HeaderMap, Bytes), FetchError> {
        let failed = |source| FetchError::Transport { url: url.clone(), source };
        let request = Request::get(url.as_str())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("tunnel-relay/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| failed(error.into()))?;
        let response = self.client.request(request).await.map_err(|error| failed(error.into()))?;
        let (head, body) = response.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(FetchError::Status { url: url.clone(), status: head.status });
        }
        match Limited::new(body, BODY_MAX_BYTES).collect().await {
            Ok(body) => Ok((head.headers, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLong { url: url.clone() }),
            Err(error) => Err(failed(error)),
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

/// Tells whether an address is asked without TLS.
pub(super) fn is_plain(url: &Url) -> bool {
    url.scheme() == "http"
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
