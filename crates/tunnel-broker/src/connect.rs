use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::origin::{Addresses, Origin};

/// Why there is no connection to a backend. The texts are for people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connection refused at {0}")]
    Refused(String),
    #[error("no connection to {at} within {} s", .after.as_secs_f32())]
    Timeout { at: String, after: Duration },
    #[error("no address found for {0}")]
    Lookup(String),
    #[error("could not connect to {at}: {source}")]
    Io { at: String, source: io::Error },
    #[error("no TLS connection to {at}: {source}")]
    Tls { at: String, source: io::Error },
}

/// Opens a connection; `limit` covers look-up, TCP and TLS together.
pub(crate) async fn connect(origin: &Origin, limit: Duration) -> Result<Io, ConnectError> {
    let at = || format!("{}:{}", origin.host, origin.port);
    tokio::time::timeout(limit, open(origin))
        .await
        .unwrap_or_else(|_| Err(ConnectError::Timeout { at: at(), after: limit }))
}

async fn open(origin: &Origin) -> Result<Io, ConnectError> {
    let at = || format!("{}:{}", origin.host, origin.port);
    let addresses: Vec<SocketAddr> = match origin.addresses() {
        Addresses::Fixed(ips) => ips.iter().map(|ip| SocketAddr::new(*ip, origin.port)).collect(),
        Addresses::Lookup => tokio::net::lookup_host((origin.host.as_str(), origin.port))
            .await
            .map_err(|_| ConnectError::Lookup(origin.host.clone()))?
            .collect(),
    };
    let stream = first_of(addresses).await.map_err(|(address, source)| match address {
        None => ConnectError::Lookup(origin.host.clone()),
        Some(address) if source.kind() == io::ErrorKind::ConnectionRefused => {
            ConnectError::Refused(address.to_string())
        }
        Some(address) => ConnectError::Io { at: address.to_string(), source },
    })?;
    // Each token is its own small write. A socket that takes no option is about to fail anyway.
    stream.set_nodelay(true).map_err(|source| ConnectError::Io { at: at(), source })?;
    if !origin.tls {
        return Ok(Io::Plain(stream));
    }
    let tls = |source| ConnectError::Tls { at: at(), source };
    let name = match origin.host.parse::<IpAddr>() {
        Ok(ip) => ServerName::from(ip),
        Err(_) => ServerName::try_from(origin.host.clone()).map_err(|e| tls(io::Error::other(e)))?,
    };
    let connector = TlsConnector::from(client_config().await.map_err(tls)?);
    let stream = connector.connect(name, stream).await.map_err(tls)?;
    Ok(Io::Tls(Box::new(stream)))
}

/// Connects to the first address that answers.
///
/// The next one is tried when one fails, or when it has been silent for a moment (RFC 8305): a dead IPv6
/// route must not cost the whole limit. Failing all, the error of the first is returned.
async fn first_of(addresses: Vec<SocketAddr>) -> Result<TcpStream, (Option<SocketAddr>, io::Error)> {
    const HEAD_START: Duration = Duration::from_millis(250);
    let mut waiting = addresses.into_iter();
    let mut trying = FuturesUnordered::new();
    let mut failure = (None, io::Error::from(io::ErrorKind::AddrNotAvailable));
    loop {
        if let Some(address) = waiting.next() {
            trying.push(async move { TcpStream::connect(address).await.map_err(|e| (Some(address), e)) });
        } else if trying.is_empty() {
            return Err(failure);
        }
        let more = waiting.len() > 0;
        let ended = if more {
            tokio::time::timeout(HEAD_START, trying.next()).await.unwrap_or(None)
        } else {
            trying.next().await
        };
        match ended {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(e)) if failure.0.is_none() => failure = e,
            Some(Err(_)) | None => {}
        }
    }
}

/// Returns the TLS settings: the system's roots, read when the first https backend is connected to.
async fn client_config() -> io::Result<Arc<rustls::ClientConfig>> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let config = tokio::task::spawn_blocking(load_config).await.map_err(io::Error::other)??;
    Ok(Arc::clone(CONFIG.get_or_init(|| config)))
}

fn load_config() -> io::Result<Arc<rustls::ClientConfig>> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        return Err(io::Error::other("no root certificates found on this system"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A connection, with or without TLS.
#[derive(Debug)]
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
