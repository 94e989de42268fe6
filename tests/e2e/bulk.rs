//! Long bodies arrive whole, and cost no memory on the way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::Script;
use e2e::{Call, Caller, MODEL, Memory, Pattern, PatternCheck, World, measured, scenario, soak};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::resuming::{paced, sink};

const RSS_BAR: u64 = 64 << 20;

/// An upload of as many bytes of the pattern in a prompt; returns the call and the bytes before the pattern.
pub(crate) fn upload(caller: &Caller, bytes: u64, seed: u64, over: Duration) -> (Call, u64) {
    let prefix = format!("{{\"model\":\"{MODEL}\",\"stream\":false,\"prompt\":\"");
    let prefix_bytes = prefix.len() as u64;
    let body = stream::iter([Bytes::from(prefix)])
        .chain(paced(Pattern::new(seed), bytes, over))
        .chain(stream::iter([Bytes::from_static(b"\"}")]));
    let call = caller.post("/api/generate").header("content-type", "application/json");
    (call.script(&sink(prefix_bytes, bytes).seed(seed)).stream(body), prefix_bytes)
}

/// Fails unless the backend says that it got exactly what was sent.
pub(crate) fn check_upload(answer: &Value, bytes: u64, prefix_bytes: u64) -> Result<()> {
    ensure!(answer["first_wrong"].is_null(), "{answer}");
    ensure!(answer["pattern"] == bytes && answer["received"] == prefix_bytes + bytes + 2, "{answer}");
    Ok(())
}

#[test]
fn a_long_download_and_a_long_upload_are_exact_and_cost_no_memory() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let (down, up): (u64, u64) = if soak() { (1 << 30, 256 << 20) } else { (96 << 20, 48 << 20) };
        for (door, caller) in world.doors() {
            let started = Instant::now();
            let call = caller.post("/api/generate").json(&json!({"model": MODEL, "prompt": "x"}));
            let mut reply = call.script(&Script::bytes(down).seed(9)).send().await?;
            ensure!(reply.status() == 200, "{door}: {}", reply.status());
            let mut check = PatternCheck::new(9);
            while let Some(chunk) =
                reply.chunk().await.with_context(|| format!("{door}: {} bytes came", check.received()))?
            {
                check.feed(&chunk.bytes);
            }
            check.finish(down).with_context(|| format!("{door}: download"))?;
            report(door, "down", down, started, &world)?;

            let started = Instant::now();
            let (call, prefix_bytes) = upload(&caller, up, 5, Duration::ZERO);
            let reply = call.send().await?;
            let status = reply.status();
            let ending = reply.ending().await;
            ensure!(status == 200, "{door}: the upload got {status}: {}", ending.text());
            check_upload(&serde_json::from_slice(&ending.bytes)?, up, prefix_bytes)
                .with_context(|| format!("{door}: upload"))?;
            report(door, "up", up, started, &world)?;
        }
        Ok(())
    })
}

/// Prints a transfer and holds the peak of both processes against the bar.
fn report(door: &str, way: &str, bytes: u64, started: Instant, world: &World) -> Result<()> {
    let rate = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
    let peak = |memory: Memory| memory.peak as f64 / f64::from(1 << 20);
    let (relay, daemon) = (world.relay.memory()?, world.daemon.memory()?);
    measured(
        "long transfers",
        format!(
            "{door}: {} MiB {way} exact, {rate:.0} MB/s; peak RSS relay {:.1} MiB, daemon {:.1} MiB",
            bytes >> 20,
            peak(relay),
            peak(daemon)
        ),
    );
    ensure!(relay.peak < RSS_BAR && daemon.peak < RSS_BAR, "{door}, {way}: more than 64 MiB");
    Ok(())
}
