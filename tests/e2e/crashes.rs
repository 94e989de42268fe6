//! Each part is killed in mid-stream: the callers are told the truth at once, and all recovers by itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, Ending, Latencies, ModelServer, REAL_MODEL, RelayOptions, Reply, Script, World,
    WorldOptions, eventually, measured, scenario, skipped, soak, soak_count,
};
use serde_json::json;

use crate::streams;

const TOLD: Duration = Duration::from_secs(1);
const BACK: Duration = Duration::from_secs(3);
const APIS: [Api; 2] = [Api::OllamaChat, Api::OpenAiChat];

/// Streams that are under way: their last token is far away.
async fn under_way(callers: &[(&'static str, Caller)], round: usize) -> Result<Vec<(String, Api, Reply)>> {
    let mut open = Vec::new();
    for (door, caller) in callers {
        for api in APIS {
            let script = Script::tokens(100_000, 50.0).id(format!("{round}-{door}-{}", api.path()));
            let mut reply = streams::open(caller, api, &script).await?;
            streams::read_tokens(&mut reply, 2).await?;
            open.push((format!("{door} {}", api.path()), api, reply));
        }
    }
    Ok(open)
}

/// Waits for the end of each stream, which must be abnormal and must not look like a regular one.
async fn all_told(
    open: Vec<(String, Api, Reply)>,
    since: Instant,
    bar: Duration,
) -> Result<(Latencies, Vec<(String, Api, Ending)>)> {
    let (mut told, mut endings) = (Latencies::default(), Vec::new());
    for (what, api, reply) in open {
        let ending = tokio::time::timeout(bar + Duration::from_secs(10), reply.ending()).await;
        let ending = ending.with_context(|| format!("{what}: the caller is left waiting"))?;
        let text = ending.text();
        ensure!(
            ending.error.is_some(),
            "{what}: a stream that failed ended as if it had not: {}",
            tail(&text)
        );
        ensure!(
            !text.contains("[DONE]") && !text.contains("\"done\":true"),
            "{what}: a forged end: {}",
            tail(&text)
        );
        told.record(ending.at.saturating_duration_since(since));
        endings.push((what, api, ending));
    }
    ensure!(told.max() <= bar, "the callers were told after {told}");
    Ok((told, endings))
}

fn tail(text: &str) -> &str {
    text.lines().rev().find(|line| !line.is_empty()).unwrap_or_default()
}

/// Fails unless the stream's last words are an error in the caller's dialect.
fn in_band(what: &str, api: Api, ending: &Ending) -> Result<()> {
    let text = ending.text();
    let last = tail(&text);
    let json = if api.is_sse() { last.strip_prefix("data: ") } else { Some(last) };
    let error =
        json.and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok()).unwrap_or_default();
    let message = if api.is_sse() { &error["error"]["message"] } else { &error["error"] };
    ensure!(message.is_string(), "{what}: no error in the dialect, but: {last}");
    Ok(())
}

/// Waits until a whole stream passes again; returns how long after `since`.
async fn works_again(caller: &Caller, since: Instant) -> Result<Duration> {
    let script = Script::tokens(5, 1000.0);
    let works = async || match streams::open(caller, Api::OllamaChat, &script).await {
        Ok(reply) => streams::exact(reply, Api::OllamaChat, &script).await.is_ok(),
        Err(_) => false,
    };
    eventually("a stream passes again", Duration::from_secs(30), works).await?;
    Ok(since.elapsed())
}

async fn backend_is_free(world: &World, since: Instant) -> Result<Duration> {
    let free = async || world.backend.requests().iter().all(|exchange| exchange.ended().is_some());
    eventually("the backend's work has stopped", Duration::from_secs(10), free).await?;
    Ok(since.elapsed())
}

#[test]
fn the_backend_dies_in_mid_stream() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let (mut told, mut back) = (Latencies::default(), Latencies::default());
        for round in 0..soak_count(5, 50) {
            let open = under_way(&world.doors(), round).await?;
            let died = Instant::now();
            world.backend.crash().await?;
            let (latencies, endings) = all_told(open, died, TOLD).await?;
            told.merge(&latencies);
            for (what, api, ending) in &endings {
                in_band(what, *api, ending)?;
            }
            world.backend.revive().await?;
            let revived = Instant::now();
            for (_, caller) in world.doors() {
                back.record(works_again(&caller, revived).await?);
            }
        }
        measured("backend killed: callers are told, then served", format!("{told}; {back}"));
        ensure!(back.max() <= BACK, "back after {back}");
        Ok(())
    })
}

