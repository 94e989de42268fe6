//! The public address: sockets in, connections served.

mod port_owner;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use crate::body::Reader;
use crate::ingress;
use crate::relay::Shared;

/// Longest wait after an accept that failed because something ran out.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Longest head of a request: what the tunnel takes as a header list. Beyond: 431.
const HEAD_MAX_BYTES: usize = 64 * 1024;

/// How long a connection without a request may stay when the relay drains.
const FIRST_REQUEST_WAIT: Duration = Duration::from_millis(500);

/// What the requests of one connection have in common.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    /// The address at the other end.
    pub(crate) peer: IpAddr,
    /// The caller of HTTP/1.0 cannot tell a body that broke off from one that is complete, unless the connection is
    /// reset.
    pub(crate) body_ends_with_connection: AtomicBool,
    /// Whether the caller reads what it asked for.
    pub(crate) reader: Arc<Reader>,
    /// Whether a request has come.
    used: AtomicBool,
}

impl Connection {
    /// Notes that a request has come.
    pub(crate) fn mark_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The text names no address.
    #[error("{address} is no address to listen on; it must be HOST:PORT")]
    BadAddress {
        /// What was given.
        address: String,
        #[source]
        /// What the resolver said.
        source: io::Error,
    },
    /// Another socket has the port.
    #[error("port {} is taken{}; free it, or choose another one with {option}", .address.port(), by(.owner))]
    Taken {
        /// The address.
        address: SocketAddr,
        /// The process that has it, where it can be seen.
        owner: Option<String>,
        /// The option that sets the address.
        option: &'static str,
    },
    /// The system said no.
    #[error("could not listen on {address}")]
    Io {
        /// The address.
        address: SocketAddr,
        #[source]
        /// What the system answered.
        source: io::Error,
    },
}

fn by(owner: &Option<String>) -> String {
    owner.as_ref().map(|owner| format!(" by {owner}")).unwrap_or_default()
}

/// Listens on `HOST:PORT`, the first address of the name that works.
pub(crate) async fn bind(address: &str, option: &'static str) -> Result<TcpListener, ListenError> {
    let bad = |source| ListenError::BadAddress { address: address.to_owned(), source };
    let mut failed = bad(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for resolved in tokio::net::lookup_host(address).await.map_err(bad)? {
        match TcpListener::bind(resolved).await {
            Ok(listener) => return Ok(listener),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                let owner = port_owner::find(resolved.port());
                failed = ListenError::Taken { address: resolved, owner, option };
            }
            Err(source) => failed = ListenError::Io { address: resolved, source },
        }
    }
    Err(failed)
}

/// Accepts until the relay has drained.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut pause = Duration::ZERO;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.drained.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = Duration::ZERO;
                shared.connections.spawn(serve(stream, peer, Arc::clone(&shared)));
            }
            // The one that called is gone; the next one is not.
            Err(error) if is_the_callers(&error) => {}
            Err(error) => {
                // No descriptors or memory: what runs will give some back.
                pause = (pause * 2).clamp(Duration::from_millis(10), ACCEPT_PAUSE_MAX);
                warn!(%error, pause_ms = pause.as_millis(), "cannot accept");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn is_the_callers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "caller gone at once");
        return;
    }
    let counted = Counted::new(&shared);
    let connection = Arc::new(Connection {
        shared: Arc::clone(&shared),
        peer: peer.ip(),
        body_ends_with_connection: AtomicBool::new(false),
        reader: Arc::new(Reader::new()),
        used: AtomicBool::new(false),
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(shared.settings().edge.header_read_timeout)
        .max_header_size(HEAD_MAX_BYTES)
        // A request that comes while the relay drains is answered, and its connection closed.
        .keep_alive(!shared.closing.is_cancelled());
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| ingress::handle(Arc::clone(&connection), request))
    };
    let mut serving = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut unread = std::pin::pin!(connection.reader.stalled(|| shared.settings().edge.unread_timeout));
    let mut asked_to_finish = shared.closing.is_cancelled();
    let cut = loop {
        tokio::select! {
            biased;
            served = &mut serving => match served {
                Ok(()) => break false,
                Err(error) => {
                    // Callers that hang up, and bodies that broke off.
                    debug!(%error, "connection ended");
                    break error.is_user();
                }
            },
            () = shared.closing.cancelled(), if !asked_to_finish => {
                asked_to_finish = true;
                std::pin::Pin::new(&mut serving).graceful_shutdown();
            }
            // hyper would wait for a first request that may never come.
            () = tokio::time::sleep(FIRST_REQUEST_WAIT), if asked_to_finish && !connection.is_used() => {
                if !connection.is_used() {
                    break false;
                }
            }
            // hyper asks for no more while its buffer is full, so nobody else would notice.
            () = unread.as_mut() => break true,
            () = shared.hard.cancelled() => break true,
        }
    };
    if cut
        && connection.body_ends_with_connection.load(Ordering::Relaxed)
        && let Some(parts) = serving.into_parts()
        && let Err(error) = parts.io.into_inner().set_zero_linger()
    {
        debug!(%error, "caller gone before it could be reset");
    }
    drop(counted);
}

/// Counts a connection for as long as it lives.
struct Counted<'a>(&'a Shared);

impl<'a> Counted<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.metrics.connections.inc();
        Self(shared)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}
