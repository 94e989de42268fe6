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
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::head_timer::HeadTimer;
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
///
/// The listener is bound to one address, so that is also each connection's own.
pub(crate) async fn tcp(listener: TcpListener, handler: impl Handler, ends: Ends) {
    let server = match listener.local_addr() {
        Ok(server) => server,
        Err(error) => {
            warn!(%error, "listener has no address");
            return;
        }
    };
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
                let peer = lookup.of(client, server);
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

/// Serves one connection until its end.
pub(super) async fn connection<I, H>(io: I, peer: Peer, handler: H, ends: Ends)
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
        .timer(HeadTimer::default())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_header_size(MAX_HEADER_BYTES);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
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
pub(super) struct Pause {
    next: Duration,
}

impl Pause {
    pub(super) async fn after(&mut self, error: &io::Error, soft: &CancellationToken) {
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

pub(super) fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    #[derive(Clone)]
    struct Hello;

    impl Handler for Hello {
        type Body = Full<Bytes>;

        async fn handle(&self, _: Peer, _: Request<Incoming>) -> Response<Full<Bytes>> {
            tokio::task::yield_now().await;
            Response::new(Full::from("hello"))
        }
    }

    /// A connection to [`Hello`] and the way to end it.
    fn connect() -> (DuplexStream, Ends) {
        let hard = CancellationToken::new();
        let ends = Ends { soft: hard.child_token(), hard, tracker: TaskTracker::new() };
        let (client, server) = tokio::io::duplex(64 * 1024);
        ends.tracker.spawn(connection(server, Peer::SameUser, Hello, ends.clone()));
        (client, ends)
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    async fn read_hello(client: &mut DuplexStream) {
        let mut seen = Vec::new();
        while !seen.ends_with(b"hello") {
            assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0, "closed early");
        }
    }

    /// Seconds until the connection is closed.
    async fn closed_after(client: &mut DuplexStream) -> f64 {
        let before = tokio::time::Instant::now();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        before.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn head_that_does_not_come_closes_the_connection() {
        let (mut client, _ends) = connect();
        client.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        let seconds = closed_after(&mut client).await;
        assert!((10.0..10.1).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn head_that_dribbles_in_closes_the_connection() {
        let (mut client, _ends) = connect();
        let before = tokio::time::Instant::now();
        while client.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(before.elapsed() <= Duration::from_secs(12), "{:?}", before.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn limit_starts_over_with_each_request() {
        let (mut client, _ends) = connect();
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            read_hello(&mut client).await;
            tokio::time::sleep(Duration::from_secs(8)).await;
        }
        let seconds = closed_after(&mut client).await;
        assert!((2.0..2.1).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_ends_with_the_soft_token() {
        let (mut client, ends) = connect();
        client.write_all(REQUEST).await.unwrap();
        read_hello(&mut client).await;
        ends.soft.cancel();
        assert!(closed_after(&mut client).await < 0.1);
        ends.tracker.close();
        ends.tracker.wait().await;
    }

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
