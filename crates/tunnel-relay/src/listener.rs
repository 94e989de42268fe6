//! The public address: sockets in, connections served.

mod address_caps;
mod http2;
mod port_owner;
mod serve;
mod watched;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::{debug, warn};

pub(crate) use self::address_caps::AddressCaps;
use self::address_caps::AddressSlot;
pub(crate) use self::serve::socket_of;
use crate::body::Readers;
use crate::client::Client;
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
    /// Who is at the other end.
    pub(crate) direct: Client,
    /// Whether that is a proxy whose word on its callers counts.
    pub(crate) is_proxy: bool,
    pub(crate) is_tls: bool,
    /// The caller of HTTP/1.0 cannot tell a body that broke off from one that is complete, unless the connection is
    /// reset.
    pub(crate) body_ends_with_connection: AtomicBool,
    /// Whether the caller reads what it asked for.
    pub(crate) readers: Readers,
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
                match admit(&shared, peer.ip()) {
                    Ok(slot) => {
                        let serving = serve::serve(stream, peer, Arc::clone(&shared), slot);
                        shared.connections.spawn(serving);
                    }
                    Err(TooMany) => {
                        // Dropped, which closes it: an answer would have to wait for a request.
                        shared.metrics.cut_off("address_connections");
                        debug!("too many connections of one address");
                    }
                }
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

/// An address has all the connections that it may have.
struct TooMany;

/// Counts a connection against its address. A trusted proxy has as many as it needs.
fn admit(shared: &Shared, peer: IpAddr) -> Result<Option<AddressSlot>, TooMany> {
    if is_trusted(shared, peer) {
        return Ok(None);
    }
    let max = shared.settings().address.max_connections;
    shared.address_caps.take(peer, max).map(Some).ok_or(TooMany)
}

/// Tells whether an address is one of the proxies in front.
fn is_trusted(shared: &Shared, peer: IpAddr) -> bool {
    let settings = shared.settings();
    crate::client::is_trusted(&settings.edge.trusted_proxies, peer)
}

fn is_the_callers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
