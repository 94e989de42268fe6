//! One connection, from its first byte to its last.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;
use tunnel_transport::{PREFACE, Socket, plain_socket, tune_socket};

use super::address_caps::AddressSlot;
use super::http2::{self, Guarded, OnStream, Streams};
use super::watched::{HeadClock, HeadTimer, Patience, Watched};
use super::{Connection, FIRST_REQUEST_WAIT, HEAD_MAX_BYTES};
use crate::body::Readers;
use crate::ingress;
use crate::relay::Shared;
use crate::tls::ACME_TLS;

/// Which HTTP a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// What a caller's bytes run on.
pub(super) trait CallerSocket: Socket {
    /// The TCP connection under it.
    fn tcp(&self) -> &TcpStream;
}

impl CallerSocket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl CallerSocket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Serves a connection until it ends. `slot` counts it against its address.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    slot: Option<AddressSlot>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "caller gone at once");
        return;
    }
    let _slot = slot;
    let _counted = Counted::new(&shared);
    let (patience, handshake_timeout) = {
        let edge = &shared.settings().edge;
        let patience = Patience { head: edge.header_read_timeout, idle: edge.keep_alive_timeout };
        (patience, edge.tls_handshake_timeout)
    };
    let peer = peer.ip();
    let Some(tls) = shared.tls.config() else {
        let clock = HeadClock::new(patience);
        let preface = tokio::time::timeout(patience.head, sniff(&stream));
        let protocol = match while_it_may(&shared, preface).await {
            Some(Ok(protocol)) => protocol,
            Some(Err(_late)) => return shared.metrics.cut_off("timeout"),
            None => return,
        };
        return speak(stream, protocol, Connection::new(&shared, peer, false, protocol), patience, clock)
            .await;
    };
    let handshake = tokio::time::timeout(handshake_timeout, TlsAcceptor::from(tls).accept(stream));
    let stream = match while_it_may(&shared, handshake).await {
        Some(Ok(Ok(stream))) => {
            shared.metrics.tls_handshakes.inc("ok");
            stream
        }
        Some(Ok(Err(error))) => {
            shared.metrics.tls_handshakes.inc("error");
            return debug!(%error, "no TLS with a caller");
        }
        Some(Err(_late)) => {
            shared.metrics.tls_handshakes.inc("timeout");
            return shared.metrics.cut_off("handshake_timeout");
        }
        None => return,
    };
    let protocol = match stream.get_ref().1.alpn_protocol() {
        // The handshake was the answer (RFC 8737 §3).
        Some(ACME_TLS) => return,
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let clock = HeadClock::new(patience);
    speak(stream, protocol, Connection::new(&shared, peer, true, protocol), patience, clock).await;
}

/// Tells from the first bytes whether a caller speaks HTTP/2; they stay where they are.
async fn sniff(stream: &TcpStream) -> Protocol {
    /// Long enough to tell it from a method that begins with `PR`.
    const ENOUGH: usize = 4;
    const MORE: std::time::Duration = std::time::Duration::from_millis(10);
    let mut first = [0; ENOUGH];
    loop {
        // What fails here fails again where it is dealt with.
        let n = stream.peek(&mut first).await.unwrap_or_default();
        if n == 0 || !PREFACE.starts_with(&first[..n]) {
            return Protocol::Http1;
        }
        if n == ENOUGH {
            return Protocol::Http2;
        }
        // Almost nobody sends less than a packet, and the socket does not tell when more of it is there.
        tokio::time::sleep(MORE).await;
    }
}

/// Waits for what comes before the first request; `None` when the relay ends first.
async fn while_it_may<F: Future>(shared: &Shared, waiting: F) -> Option<F::Output> {
    let drained = async {
        shared.closing.cancelled().await;
        tokio::time::sleep(FIRST_REQUEST_WAIT).await;
    };
    tokio::select! {
        biased;
        done = waiting => Some(done),
        () = drained => None,
        () = shared.hard.cancelled() => None,
    }
}

async fn speak<S: CallerSocket>(
    stream: S,
    protocol: Protocol,
    connection: Arc<Connection>,
    patience: Patience,
    clock: Arc<HeadClock>,
) {
    match protocol {
        Protocol::Http1 => speak_http1(stream, connection, clock).await,
        Protocol::Http2 => speak_http2(stream, connection, patience).await,
    }
}

