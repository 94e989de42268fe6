//! Accept loops and the HTTP/1.1 connections that they spawn: the same for every door.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::peer::{Peer, PeerLookup};

/// What answers the requests of a door. Cloned once per connection.
pub(crate) trait Handler: Clone + Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    fn handle(
        &self,
        peer: Peer,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// How connections end: `soft` lets the running request finish, `hard` cuts.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    pub(crate) soft: CancellationToken,
    pub(crate) hard: CancellationToken,
    pub(crate) tracker: TaskTracker,
}

/// A client that has not sent its whole head by then is cut off. Also the longest idle keep-alive.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Request line and headers together.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// First and longest pause when the process is out of file descriptors or memory.
const EXHAUSTED_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Accepts TCP connections until `soft` ends, asking once for each whose process it is.
pub(crate) async fn tcp(listener: TcpListener, handler: impl Handler, ends: Ends) {
    let mut lookup = PeerLookup::open();
    let mut pause = Pause::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ends.soft.cancelled() => return,
        };
        match accepted {
            Ok((stream, client)) => {
                pause = Pause::default();
                let peer = match stream.local_addr() {
                    Ok(server) => lookup.of(client, server),
                    Err(_) => Peer::Stranger,
                };
                // A token must not wait for the acknowledgement of the one before.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "client left before it was served");
                    continue;
                }
                ends.tracker.spawn(connection(stream, peer, handler.clone(), ends.clone()));
            }
            Err(error) => pause.after(&error, &ends.soft).await,
        }
    }
}

/// Accepts connections on the control socket until `soft` ends.
pub(crate) async fn unix(listener: UnixListener, handler: impl Handler, ends: Ends) {
    let own_uid = rustix::process::geteuid().as_raw();
    let mut pause = Pause::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ends.soft.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = Pause::default();
                let same_user = stream.peer_cred().is_ok_and(|peer| peer.uid() == own_uid);
                let peer = if same_user { Peer::SameUser } else { Peer::Stranger };
                ends.tracker.spawn(connection(stream, peer, handler.clone(), ends.clone()));
            }
            Err(error) => pause.after(&error, &ends.soft).await,
        }
    }
}

async fn connection<I, H>(io: I, peer: Peer, handler: H, ends: Ends)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let service = service_fn(|request| {
        let handler = &handler;
        async move { Ok::<_, Infallible>(handler.handle(peer, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_header_size(MAX_HEADER_BYTES);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = ends.soft.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                () = ends.hard.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        // Clients hang up in mid-answer as a matter of course: that is how a generation is cancelled.
        debug!(%error, "connection ended early");
    }
}

/// The pause after an accept that failed: none for what concerns one client, growing while the process is exhausted.
#[derive(Debug, Default)]
struct Pause {
    next: Duration,
}

impl Pause {
    async fn after(&mut self, error: &io::Error, soft: &CancellationToken) {
        if !is_exhausted(error) {
            debug!(%error, "accept failed");
            return;
        }
        let (first, longest) = EXHAUSTED_PAUSE;
        if self.next.is_zero() {
            warn!(%error, "cannot accept connections, waiting for others to end");
        }
        self.next = (self.next * 2).clamp(first, longest);
        tokio::select! {
            () = tokio::time::sleep(self.next) => {}
            () = soft.cancelled() => {}
        }
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn exhausted_process_pauses_longer_each_time_up_to_a_second() {
        let (mut pause, soft) = (Pause::default(), CancellationToken::new());
        let exhausted = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let mut waits = Vec::new();
        for _ in 0..8 {
            let before = tokio::time::Instant::now();
            pause.after(&exhausted, &soft).await;
            waits.push(before.elapsed().as_millis());
        }
        assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_left_causes_no_pause() {
        let mut pause = Pause::default();
        let aborted = io::Error::from_raw_os_error(rustix::io::Errno::CONNABORTED.raw_os_error());
        let before = tokio::time::Instant::now();
        pause.after(&aborted, &CancellationToken::new()).await;
        assert!(before.elapsed().is_zero());
    }
}
