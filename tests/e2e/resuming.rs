//! A generation goes on, byte for byte, when the socket under it is cut, refused or silent for a while.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Api, Latencies, MODEL, Pattern, Script, Sink, measured, scenario, seed, soak, soak_count};
use futures_util::stream;
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use crate::{
    fleet::{Fleet, Lane},
    streams,
};

const TOKENS: u32 = 200;
const TOKENS_PER_S: f64 = 50.0;

/// What happens to the socket.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It is reset; the relay can be reached at once.
    Cut,
    /// It is reset, and nobody listens for a while.
    Refused(Duration),
    /// It stays open but carries nothing for a while, then goes on.
    StalledAWhile,
    /// It stays open but never carries anything again; new sockets work.
    HalfOpen,
}

#[test]
fn a_cut_link_loses_no_byte() -> Result<()> {
    streams_survive(Fault::Cut, 10)
}

#[test]
fn a_relay_that_refuses_for_ten_seconds_loses_no_byte() -> Result<()> {
    streams_survive(Fault::Refused(Duration::from_secs(10)), 5)
}

#[test]
fn a_link_that_is_silent_for_a_while_loses_no_byte() -> Result<()> {
    streams_survive(Fault::StalledAWhile, 5)
}

#[test]
fn a_half_open_link_loses_no_byte() -> Result<()> {
    streams_survive(Fault::HalfOpen, 5)
}

/// Lets each of several desktops meet the fault at a random moment of a generation, until there are enough samples.
fn streams_survive(fault: Fault, few: usize) -> Result<()> {
    scenario(async |lab| {
        let samples = soak_count(few, 100);
        let fleet = Fleet::start(lab, if soak() { 20 } else { 5 }).await?;
        let mut rng = StdRng::seed_from_u64(seed(&format!("{fault:?}")));
        let (mut exact, mut gaps) = (0, Latencies::default());
        while exact < samples {
            let lanes = &fleet.lanes[..fleet.lanes.len().min(samples - exact)];
            let round = lanes.iter().map(|lane| meet(lane, fault, rng.next_u64()));
            for outcome in futures_util::future::join_all(round).await {
                gaps.record(outcome.with_context(|| format!("after {exact} exact streams"))?);
                exact += 1;
            }
        }
        let mut resumes = 0;
        for lane in &fleet.lanes {
            let tunnel = lane.daemon.tunnel().await?;
            ensure!(tunnel["state"] == "connected", "{tunnel}");
            ensure!(tunnel["reconnects"] == 0, "a session was lost: {tunnel}");
            resumes += tunnel["resumes"].as_u64().unwrap_or_default();
        }
        // A short silence may pass without anybody's doing; the other faults end the socket each time.
        let survived = matches!(fault, Fault::StalledAWhile) || resumes >= samples as u64;
        ensure!(survived, "{resumes} resumes for {samples} faults: some were not met");
        let row = "link cut, refused or stalled in mid-generation";
        measured(row, format!("{fault:?}: {exact} of {samples} streams exact; longest gap: {gaps}"));
        Ok(())
    })
}

/// Plays the fault into one stream; returns the longest silence that its caller saw.
async fn meet(lane: &Lane, fault: Fault, seed: u64) -> Result<Duration> {
    let mut rng = StdRng::seed_from_u64(seed);
    let api = if rng.random_bool(0.5) { Api::OllamaChat } else { Api::OpenAiChat };
    let script = Script::tokens(TOKENS, TOKENS_PER_S).seed(seed);
    let moment = Duration::from_secs_f64(rng.random_range(0.0..f64::from(TOKENS) / TOKENS_PER_S));
    let silence = Duration::from_millis(rng.random_range(500..8_000));
    let play = async {
        tokio::time::sleep(moment).await;
        match fault {
            Fault::Cut => lane.link.cut(),
            Fault::Refused(how_long) => {
                lane.link.refuse().await?;
                lane.link.cut();
                tokio::time::sleep(how_long).await;
                lane.link.accept()?;
            }
            Fault::StalledAWhile => {
                lane.link.stall();
                tokio::time::sleep(silence).await;
                lane.link.flow();
            }
            Fault::HalfOpen => lane.link.freeze(),
        }
        anyhow::Ok(())
    };
    let read = async {
        let mut reply = streams::open(&lane.caller, api, &script).await?;
        let (mut body, mut last, mut longest) = (Vec::new(), Instant::now(), Duration::ZERO);
        while let Some(chunk) =
            reply.chunk().await.with_context(|| format!("{} bytes had come", body.len()))?
        {
            longest = longest.max(chunk.at - last);
            last = chunk.at;
            body.extend_from_slice(&chunk.bytes);
        }
        ensure!(body == script.whole_stream(api, MODEL, TOKENS).as_bytes(), "the stream is not exact");
        Ok(longest)
    };
    let (played, longest) = tokio::join!(play, read);
    played?;
    let longest = longest.with_context(|| format!("{fault:?} after {moment:?}"))?;
    // A resume may still be under way if the fault came with the last token.
    lane.daemon.wait_for_tunnel("connected", Duration::from_secs(40)).await?;
    Ok(longest)
}

