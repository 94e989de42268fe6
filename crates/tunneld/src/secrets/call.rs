//! One call to an authorization server or to the relay, beside the tunnel.
//!
//! A connection of its own for each: calls are rare, and what they take (the system's root certificates above all)
//! would otherwise lie in memory for good. Redirects are not followed: a secret goes where the user said, and nowhere
//! else.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tunnel_transport::{Socket, TlsError};
use url::form_urlencoded;

use super::endpoint::Endpoint;
use crate::config::Proxies;
use crate::exchange::exchange;
use crate::tunnel::Settings;

/// Longest wait for the connection: TCP and TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for all of it, where a call says nothing else.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// Longest answer that is read, in bytes, where a call says nothing else: two tokens and their surroundings.
const MAX_ANSWER_BYTES: usize = 128 * 1024;

/// What is asked. Its `Debug` shows where, not what.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) body: CallBody<'a>,
    /// Shown as `Authorization: Bearer`.
    pub(crate) bearer: Option<&'a SecretString>,
    limit: Duration,
    max_answer_bytes: usize,
}

/// What is sent along.
pub(crate) enum CallBody<'a> {
    None,
    Form(&'a [(&'a str, &'a str)]),
    Json(&'a serde_json::Value),
}

/// The answer to a call.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// What `Retry-After` asks for, in seconds; dates are not understood.
    pub(crate) retry_after: Option<Duration>,
    /// May hold tokens.
    pub(crate) body: Bytes,
}

/// How authorization servers and the relay are reached, and what is trusted on the way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Way {
    /// Trusted besides the system's certificates.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) proxies: Proxies,
}

impl Way {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self { ca_file: settings.ca_file.clone(), proxies: settings.proxies.clone() }
    }
}

