//! A TCP proxy on loopback that plays a bad network between two processes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{ports, wait::eventually};

const READ_BYTES: usize = 64 * 1024;
// What is in flight on the delayed path: 1,024 reads of at most 16 KiB hold more than any path that is played here.
const FLIGHT_CHUNKS: usize = 1024;
const FLIGHT_READ_BYTES: usize = 16 * 1024;

/// What the path is like when nothing is wrong with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkOptions {
    /// One-way delay, each way. Default: none.
    pub delay: Duration,
    /// Bytes a second, each way. Default: no limit.
    pub bytes_per_s: Option<u64>,
}

/// A running proxy. Dropping it closes everything.
#[derive(Debug)]
pub struct FlakyLink {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    alive: CancellationToken,
    listening: Mutex<CancellationToken>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    options: LinkOptions,
    accepted: AtomicUsize,
    open: AtomicUsize,
    /// Counts the cuts; a connection ends when it moves.
    cut: watch::Sender<u64>,
    weather: watch::Sender<Weather>,
}

impl Shared {
    fn target(&self) -> SocketAddr {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which connections carry nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    stalled: bool,
    /// Connections up to this number are black holes for ever.
    frozen: usize,
}

impl FlakyLink {
    /// Starts a proxy on 127.0.0.1 that connects to `target`, with no delay and no limit.
    ///
    /// Needs a tokio runtime around it.
    pub fn start(target: SocketAddr) -> Result<Self> {
        Self::start_with(target, LinkOptions::default())
    }

    /// Starts a proxy with a delay or a limit.
    pub fn start_with(target: SocketAddr, options: LinkOptions) -> Result<Self> {
        let link = Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?)),
            shared: Arc::new(Shared {
                target: Mutex::new(target),
                options,
                accepted: AtomicUsize::default(),
                open: AtomicUsize::default(),
                cut: watch::Sender::new(0),
                weather: watch::Sender::default(),
            }),
            tasks: TaskTracker::new(),
            alive: CancellationToken::new(),
            listening: Mutex::default(),
        };
        link.accept()?;
        Ok(link)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as a base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Leads new connections to another server, as a load balancer does.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Number of connections that were ever made through it.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Number of connections that are open now, the silent ones included.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Ends all connections with an RST to both sides.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Refuses new connections, as a host does on which nothing listens.
    pub async fn refuse(&self) -> Result<()> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).cancel();
        let refused = async || TcpStream::connect(self.addr).await.is_err();
        eventually("the link refuses connections", Duration::from_secs(5), refused).await?;
        Ok(())
    }

    /// Takes new connections again.
    pub fn accept(&self) -> Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.addr)?;
        let listening = self.alive.child_token();
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = listening.clone();
        let task = accept(
            socket.listen(4096)?,
            Arc::clone(&self.shared),
            self.tasks.clone(),
            listening,
            self.alive.clone(),
        );
        self.tasks.spawn(task);
        Ok(())
    }

    /// Carries nothing any more, on old and new connections, without closing any.
    pub fn stall(&self) {
        self.shared.weather.send_modify(|weather| weather.stalled = true);
    }

    /// Carries on after [`Self::stall`]; nothing was lost.
    pub fn flow(&self) {
        self.shared.weather.send_modify(|weather| weather.stalled = false);
    }

    /// Makes black holes of the connections that exist: open, but silent for ever. New ones are carried.
    pub fn freeze(&self) {
        let accepted = self.accepted();
        self.shared.weather.send_modify(|weather| weather.frozen = accepted);
    }
}