#[test]
fn the_relay_is_killed_in_mid_stream() -> Result<()> {
    scenario(async |lab| {
        let (mut told, mut back, mut freed) =
            (Latencies::default(), Latencies::default(), Latencies::default());
        let mut world = lab.world().await?;
        for round in 0..soak_count(5, 50) {
            // To one daemon, kills in quick succession are one long outage, in which it dials ever more seldom.
            if round > 0 && round % 5 == 0 {
                world = lab.world().await?;
            }
            let local = [("gateway", world.local())];
            let unharmed = under_way(&local, round).await?;
            let open = under_way(&[("relay", world.remote())], round).await?;
            let died = Instant::now();
            world.relay.kill()?;
            told.merge(&all_told(open, died, TOLD).await?.0);
            // Long enough for a dial that fails.
            tokio::time::sleep(Duration::from_millis(500)).await;
            world.relay.restart().await?;
            let up = Instant::now();
            back.record(works_again(&world.remote(), up).await?);
            for (what, _, mut reply) in unharmed {
                streams::read_tokens(&mut reply, 5)
                    .await
                    .with_context(|| format!("{what}: the local door was harmed"))?;
            }
            freed.record(backend_is_free(&world, up).await?);
        }
        measured(
            "relay killed: callers are told, then served",
            format!("{told}; {back}; backend free: {freed}"),
        );
        ensure!(back.max() <= BACK, "back after {back}");
        Ok(())
    })
}

#[test]
fn the_daemon_is_killed_in_mid_stream_and_starts_again() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        let (mut local_told, mut remote_told, mut back) =
            (Latencies::default(), Latencies::default(), Latencies::default());
        for round in 0..soak_count(5, 50) {
            let local = under_way(&[("gateway", world.local())], round).await?;
            let remote = under_way(&[("relay", world.remote())], round).await?;
            let died = Instant::now();
            world.daemon.kill()?;
            local_told.merge(&all_told(local, died, TOLD).await?.0);
            backend_is_free(&world, died).await?;
            let started = Instant::now();
            world.daemon.restart().await?;
            let up = Instant::now();
            back.record(works_again(&world.remote(), up).await?);
            works_again(&world.local(), up).await?;
            // The restarted daemon has dialled by now, so its old streams are over.
            let (told, endings) = all_told(remote, started, up.duration_since(started) + BACK).await?;
            remote_told.merge(&told);
            for (what, api, ending) in &endings {
                in_band(what, *api, ending)?;
            }
        }
        let figure =
            format!("gateway {local_told}; remote, from the new start {remote_told}; served again {back}");
        measured("daemon killed: callers are told, then served", figure);
        ensure!(back.max() <= BACK, "back after {back}");
        Ok(())
    })
}

#[test]
fn the_daemon_is_killed_for_good_and_the_grace_time_ends_its_streams() -> Result<()> {
    scenario(async |lab| {
        // The documented grace of a detached session is 60 s; a shorter one is the same code.
        let (grace_s, config) =
            if soak() { (60, None) } else { (6, Some("session_grace_s = 6\n".to_owned())) };
        let relay = RelayOptions { config, ..RelayOptions::default() };
        let mut world = lab.world_with(WorldOptions { relay, ..WorldOptions::default() }).await?;
        let open = under_way(&[("relay", world.remote())], 0).await?;
        let died = Instant::now();
        world.daemon.kill()?;
        let (told, endings) = all_told(open, died, Duration::from_secs(grace_s) + TOLD).await?;
        ensure!(
            told.percentile(0.0) >= Duration::from_secs(grace_s - 1),
            "told before the grace time: {told}"
        );
        for (what, api, ending) in &endings {
            in_band(what, *api, ending)?;
        }
        measured("daemon killed for good: remote callers are told", told);
        let reply = world.remote().get("/api/version").send().await?;
        ensure!(
            reply.status() == 503 && !reply.header("retry-after").is_empty(),
            "afterwards: {}",
            reply.status()
        );
        Ok(())
    })
}

#[test]
fn a_real_model_server_is_killed_in_mid_stream() -> Result<()> {
    scenario(async |lab| {
        let folder = lab.folder("model", "llama.log")?;
        let Some(mut model) = ModelServer::start(&folder).await? else {
            return skipped("a real model server is killed", "no model server; run `cargo xtask setup`");
        };
        let connections = json!([{"id": "llama", "type": "openai", "url": model.url()}]);
        let world = lab.world_with(WorldOptions::default().with("connections", connections)).await?;
        world.daemon.wait_for_backend("llama", Duration::from_secs(20)).await?;
        let body = json!({"model": REAL_MODEL, "stream": true, "max_tokens": 2_000, "ignore_eos": true,
            "messages": [{"role": "user", "content": "Tell a long story."}]});
        let mut open = Vec::new();
        for (door, caller) in world.doors() {
            let mut reply = caller.post("/v1/chat/completions").json(&body).send().await?;
            streams::read_tokens(&mut reply, 2).await?;
            open.push((door.to_owned(), Api::OpenAiChat, reply));
        }
        let died = Instant::now();
        model.process().kill()?;
        let (told, endings) = all_told(open, died, TOLD).await?;
        for (what, api, ending) in &endings {
            in_band(what, *api, ending)?;
        }
        measured("real model server killed: callers are told", told);
        Ok(())
    })
}
