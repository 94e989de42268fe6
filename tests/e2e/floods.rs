//! Whoever floods the relay, from either side, is cut off; a tenant who behaves beside it notices next to nothing.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, CutOff, DaemonOptions, Latencies, RelayOptions, Scope, Script, TokenRequest, World,
    WorldOptions, flood, h2_raw, hostile_desktop as desktop, measured, scenario, soak, soak_count,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::streams;

/// How soon an offender must be gone; on a busy machine everything takes longer, so CI is told twice that.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait before an offender that was cut off comes again.
const COMES_BACK_AFTER: Duration = Duration::from_millis(100);
/// What all floods together may leave behind.
const GROWTH_BAR: u64 = 50 << 20;
/// The relay's limits in these scenarios.
const CONFIG: &str = "header_read_timeout_s = 2\n";
/// The default of `address.max_connections`.
const CONNECTIONS: usize = 1024;

type Attack = Pin<Box<dyn Future<Output = Result<CutOff>> + Send>>;

/// Whom the floods are sent by.
#[derive(Clone)]
struct Mallory {
    relay: SocketAddr,
    tunnel: String,
    caller: String,
}

impl Mallory {
    /// Starts a flood of bytes on a connection.
    fn plain(
        &self,
        first: Vec<u8>,
        piece: impl FnMut(u32) -> Vec<u8> + Send + 'static,
        pause: Option<Duration>,
    ) -> Attack {
        let relay = self.relay;
        Box::pin(async move { flood(TcpStream::connect(relay).await?, first, piece, pause, PATIENCE).await })
    }

