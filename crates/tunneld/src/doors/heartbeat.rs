//! Whether the daemon serves: it asks itself, as a client would.
//!
//! A timer that fires says that the timer runs. A connection that is accepted, judged and answered says that the
//! one thread gets round, that the listeners are still heard, and that the router and its guard work.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::accept::is_exhausted;

/// Longest wait for an answer. A healthy daemon under full load needs milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Where the doors are; told anew when they move.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) control: Vec<SocketAddr>,
    pub(crate) gateway: Vec<SocketAddr>,
    pub(crate) lan: Option<LanPlace>,
    pub(crate) socket: Option<PathBuf>,
}

/// Where other machines find the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LanPlace {
    pub(crate) address: SocketAddr,
    /// Host and port to give to others: an address that stands for all addresses is no place to connect to, and with TLS
    /// it is one that the certificate names, if there is any.
    pub(crate) shown: String,
    pub(crate) tls: bool,
}

/// Asks the daemon through one of its own doors.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    places: watch::Receiver<Places>,
}

impl Heartbeat {
    pub(crate) fn new(places: watch::Receiver<Places>) -> Self {
        Self { places }
    }

    /// Tells whether a door answers. With all doors closed there is only the tunnel: that this runs is enough.
    ///
    /// A daemon that is out of descriptors counts as serving: its streams run, and to kill it would cut them.
    pub(crate) async fn beats(self) -> bool {
        let places = self.places.borrow().clone();
        match tokio::time::timeout(ANSWER_LIMIT, ask(&places)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) if is_exhausted(&error) => {
                debug!(%error, "cannot ask whether the daemon serves");
                true
            }
            Ok(Err(error)) => {
                warn!(%error, "a door of the daemon does not answer");
                false
            }
            Err(_) => {
                let full = std::fs::File::open("/dev/null").is_err_and(|error| is_exhausted(&error));
                warn!(limit_s = ANSWER_LIMIT.as_secs(), full, "a door of the daemon is silent");
                full
            }
        }
    }
}

/// The port comes first: a socket's file may be removed, which is no reason to end what runs.
async fn ask(places: &Places) -> io::Result<()> {
    if let Some(address) = places.control.first() {
        answered(TcpStream::connect(address).await?, &format!("{address}")).await
    } else if let Some(path) = &places.socket {
        answered(UnixStream::connect(path).await?, "localhost").await
    } else if let Some(address) = places.gateway.first() {
        // A host that is not ours: the guard answers, and no model server is asked.
        answered(TcpStream::connect(address).await?, "heartbeat.invalid").await
    } else {
        Ok(())
    }
}

/// Any answer will do: also a refusal says that somebody is there.
async fn answered(mut stream: impl AsyncRead + AsyncWrite + Unpin, host: &str) -> io::Result<()> {
    const VERSION: &[u8] = b"HTTP/1.1 ";
    let request = format!("GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut begin = [0; VERSION.len()];
    stream.read_exact(&mut begin).await?;
    if begin == VERSION { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn heartbeat(places: Places) -> Heartbeat {
        Heartbeat::new(watch::channel(places).1)
    }

    async fn door() -> (TcpListener, Places) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = vec![listener.local_addr().unwrap()];
        (listener, Places { control, ..Places::default() })
    }

    #[tokio::test]
    async fn answer_is_a_beat() {
        let (listener, places) = door().await;
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
        };
        assert!(tokio::join!(heartbeat(places).beats(), serve).0);
    }

    #[tokio::test]
    async fn silence_and_refusal_are_none() {
        // Accepted by the kernel, by nobody else.
        let (listener, places) = door().await;
        tokio::time::pause();
        assert!(!heartbeat(places.clone()).beats().await);
        drop(listener);
        assert!(!heartbeat(places).beats().await);
    }

    #[tokio::test]
    async fn daemon_without_doors_beats() {
        assert!(heartbeat(Places::default()).beats().await);
    }
}
