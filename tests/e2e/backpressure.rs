//! A slow reader is held back all the way to the backend, costs next to nothing and disturbs nobody.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Api, Caller, Latencies, MODEL, Script, World, measured, scenario, soak, soak_count};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::streams;

const COST_BAR: i64 = 2 << 20;
const READERS: usize = 8;
const BACKEND_BYTES_PER_S: u64 = 10_000_000;

#[test]
fn slow_readers_cost_little_and_do_not_slow_the_others() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let (remote, seconds) = (world.remote(), if soak() { 10 } else { 3 });
        // Buffers and pools that any traffic brings are no cost of a slow reader.
        let warm = remote.post("/api/generate").json(&json!({"model": MODEL, "prompt": "x"}));
        warm.script(&Script::bytes(32 << 20)).send().await?.bytes().await?;
        others(&remote, 1).await?;

        let (mut alone, mut beside) = (Latencies::default(), Latencies::default());
        let mut cost = [i64::MIN; 2];
        // In turns, so that whatever else the machine does meets both.
        for round in 0..3 {
            alone.merge(&others(&remote, seconds).await?);
            let before = memory(&world)?;
            let mut readers = JoinSet::new();
            for number in 0..READERS {
                let script = Script { bytes_per_s: Some(BACKEND_BYTES_PER_S), ..Script::bytes(1 << 30) };
                let script = script.id(format!("slow-{round}-{number}"));
                let stream = slow_reader(&remote, &world.caller_token, &script).await?;
                readers.spawn(read_slowly(stream));
            }
            // Each reader first gets what the windows on its way hold, as fast as that goes: a burst that ends.
            let settled = Duration::from_secs(2);
            let timed = async {
                tokio::time::sleep(settled).await;
                others(&remote, seconds).await
            };
            let peak = peak_while(&world, settled + Duration::from_secs(seconds));
            let (timed, peak) = tokio::join!(timed, peak);
            beside.merge(&timed?);
            let peak = peak?;
            for (cost, (peak, before)) in cost.iter_mut().zip([(peak.0, before.0), (peak.1, before.1)]) {
                *cost = (*cost).max((peak - before) / READERS as i64);
            }

            for number in 0..READERS {
                let id = format!("slow-{round}-{number}");
                let exchange = world.backend.request(&id).context("each slow reader was served")?;
                ensure!(exchange.ended().is_none(), "a slow reader was dropped");
                // 64 KiB a chunk: the windows on the way, and what the kernel's socket buffers take.
                let sent = exchange.sent_chunks() * 64 * 1024;
                ensure!(sent < 32 << 20, "the backend could send {sent} bytes to a reader of 1 KB/s");
            }
            readers.shutdown().await;
        }
        let kib = cost.map(|bytes| bytes / 1024);
        measured("slow reader, memory each", format!("relay {} KiB, daemon {} KiB", kib[0], kib[1]));
        let ratio = beside.percentile(99.0).as_secs_f64() / alone.percentile(99.0).as_secs_f64();
        measured(
            "slow reader, others' tokens",
            format!("alone {alone}; beside {beside}; p99 ratio {ratio:.2}"),
        );
        ensure!(
            cost.iter().all(|bytes| *bytes <= COST_BAR),
            "a slow reader costs {kib:?} KiB in relay and daemon"
        );
        Ok(())
    })
}

/// Four ordinary streams, 50 tokens a second each.
async fn others(caller: &Caller, seconds: u64) -> Result<Latencies> {
    let script = Script { stamp: true, ..Script::tokens(u32::try_from(seconds * 50)?, 50.0) };
    let mut running = JoinSet::new();
    for _ in 0..4 {
        let (caller, script) = (caller.clone(), script.clone());
        running.spawn(async move {
            streams::lateness(streams::open(&caller, Api::OpenAiChat, &script).await?).await
        });
    }
    let mut all = Latencies::default();
    while let Some(read) = running.join_next().await {
        all.merge(&read??.0);
    }
    Ok(all)
}

async fn slow_reader(caller: &Caller, token: &str, script: &Script) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // The reader's own buffer would hide how slow it is.
    socket.set_recv_buffer_size(4096)?;
    let mut stream = socket.connect(caller.addr()).await?;
    let body = json!({"model": MODEL, "prompt": "x"}).to_string();
    let head = format!(
        "POST /api/generate HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\nfake-script: {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        caller.addr(),
        script.header(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

async fn read_slowly(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 100];
    loop {
        stream.read_exact(&mut buffer).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn memory(world: &World) -> Result<(i64, i64)> {
    Ok((i64::try_from(world.relay.memory()?.rss)?, i64::try_from(world.daemon.memory()?.rss)?))
}

/// The most that relay and daemon held at any look within this time.
async fn peak_while(world: &World, time: Duration) -> Result<(i64, i64)> {
    let (ends, mut peak) = (tokio::time::Instant::now() + time, memory(world)?);
    while tokio::time::Instant::now() < ends {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = memory(world)?;
        peak = (peak.0.max(now.0), peak.1.max(now.1));
    }
    Ok(peak)
}

#[test]
fn a_reader_slower_than_the_limit_on_silence_is_not_cut_off() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(e2e::WorldOptions::default().with("requestTimeout", 5)).await?;
        let bytes = 24 << 20;
        let script = Script::bytes(bytes).seed(4).id("paused");
        for (door, caller) in world.doors().into_iter().take(soak_count(2, 2)) {
            let call = caller.post("/api/generate").json(&json!({"model": MODEL, "prompt": "x"}));
            let mut reply = call.script(&script).send().await?;
            let mut check = e2e::PatternCheck::new(4);
            check.feed(&reply.chunk().await?.context("the download begins")?.bytes);
            // Longer than the silence that a backend may keep: it is the reader who is silent.
            tokio::time::sleep(Duration::from_secs(8)).await;
            while let Some(chunk) =
                reply.chunk().await.with_context(|| format!("{door}: cut off after a pause"))?
            {
                check.feed(&chunk.bytes);
            }
            check.finish(bytes).with_context(|| door.to_owned())?;
        }
        Ok(())
    })
}