    /// Starts one of HTTP/2.
    fn http2(&self, first: &[u8], piece: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> Attack {
        let hello = [h2_raw::PREFACE, &h2_raw::frame(h2_raw::SETTINGS, 0, 0, &[]), first].concat();
        self.plain(hello, piece, None)
    }

    /// Starts one on a tunnel.
    fn tunnel(&self, device: &'static str, piece: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> Attack {
        let mallory = self.clone();
        Box::pin(async move {
            let stream = desktop::dial(mallory.relay, &mallory.tunnel, device).await?;
            flood(stream, Vec::new(), piece, None, PATIENCE).await
        })
    }

    /// Starts one of HTTP/2 on a tunnel.
    fn tunnel_http2(
        &self,
        device: &'static str,
        piece: impl FnMut(u32) -> Vec<u8> + Send + 'static,
    ) -> Attack {
        let mallory = self.clone();
        Box::pin(async move {
            let stream = desktop::dial(mallory.relay, &mallory.tunnel, device).await?;
            let hello = desktop::data(&h2_raw::frame(h2_raw::SETTINGS, 0, 0, &[]));
            let mut piece = piece;
            flood(stream, hello, move |n| desktop::data(&piece(n)), None, PATIENCE).await
        })
    }

    fn callers(&self) -> Vec<(&'static str, Attack)> {
        use h2_raw::{
            CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame,
        };
        let request = h2_raw::request("POST", "/api/generate", &self.caller);
        let opened = frame(HEADERS, END_HEADERS, 1, &request);
        let stream_of = |n: u32| 1 + 2 * n;
        let resets = move |n| {
            let opened = frame(HEADERS, END_HEADERS | END_STREAM, stream_of(n), &request);
            [opened, frame(RST_STREAM, 0, stream_of(n), &CANCEL)].concat()
        };
        let block = h2_raw::request("GET", "/", "x");
        vec![
            (
                "slow head",
                self.plain(
                    b"GET / HTTP/1.1\r\nx: ".to_vec(),
                    |_| b"a".to_vec(),
                    Some(Duration::from_millis(100)),
                ),
            ),
            (
                "slow head, HTTP/2",
                self.plain(
                    [h2_raw::PREFACE, &frame(HEADERS, 0, 1, &block)].concat(),
                    |_| frame(CONTINUATION, 0, 1, b""),
                    Some(Duration::from_millis(100)),
                ),
            ),
            (
                "endless head",
                self.plain(b"GET / HTTP/1.1\r\n".to_vec(), |n| format!("x{n}: y\r\n").into(), None),
            ),
            ("garbage", self.plain(Vec::new(), |n| n.wrapping_mul(0x9e37_79b9).to_be_bytes().to_vec(), None)),
            ("garbage, HTTP/2", self.http2(&[], |_| frame(HEADERS, END_HEADERS, 0, b"\xff\xff\xff\xff"))),
            ("rapid reset", self.http2(&[], resets)),
            (
                "CONTINUATION",
                self.http2(&frame(HEADERS, 0, 1, &block), |n| {
                    frame(CONTINUATION, 0, 1, &h2_raw::block(&[("x-many", &n.to_string())]))
                }),
            ),
            ("PING", self.http2(&[], |n| frame(PING, 0, 0, &[n.to_be_bytes(), [0; 4]].concat()))),
            ("SETTINGS", self.http2(&[], |_| frame(SETTINGS, 0, 0, &h2_raw::NO_WINDOW))),
            ("empty DATA", self.http2(&opened, |_| frame(DATA, 0, 1, b""))),
            ("tiny DATA", self.http2(&opened, |_| frame(DATA, 0, 1, b"x"))),
        ]
    }

    fn desktops(&self) -> Vec<(&'static str, Attack)> {
        use h2_raw::{CANCEL, END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, frame};
        let token = self.tunnel.clone();
        vec![
            ("desktop: ACK", self.tunnel("ack", |_| desktop::ack())),
            ("desktop: garbage", self.tunnel("garbage", |_| desktop::garbage())),
            ("desktop: WebSocket ping", self.tunnel("ping", |_| desktop::ping())),
            ("desktop: TOKEN", self.tunnel("token", move |_| desktop::token(&token))),
            ("desktop: tiny frames", self.tunnel("tiny", |_| desktop::data(b"\0"))),
            ("desktop: PING", self.tunnel_http2("h2-ping", |_| frame(PING, 0, 0, &[7; 8]))),
            (
                "desktop: SETTINGS",
                self.tunnel_http2("settings", |_| frame(SETTINGS, 0, 0, &h2_raw::NO_WINDOW)),
            ),
            ("desktop: RST_STREAM", self.tunnel_http2("resets", |_| frame(RST_STREAM, 0, 1, &CANCEL))),
            (
                "desktop: endless 1xx",
                self.endless("headers", || {
                    frame(HEADERS, END_HEADERS, 1, &h2_raw::block(&[(":status", "103")]))
                }),
            ),
        ]
    }

    /// Answers one request, again and again.
    fn endless(&self, device: &'static str, piece: fn() -> Vec<u8>) -> Attack {
        let (mallory, attack) = (self.clone(), self.tunnel_http2(device, move |_| piece()));
        Box::pin(async move {
            let call = Caller::new(mallory.relay).bearer(&mallory.caller).prefix(&format!("/d/{device}"));
            let mut asking = JoinSet::new();
            // The answer is no matter; that there is a stream is.
            asking.spawn(async move { call.get("/api/tags").send().await.map(drop) });
            attack.await
        })
    }
}

#[test]
fn callers_that_flood_are_cut_off_and_nobody_else_notices() -> Result<()> {
    beside_a_good_tenant("callers", Mallory::callers)
}

#[test]
fn desktops_that_flood_are_cut_off_and_nobody_else_notices() -> Result<()> {
    beside_a_good_tenant("desktops", Mallory::desktops)
}

fn beside_a_good_tenant(who: &str, attacks: impl Fn(&Mallory) -> Vec<(&'static str, Attack)>) -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(options()).await?;
        let mallory = mallory(&world)?;
        // Buffers and pools that any traffic brings are no cost of a flood.
        good_tenant(&world, 1).await?;
        let before = world.relay.memory()?.rss;
        let mut alone = good_tenant(&world, 2).await?;
        let mut beside = Latencies::default();
        let mut slowest = Duration::ZERO;
        for (number, (kind, attack)) in attacks(&mallory).into_iter().enumerate() {
            let seconds = soak_count(1, 6) as u64;
            if soak() {
                // In turns, so that whatever else the machine does falls on both.
                alone.merge(&good_tenant(&world, seconds).await?);
            }
            let mut good = JoinSet::new();
            let remote = world.remote();
            good.spawn(async move { good_requests(&remote, seconds).await });
            let cut = attack.await.with_context(|| format!("{kind}: the flood was not stopped"))?;
            let again = async {
                loop {
                    tokio::time::sleep(COMES_BACK_AFTER).await;
                    let (_, attack) = attacks(&mallory).swap_remove(number);
                    // Cut off as the first one; that is asked only once.
                    drop(attack.await);
                }
            };
            let good = tokio::select! {
                good = good.join_next() => good.context("the good tenant is there")?,
                () = again => unreachable!("it comes back for ever"),
            };
            let good = good?.with_context(|| format!("{kind}: the good tenant was harmed"))?;
            let rss = world.relay.memory()?.rss;
            measured(
                &format!("flood, {kind}"),
                format!("closed after {:.2?} and {} pieces; beside it {good}", cut.after, cut.pieces),
            );
            ensure!(
                rss.saturating_sub(before) < GROWTH_BAR,
                "{kind}: the relay grew by {} MiB",
                rss.saturating_sub(before) >> 20
            );
            ensure!(!soak() || cut.after <= CLOSED_WITHIN, "{kind}: closed after {:?}", cut.after);
            slowest = slowest.max(cut.after);
            beside.merge(&good);
        }
        let ratio = beside.percentile(99.0).as_secs_f64() / alone.percentile(99.0).as_secs_f64();
        let growth = world.relay.memory()?.rss.saturating_sub(before) >> 10;
        measured(
            &format!("floods of {who}"),
            format!(
                "slowest end {slowest:.2?}; relay grew by {growth} KiB; tokens alone {alone}; beside {beside}; p99 \
                 ratio {ratio:.2}"
            ),
        );
        ensure!(!soak() || ratio < 2.0, "the good tenant's p99 is {ratio:.2} times what it was");
        Ok(())
    })
}

