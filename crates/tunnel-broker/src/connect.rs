use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::fs::{FileType, Mode, OFlags};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::credential::NoSecret;
use crate::origin::{Addresses, Origin};
use crate::tls::Roots;

/// Why there is no connection to a backend. The texts are for people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connection refused at {0}")]
    Refused(String),
    #[error("no connection to {at} within {} s", .after.as_secs_f32())]
    Timeout { at: String, after: Duration },
    #[error("no address found for {0}")]
    Lookup(String),
    #[error("could not connect to {at}: {why}")]
    Io { at: String, why: io::Error },
    #[error("no TLS connection to {at}: {why}")]
    Tls { at: String, why: io::Error },
    #[error("unauthorised: {0}")]
    NoSecret(NoSecret),
}

/// Opens a connection; `limit` covers look-up, TCP and TLS together.
pub(crate) async fn connect(origin: &Origin, roots: &Roots, limit: Duration) -> Result<Io, ConnectError> {
    tokio::time::timeout(limit, open(origin, roots))
        .await
        .unwrap_or_else(|_| Err(ConnectError::Timeout { at: place(origin), after: limit }))
}

/// Names where a connection goes, for people.
fn place(origin: &Origin) -> String {
    match origin.addresses() {
        Addresses::Socket(path) => path.display().to_string(),
        Addresses::Fixed(_) | Addresses::Lookup => format!("{}:{}", origin.host, origin.port),
    }
}

/// Connects to a socket of this machine, and to nothing that stands in its place: whoever may write to its folder could put a
/// symbolic link there, and have us speak to a socket that is out of its own reach.
///
/// # Errors
///
/// When the path is no socket, or nobody listens there.
pub async fn connect_socket(path: &Path) -> io::Result<UnixStream> {
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) {
        FileType::Socket => {}
        FileType::Symlink => {
            let why = "it is a symbolic link, and none is followed; name the socket itself";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket")),
    }
    // What was looked at, whatever is at the path by now.
    UnixStream::connect(format!("/proc/self/fd/{}", found.as_raw_fd())).await
}

async fn open(origin: &Origin, roots: &Roots) -> Result<Io, ConnectError> {
    let at = || place(origin);
    let addresses: Vec<SocketAddr> = match origin.addresses() {
        Addresses::Socket(path) => {
            let stream = connect_socket(path).await;
            return stream.map(Io::Unix).map_err(|why| match why.kind() {
                // The program that made it is gone, or has not made it yet: nobody listens.
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ConnectError::Refused(at()),
                _ => ConnectError::Io { at: at(), why },
            });
        }
        Addresses::Fixed(ips) => ips.iter().map(|ip| SocketAddr::new(*ip, origin.port)).collect(),
        Addresses::Lookup => tokio::net::lookup_host((origin.host.as_str(), origin.port))
            .await
            .map_err(|_| ConnectError::Lookup(origin.host.clone()))?
            .collect(),
    };
    let stream = first_of(addresses).await.map_err(|(address, why)| match address {
        None => ConnectError::Lookup(origin.host.clone()),
        Some(address) if why.kind() == io::ErrorKind::ConnectionRefused => {
            ConnectError::Refused(address.to_string())
        }
        Some(address) => ConnectError::Io { at: address.to_string(), why },
    })?;
    // Each token is its own small write. A socket that takes no option is about to fail anyway.
    stream.set_nodelay(true).map_err(|why| ConnectError::Io { at: at(), why })?;
    if !origin.tls {
        return Ok(Io::Plain(stream));
    }
    let stream = roots.secure(&origin.host, stream).await;
    let stream = stream.map_err(|why| ConnectError::Tls { at: at(), why })?;
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

/// A connection: plain, with TLS, or to a socket of this machine.
#[derive(Debug)]
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Self::Unix(io) => Pin::new(io).poll_write(cx, buf),
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
            Self::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            Self::Unix(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
            Self::Unix(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Self::Unix(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_connected_to_and_what_stands_in_its_place_is_not() {
        let folder = std::env::temp_dir().join(format!("connect-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [socket, link, file] = ["socket", "link", "file"].map(|name| folder.join(name));
        let listener = UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        std::fs::write(&file, "").unwrap();

        connect_socket(&socket).await.unwrap();
        listener.accept().await.unwrap();
        for path in [&link, &file] {
            assert_eq!(connect_socket(path).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        drop(listener);
        assert_eq!(connect_socket(&socket).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(connect_socket(&socket).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