#[test]
fn transfers_in_both_directions_survive_a_storm_of_cuts() -> Result<()> {
    scenario(async |lab| {
        let fleet = Fleet::start(lab, 1).await?;
        let lane = fleet.lanes.first().context("one lane")?;
        let bytes: u64 = if soak() { 512 << 20 } else { 24 << 20 };
        let mut rng = StdRng::seed_from_u64(seed("storm"));
        let down = async {
            let script = Script { bytes_per_s: Some(bytes / 4), ..Script::bytes(bytes) }.seed(2);
            let call = lane.caller.post("/api/generate").json(&json!({"model": MODEL, "prompt": "x"}));
            let mut reply = call.script(&script).send().await?;
            let mut check = e2e::PatternCheck::new(2);
            while let Some(chunk) = reply.chunk().await? {
                check.feed(&chunk.bytes);
            }
            check.finish(bytes)
        };
        let up = async {
            let (call, prefix_bytes) = crate::bulk::upload(&lane.caller, bytes, 3, Duration::from_secs(4));
            let answer = call.send().await?.json().await?;
            crate::bulk::check_upload(&answer, bytes, prefix_bytes)
        };
        let both = async { tokio::join!(down, up) };
        let mut both = std::pin::pin!(both);
        let mut cuts = 0;
        let (down, up) = loop {
            let pause = Duration::from_millis(rng.random_range(20..600));
            match tokio::time::timeout(pause, both.as_mut()).await {
                Ok(ended) => break ended,
                Err(_) => {
                    lane.link.cut();
                    cuts += 1;
                }
            }
        };
        down.context("download")?;
        up.context("upload")?;
        measured(
            "transfers under a storm of cuts",
            format!("{} MiB each way exact over {cuts} cuts", bytes >> 20),
        );
        Ok(())
    })
}

#[test]
fn a_request_that_comes_while_the_link_is_down_waits_for_the_resume() -> Result<()> {
    scenario(async |lab| {
        let fleet = Fleet::start(lab, 1).await?;
        let lane = fleet.lanes.first().context("one lane")?;
        lane.link.refuse().await?;
        lane.link.cut();
        let script = Script::tokens(5, 1000.0);
        let ask = async {
            let reply = streams::open(&lane.caller, Api::OllamaChat, &script).await?;
            streams::exact(reply, Api::OllamaChat, &script).await
        };
        let heal = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            lane.link.accept()
        };
        let (asked, healed) = tokio::join!(ask, heal);
        healed?;
        asked.context("a request in a gap of 2 s")
    })
}

/// An upload's sink, named here so that the storm and the bulk rows use the same words.
pub(crate) fn sink(prefix_bytes: u64, pattern_bytes: u64) -> Script {
    Script { sink: Some(Sink { prefix_bytes, pattern_bytes }), ..Script::default() }
}

/// Pieces of a pattern, spread evenly over a time (zero: as fast as they are taken).
pub(crate) fn paced(
    pattern: Pattern,
    bytes: u64,
    over: Duration,
) -> impl futures_util::Stream<Item = bytes::Bytes> + Send + 'static {
    let started = tokio::time::Instant::now();
    stream::unfold((pattern, 0_u64), move |(pattern, offset)| async move {
        if offset >= bytes {
            return None;
        }
        let due = over.mul_f64(offset as f64 / bytes as f64);
        if !due.is_zero() {
            tokio::time::sleep_until(started + due).await;
        }
        let len = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(64 * 1024);
        let piece = pattern.slice(offset, len);
        let next = offset + piece.len() as u64;
        Some((piece, (pattern, next)))
    })
}