impl Drop for FlakyLink {
    fn drop(&mut self) {
        self.alive.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    listening: CancellationToken,
    alive: CancellationToken,
) {
    loop {
        let stream = tokio::select! {
            () = listening.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => { tokio::time::sleep(Duration::from_millis(10)).await; continue }
            },
        };
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let cut = shared.cut.subscribe();
        let (shared, alive) = (Arc::clone(&shared), alive.clone());
        tasks.spawn(async move {
            shared.open.fetch_add(1, Ordering::SeqCst);
            tokio::select! {
                () = alive.cancelled() => {}
                () = carry(stream, &shared, number, cut) => {}
            }
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn carry(mut near: TcpStream, shared: &Shared, number: usize, mut cut: watch::Receiver<u64>) {
    let Ok(mut far) = TcpStream::connect(shared.target()).await else {
        // What cannot be reached looks refused from here too.
        drop(near.set_zero_linger());
        return;
    };
    for stream in [&near, &far] {
        drop(stream.set_nodelay(true));
    }
    let gate = Gate { weather: shared.weather.subscribe(), number };
    let was_cut = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let both = async {
            tokio::join!(
                pump(near_read, far_write, shared.options, gate.clone()),
                pump(far_read, near_write, shared.options, gate.clone())
            )
        };
        tokio::select! {
            _ = cut.changed() => true,
            (up, down) = both => up.is_err() || down.is_err(),
        }
    };
    if was_cut {
        for stream in [&near, &far] {
            drop(stream.set_zero_linger());
        }
    }
}

#[derive(Clone)]
struct Gate {
    weather: watch::Receiver<Weather>,
    number: usize,
}

impl Gate {
    /// Waits until this connection carries.
    async fn open(&mut self) {
        let number = self.number;
        let open = self.weather.wait_for(|weather| !weather.stalled && weather.frozen < number).await.is_ok();
        if !open {
            // The link is being dropped, and this task with it.
            std::future::pending::<()>().await;
        }
    }
}

async fn pump(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    options: LinkOptions,
    gate: Gate,
) -> std::io::Result<()> {
    if options.delay.is_zero() && options.bytes_per_s.is_none() {
        return pump_at_once(from, to, gate).await;
    }
    let (tx, rx) = mpsc::channel(FLIGHT_CHUNKS);
    let (read, written) = tokio::join!(depart(from, tx, options, gate.clone()), arrive(to, rx, gate));
    read.and(written)
}

async fn pump_at_once(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut gate: Gate,
) -> std::io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        gate.open().await;
        buffer.reserve(READ_BYTES);
        let n = from.read_buf(&mut buffer).await?;
        gate.open().await;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all_buf(&mut buffer).await?;
    }
}

/// Takes bytes off the near socket at the path's rate and says when they arrive at the far end.
async fn depart(
    mut from: impl AsyncRead + Unpin,
    tx: mpsc::Sender<(Instant, Bytes)>,
    options: LinkOptions,
    mut gate: Gate,
) -> std::io::Result<()> {
    let mut free_at = Instant::now();
    loop {
        gate.open().await;
        let mut buffer = BytesMut::with_capacity(FLIGHT_READ_BYTES);
        let n = from.read_buf(&mut buffer).await?;
        let now = Instant::now();
        free_at = free_at.max(now);
        if let Some(rate) = options.bytes_per_s {
            free_at += Duration::from_secs_f64(n as f64 / rate as f64);
            tokio::time::sleep_until(free_at).await;
        }
        let closed = tx.send((free_at + options.delay, buffer.freeze())).await.is_err();
        if n == 0 || closed {
            return Ok(());
        }
    }
}

async fn arrive(
    mut to: impl AsyncWrite + Unpin,
    mut rx: mpsc::Receiver<(Instant, Bytes)>,
    mut gate: Gate,
) -> std::io::Result<()> {
    while let Some((due, mut bytes)) = rx.recv().await {
        tokio::time::sleep_until(due).await;
        gate.open().await;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all_buf(&mut bytes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Api, Caller, FakeBackend, MODEL, Reply, Script};

    async fn stream(link: &FlakyLink, script: &Script) -> Reply {
        let call =
            Caller::new(link.addr()).post(Api::OllamaChat.path()).json(&Api::OllamaChat.request(MODEL));
        call.script(script).send().await.unwrap()
    }

    #[tokio::test]
    async fn a_cut_resets_both_ends_and_a_stall_loses_nothing() {
        let backend = FakeBackend::ollama().await.unwrap();
        let link = FlakyLink::start(backend.addr()).unwrap();
        let endless = Script::tokens(100_000, 100.0).id("cut");
        let mut reply = stream(&link, &endless).await;
        reply.chunk().await.unwrap().unwrap();
        link.cut();
        assert!(reply.ending().await.error.is_some());
        backend.request("cut").unwrap().connection_closed(Duration::from_secs(1)).await.unwrap();

        let script = Script::tokens(20, 100.0);
        let reply = stream(&link, &script).await;
        link.stall();
        tokio::time::sleep(Duration::from_millis(300)).await;
        link.flow();
        let ending = reply.ending().await;
        assert!(ending.error.is_none());
        assert_eq!(ending.text(), script.whole_stream(Api::OllamaChat, MODEL, 20));
    }

    #[tokio::test]
    async fn a_frozen_connection_is_silent_while_new_ones_work_and_a_refusal_is_a_refusal() {
        let backend = FakeBackend::ollama().await.unwrap();
        let link = FlakyLink::start(backend.addr()).unwrap();
        let mut frozen = stream(&link, &Script::tokens(100_000, 100.0)).await;
        link.freeze();
        while tokio::time::timeout(Duration::from_millis(200), frozen.chunk()).await.is_ok() {}
        assert_eq!(link.open(), 1);
        assert!(stream(&link, &Script::default()).await.ending().await.error.is_none());

        link.refuse().await.unwrap();
        assert!(Caller::new(link.addr()).get("/api/version").send().await.is_err());
        link.accept().unwrap();
        assert_eq!(Caller::new(link.addr()).get("/api/version").send().await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn a_long_path_takes_its_time_and_its_rate() {
        let backend = FakeBackend::ollama().await.unwrap();
        let options = LinkOptions { delay: Duration::from_millis(25), bytes_per_s: Some(4_000_000) };
        let link = FlakyLink::start_with(backend.addr(), options).unwrap();
        let asked = Instant::now();
        let reply = stream(&link, &Script::bytes(2_000_000).seed(3)).await;
        // The connection itself is made on loopback: one round trip is in the request.
        assert!(asked.elapsed() >= Duration::from_millis(50));
        let mut check = crate::PatternCheck::new(3);
        check.feed(&reply.bytes().await.unwrap());
        check.finish(2_000_000).unwrap();
        let took = asked.elapsed().as_secs_f64();
        assert!((0.5..1.5).contains(&took), "{took}");
    }
}