/// Why there is no answer. Names the host at most.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{host} cannot be reached")]
    Unreachable {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("{host} did not answer within {} s", .after.as_secs())]
    Timeout { host: String, after: Duration },
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    #[error("there is no TLS with {host}")]
    Handshake {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("{host} hung up, or did not speak HTTP")]
    Http {
        host: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl<'a> Call<'a> {
    pub(crate) fn get(endpoint: &'a Endpoint) -> Self {
        Self::new(Method::GET, endpoint, CallBody::None)
    }

    pub(crate) fn post_form(endpoint: &'a Endpoint, form: &'a [(&'a str, &'a str)]) -> Self {
        Self::new(Method::POST, endpoint, CallBody::Form(form))
    }

    pub(crate) fn post_json(endpoint: &'a Endpoint, value: &'a serde_json::Value) -> Self {
        Self::new(Method::POST, endpoint, CallBody::Json(value))
    }

    pub(crate) fn delete(endpoint: &'a Endpoint) -> Self {
        Self::new(Method::DELETE, endpoint, CallBody::None)
    }

    fn new(method: Method, endpoint: &'a Endpoint, body: CallBody<'a>) -> Self {
        Self { method, endpoint, body, bearer: None, limit: LIMIT, max_answer_bytes: MAX_ANSWER_BYTES }
    }

    pub(crate) fn with_bearer(self, token: &'a SecretString) -> Self {
        Self { bearer: Some(token), ..self }
    }

    /// Gives all of it another limit.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Reads an answer of up to so many bytes.
    pub(crate) fn up_to(self, max_answer_bytes: usize) -> Self {
        Self { max_answer_bytes, ..self }
    }

    /// Makes the call, within its limit.
    pub(crate) async fn make(self, way: &Way) -> Result<Answer, CallError> {
        let Self { endpoint, limit, max_answer_bytes, .. } = self;
        let timed_out = |after| CallError::Timeout { host: endpoint.host(), after };
        let whole = async {
            let stream = timeout(CONNECT_LIMIT, connect(endpoint, way))
                .await
                .map_err(|_| timed_out(CONNECT_LIMIT))??;
            let host = || endpoint.host();
            exchange(stream, self.request(), max_answer_bytes)
                .await
                .map(answer)
                .map_err(|source| CallError::Http { host: host(), source })
        };
        timeout(limit, whole).await.map_err(|_| timed_out(limit))?
    }

    fn request(self) -> Request<Full<Bytes>> {
        let url = self.endpoint.url();
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let (kind, body) = match self.body {
            CallBody::None => (None, String::new()),
            CallBody::Form(form) => {
                let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
                (Some("application/x-www-form-urlencoded"), body)
            }
            CallBody::Json(value) => (Some("application/json"), value.to_string()),
        };
        let mut request = Request::builder()
            .method(self.method)
            .uri(target)
            .header(HOST, url.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("tunneld/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Full::from(body))
            // Cannot fail: the parts of a parsed URL are fit for a request line and a header.
            .expect("a URL's parts");
        if let Some(kind) = kind {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if let Some(token) = self.bearer {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
                // Cannot fail: `parse_token` takes visible ASCII alone.
                .expect("a token fits a header");
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        request
    }
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({} {})", self.method, self.endpoint)
    }
}

async fn connect(endpoint: &Endpoint, way: &Way) -> Result<Box<dyn Socket>, CallError> {
    let unreachable = |source| CallError::Unreachable { host: endpoint.host(), source };
    let (host, port) = (endpoint.host(), endpoint.port());
    if !endpoint.is_tls() {
        // On this machine.
        return Ok(Box::new(TcpStream::connect((host.as_str(), port)).await.map_err(unreachable)?));
    }
    let tls = tls(way.ca_file.clone()).await?;
    let stream: Box<dyn Socket> = match way.proxies.to(endpoint.url()) {
        Some(proxy) => proxy.connect(&host, port, tls.config()).await.map_err(unreachable)?,
        None => Box::new(TcpStream::connect((host.as_str(), port)).await.map_err(unreachable)?),
    };
    let no_tls = |source| CallError::Handshake { host: endpoint.host(), source };
    let name = ServerName::try_from(endpoint.host()).map_err(|error| no_tls(io::Error::other(error)))?;
    Ok(Box::new(tls.connect(name, stream).await.map_err(no_tls)?))
}

async fn tls(ca_file: Option<PathBuf>) -> Result<TlsConnector, CallError> {
    // Hundreds of files on some systems.
    match tokio::task::spawn_blocking(move || tunnel_transport::tls_config(ca_file.as_deref())).await {
        Ok(config) => Ok(TlsConnector::from(Arc::clone(&config.map_err(CallError::Tls)?))),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn answer(response: Response<Bytes>) -> Answer {
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Answer {
        status: response.status(),
        retry_after: retry_after.map(Duration::from_secs),
        body: response.into_body(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Posts to a server with a certificate of its own for `localhost`; `trusted` names it in the CA file.
    async fn post_over_tls(trusted: bool, host: &str) -> Result<Answer, CallError> {
        post_to_a_server("localhost", trusted, host, None).await
    }

    /// Posts to a server whose certificate is for `name`. With `head` it stands behind a proxy, which is expected to
    /// be asked for it with that head.
    async fn post_to_a_server(
        name: &str,
        trusted: bool,
        host: &str,
        head: Option<&str>,
    ) -> Result<Answer, CallError> {
        let [own, other] = [(); 2].map(|()| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap());
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let mut ca_file = tempfile::NamedTempFile::new().unwrap();
        let authority = if trusted { own.cert.pem() } else { other.cert.pem() };
        ca_file.write_all(authority.as_bytes()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = if head.is_some() { 443 } else { address.port() };
        let endpoint = Endpoint::parse(&format!("https://{host}:{port}/token")).unwrap();
        let proxies = head.map(|_| Proxies::all_through(&format!("http://{address}"))).unwrap_or_default();
        let way = Way { ca_file: Some(ca_file.path().to_owned()), proxies };
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            if let Some(head) = head {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                let asked = String::from_utf8(asked).unwrap();
                assert!(asked.starts_with(head), "{asked}");
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            }
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let (mut asked, expected) = (Vec::new(), b"a=b+c%26d");
            while !asked.ends_with(expected) {
                stream.read_buf(&mut asked).await.unwrap();
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        tokio::join!(serving, Call::post_form(&endpoint, &[("a", "b c&d")]).make(&way)).1
    }

    #[tokio::test]
    async fn server_is_trusted_by_the_ca_file() {
        let answer = post_over_tls(true, "localhost").await.unwrap();
        assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, b"{}".as_slice()));
    }

    #[tokio::test]
    async fn server_elsewhere_is_reached_through_the_proxy_and_trusted_no_more_than_without() {
        let name = "login.example";
        let head = Some("CONNECT login.example:443 HTTP/1.1\r\n");
        let answer = post_to_a_server(name, true, name, head).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        let error = post_to_a_server(name, false, name, head).await.err().unwrap();
        assert!(matches!(error, CallError::Handshake { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn server_with_a_foreign_certificate_or_name_gets_no_token() {
        for (trusted, host) in [(false, "localhost"), (true, "127.0.0.1")] {
            let error = post_over_tls(trusted, host).await.err().unwrap();
            assert!(matches!(error, CallError::Handshake { .. }), "{error:?}");
        }
        let endpoint = Endpoint::parse("https://localhost/token").unwrap();
        let way = Way { ca_file: Some("/nowhere.pem".into()), ..Way::default() };
        let error = Call::post_form(&endpoint, &[]).make(&way).await.err().unwrap();
        assert!(matches!(error, CallError::Tls(_)), "{error:?}");
    }
}