#[test]
fn connections_and_windows_that_are_held_open_cost_little_and_take_nothing_from_others() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(options()).await?;
        let mallory = mallory(&world)?;
        good_tenant(&world, 1).await?;
        let before = world.relay.memory()?.rss;

        // From an address of its own: the good tenant's is not the one that is full.
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS + 50 {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from(([127, 0, 0, 9], 0)))?;
            held.push(socket.connect(mallory.relay).await?);
        }
        let mut closed_at_once = 0;
        let mut bin = [0; 16];
        for stream in held.iter_mut().skip(CONNECTIONS) {
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut bin)).await;
            closed_at_once += usize::from(read.is_ok());
        }
        ensure!(closed_at_once == 50, "{closed_at_once} of 50 connections over the cap were closed");
        let beside = good_requests(&world.remote(), 1).await.context("beside a full address")?;
        let open_fds = world.relay.process_fds()?;
        measured("flood, connections", format!("{open_fds} descriptors at the cap; beside it {beside}"));
        // Nothing was said on them, so the time for the first head ends them.
        for stream in held.iter_mut().take(CONNECTIONS) {
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut bin)).await;
            ensure!(read.is_ok(), "a connection without a request is still open");
        }
        drop(held);

        // As many answers as a connection may have, none of which is ever taken. They come from a desktop of their own.
        let theirs = DaemonOptions {
            ollama: Some(world.backend.addr()),
            relay: Some(world.relay.url()),
            token: Some(mallory.tunnel.clone()),
            device: "stalled".to_owned(),
            ..DaemonOptions::default()
        };
        let theirs = lab.daemon(theirs).await?;
        theirs.wait_for_tunnel("connected", PATIENCE).await?;
        theirs.wait_for_backend("ollama", PATIENCE).await?;
        let mut stalled = TcpStream::connect(mallory.relay).await?;
        let mut hello = [
            h2_raw::PREFACE,
            &h2_raw::frame(h2_raw::SETTINGS, 0, 0, &h2_raw::NO_WINDOW)[..],
            &h2_raw::frame(h2_raw::SETTINGS, 1, 0, &[]),
        ]
        .concat();
        // Slow enough that it is not the model server that takes the machine.
        let endless = Script { bytes_per_s: Some(500_000), ..Script::bytes(1 << 30) };
        for n in 0..200 {
            let request = h2_raw::block(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/api/generate"),
                (":authority", "relay"),
                ("authorization", &format!("Bearer {}", mallory.caller)),
                ("fake-script", &endless.header()),
            ]);
            let flags = h2_raw::END_HEADERS | h2_raw::END_STREAM;
            hello.extend(h2_raw::frame(h2_raw::HEADERS, flags, 1 + 2 * n, &request));
        }
        stalled.write_all(&hello).await?;
        let beside = good_requests(&world.remote(), 2).await.context("beside stalled windows")?;
        let growth = world.relay.memory()?.rss.saturating_sub(before);
        measured(
            "flood, stalled windows",
            format!("200 answers that nobody takes: {} KiB; beside it {beside}", growth >> 10),
        );
        // Each answer may have its stream's window on the way, and all of them the tunnel's.
        ensure!(growth < GROWTH_BAR, "the relay grew by {} MiB", growth >> 20);
        drop(stalled);
        Ok(())
    })
}

fn options() -> WorldOptions {
    WorldOptions {
        relay: RelayOptions { config: Some(CONFIG.to_owned()), ..RelayOptions::default() },
        ..WorldOptions::default()
    }
}

fn mallory(world: &World) -> Result<Mallory> {
    let token = |scope| world.relay.token(&TokenRequest::new("mallory", scope));
    Ok(Mallory {
        relay: world.relay.listen(),
        tunnel: token(Scope::Tunnel)?,
        caller: token(Scope::Inference)?,
    })
}

async fn good_tenant(world: &World, seconds: u64) -> Result<Latencies> {
    good_requests(&world.remote(), seconds).await
}

/// Streams and small requests for some seconds: how late the tokens came. Any error is one.
async fn good_requests(caller: &Caller, seconds: u64) -> Result<Latencies> {
    let script = Script { stamp: true, ..Script::tokens(u32::try_from(seconds * 50)?, 50.0) };
    let mut running = JoinSet::new();
    for _ in 0..2 {
        let (caller, script) = (caller.clone(), script.clone());
        running.spawn(async move {
            let (latencies, _) =
                streams::lateness(streams::open(&caller, Api::OpenAiChat, &script).await?).await?;
            ensure!(latencies.len() == u64::from(script.tokens.unwrap_or_default()), "tokens are missing");
            Ok(latencies)
        });
    }
    let ends = tokio::time::Instant::now() + Duration::from_secs(seconds);
    while tokio::time::Instant::now() < ends {
        let reply = caller.get("/api/version").send().await?;
        ensure!(reply.status() == 200, "a small request got {}", reply.status());
        reply.bytes().await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut all = Latencies::default();
    while let Some(read) = running.join_next().await {
        all.merge(&read??);
    }
    Ok(all)
}
