//! One address that is asked, over a connection for each question.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, SERVER, USER_AGENT};
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::Empty;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::debug;
use tunnel_transport::Socket;
use url::{Host, Url};

use super::identity::{Question, Reply};
use crate::exchange::exchange;

/// Longest answer that is read, in bytes: a list of some thousand models.
pub(super) const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Names a connection that no configuration can have. A gateway of ours, this daemon's or another one's, refuses what
/// is addressed to it; everybody else skips the header. So no gateway is taken for the server behind it.
const PIN: (HeaderName, &str) = (HeaderName::from_static("x-tunnel-connection"), "?");

/// A base address, `http` or `https`.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) url: Url,
    pub(super) connect_limit: Duration,
}

impl Site {
    pub(super) async fn ask(&self, question: Question) -> Option<Reply> {
        let stream = match timeout(self.connect_limit, self.connect()).await.ok()? {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "no connection");
                return None;
            }
        };
        let request = Request::get(format!("{}{}", base_path(&self.url), question.path()))
            .header(HOST, authority(&self.url))
            .header(ACCEPT, "application/json, text/plain")
            .header(USER_AGENT, concat!("tunneld/", env!("CARGO_PKG_VERSION")))
            .header(PIN.0, PIN.1)
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .ok()?;
        match exchange(stream, request, MAX_ANSWER_BYTES).await {
            Ok(response) => Some(reply(response)),
            Err(error) => {
                debug!(path = question.path(), %error, "no answer");
                None
            }
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Socket>> {
        let unfit = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let host = self.url.host().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let port = self.url.port_or_known_default().unwrap_or_default();
        let (stream, name) = match host {
            Host::Domain(name) => {
                let server = ServerName::try_from(name.to_owned()).map_err(unfit)?;
                (TcpStream::connect((name, port)).await?, server)
            }
            Host::Ipv4(ip) => {
                (TcpStream::connect((ip, port)).await?, ServerName::from(std::net::IpAddr::from(ip)))
            }
            Host::Ipv6(ip) => {
                (TcpStream::connect((ip, port)).await?, ServerName::from(std::net::IpAddr::from(ip)))
            }
        };
        if self.url.scheme() != "https" {
            return Ok(Box::new(stream));
        }
        // Made anew each time: it is seldom, and the certificates of a system are some hundred kilobytes.
        let tls = tokio::task::spawn_blocking(|| tunnel_transport::tls_config(None)).await;
        let tls = tls.map_err(io::Error::other)?.map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(&tls)).connect(name, stream).await?))
    }
}

/// Returns what paths are put behind: the `/v1` of OpenAI's API is left out, since each question has its own.
pub(super) fn base_path(url: &Url) -> &str {
    let path = url.path().trim_end_matches('/');
    path.strip_suffix("/v1").unwrap_or(path)
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn reply(response: Response<Bytes>) -> Reply {
    let ours = response.headers().keys().any(|name| {
        *name == tunnel_api::VERSION_HEADER
            || *name == "tunnel-error"
            || name.as_str().starts_with("x-tunnel-")
    });
    Reply {
        ok: response.status().is_success(),
        wants_key: response.status() == StatusCode::UNAUTHORIZED,
        ours,
        server: response.headers().get(SERVER).and_then(|value| value.to_str().ok()).map(str::to_owned),
        body: response.into_body(),
    }
}