async fn speak_http1<S: CallerSocket>(stream: S, connection: Arc<Connection>, clock: Arc<HeadClock>) {
    let shared = Arc::clone(&connection.shared);
    let mut builder = http1::Builder::new();
    builder
        .timer(HeadTimer(Arc::clone(&clock)))
        // How long is for the clock to say; this only turns it on.
        .header_read_timeout(shared.settings().edge.header_read_timeout)
        .max_header_size(HEAD_MAX_BYTES)
        // A request that comes while the relay drains is answered, and its connection closed.
        .keep_alive(!shared.closing.is_cancelled());
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| ingress::handle(Arc::clone(&connection), request))
    };
    let io = TokioIo::new(Watched::new(stream, clock));
    let mut serving = builder.serve_connection(io, service).with_upgrades();
    let cut =
        drive(Pin::new(&mut serving), &connection, http1::UpgradeableConnection::graceful_shutdown).await;
    if cut
        && connection.body_ends_with_connection.load(Ordering::Relaxed)
        && let Some(parts) = serving.into_parts()
        && let Err(error) = parts.io.into_inner().into_inner().tcp().set_zero_linger()
    {
        debug!(%error, "caller gone before it could be reset");
    }
}

async fn speak_http2<S: CallerSocket>(stream: S, connection: Arc<Connection>, patience: Patience) {
    let streams = Arc::new(Streams::default());
    let tasks = connection.shared.connections.clone();
    let service = {
        let (connection, streams) = (Arc::clone(&connection), Arc::clone(&streams));
        service_fn(move |request| {
            let stream = streams.begin();
            let answer = ingress::handle(Arc::clone(&connection), request);
            async move { answer.await.map(|response| response.map(|body| OnStream::new(body, stream))) }
        })
    };
    let io = TokioIo::new(Guarded::new(stream, patience, streams, Arc::clone(&connection.shared.metrics)));
    let mut serving = pin!(http2::builder(tasks, HEAD_MAX_BYTES).serve_connection(io, service));
    if connection.shared.closing.is_cancelled() {
        serving.as_mut().graceful_shutdown();
    }
    drive(serving, &connection, hyper::server::conn::http2::Connection::graceful_shutdown).await;
}

/// Drives a connection to its end; `finish` asks it to take no more requests. Tells whether a response was cut off.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    mut serving: Pin<&mut C>,
    connection: &Connection,
    finish: impl Fn(Pin<&mut C>),
) -> bool {
    let shared = &connection.shared;
    let mut unread = pin!(connection.readers.stalled(|| shared.settings().edge.unread_timeout));
    let mut asked_to_finish = shared.closing.is_cancelled();
    loop {
        tokio::select! {
            biased;
            served = serving.as_mut() => match served {
                Ok(()) => return false,
                Err(error) => {
                    // Callers that hang up, and bodies that broke off.
                    debug!(%error, "connection ended");
                    if error.is_timeout() {
                        shared.metrics.cut_off("timeout");
                    }
                    return error.is_user();
                }
            },
            () = shared.closing.cancelled(), if !asked_to_finish => {
                asked_to_finish = true;
                finish(serving.as_mut());
            }
            // hyper would wait for a first request that may never come.
            () = tokio::time::sleep(FIRST_REQUEST_WAIT), if asked_to_finish && !connection.is_used() => {
                if !connection.is_used() {
                    return false;
                }
            }
            // hyper asks for no more while its buffer is full, so nobody else would notice.
            () = unread.as_mut() => {
                shared.metrics.cut_off("unread");
                return true;
            }
            () = shared.hard.cancelled() => return true,
        }
    }
}

/// Takes the socket of a dial out of what its connection was served on.
pub(crate) fn socket_of(upgraded: Upgraded) -> (Box<dyn Socket>, Bytes) {
    unwrap::<TcpStream>(upgraded).or_else(unwrap::<TlsStream<TcpStream>>).unwrap_or_else(plain_socket)
}

fn unwrap<S: CallerSocket>(upgraded: Upgraded) -> Result<(Box<dyn Socket>, Bytes), Upgraded> {
    let parts = upgraded.downcast::<TokioIo<Watched<S>>>()?;
    let socket = parts.io.into_inner().into_inner();
    if let Err(error) = tune_socket(socket.tcp()) {
        // A download delays tokens a little more then.
        debug!(%error, "the socket of a tunnel cannot be tuned");
    }
    Ok((Box::new(socket), parts.read_buf))
}

impl Connection {
    fn new(shared: &Arc<Shared>, peer: IpAddr, is_tls: bool, protocol: Protocol) -> Arc<Self> {
        let is_proxy = super::is_trusted(shared, peer);
        Arc::new(Self {
            shared: Arc::clone(shared),
            direct: crate::client::Client::direct(peer, is_tls),
            is_proxy,
            is_tls,
            body_ends_with_connection: false.into(),
            readers: match protocol {
                Protocol::Http1 => Readers::one(),
                Protocol::Http2 => Readers::several(),
            },
            used: false.into(),
        })
    }
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
