//! What is counted and remembered survives kill -9 at any moment.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Daemon, Latencies, MODEL, Script, binaries, measured, poll_until, scenario, seed, soak, soak_count,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What must never go back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Shown {
    requests: u64,
    tokens: u64,
    bytes_out: u64,
    total: u64,
    api: u64,
    event: u64,
}

impl Shown {
    async fn of(daemon: &Daemon) -> Result<Self> {
        let get =
            async |path: &str| -> Result<Value> { daemon.control().get(path).send().await?.json().await };
        let usage = get("/api/usage?by=model").await?;
        let rows = usage["usage"].as_array().context("usage has rows")?;
        let sum = |key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum();
        let metrics = get("/api/metrics").await?;
        let events = get("/api/events").await?;
        let newest = events["events"]
            .as_array()
            .context("events")?
            .iter()
            .filter_map(|event| event["id"].as_u64())
            .max();
        Ok(Self {
            requests: sum("requests"),
            tokens: sum("completion_tokens"),
            bytes_out: sum("bytes_out"),
            total: metrics["tunnel_metrics"]["totalRequests"].as_u64().context("totalRequests")?,
            api: metrics["api_server"]["total_requests"].as_u64().context("total_requests")?,
            event: newest.unwrap_or(0),
        })
    }

    fn went_back(&self, before: &Self) -> bool {
        self.requests < before.requests
            || self.tokens < before.tokens
            || self.bytes_out < before.bytes_out
            || self.total < before.total
            || self.api < before.api
            || self.event < before.event
    }
}

#[test]
fn counters_never_go_back_over_kill_9() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        let mut random = StdRng::seed_from_u64(seed("the moments of kill -9"));
        let rounds = soak_count(8, 200);
        let (mut ready, mut last) = (Latencies::default(), Shown::default());
        for round in 0..rounds {
            let mut callers = JoinSet::new();
            for _ in 0..8 {
                let caller = world.local();
                callers.spawn(async move {
                    loop {
                        let body = json!({ "model": MODEL, "stream": true, "messages": [] });
                        let call = caller.post("/api/chat").json(&body).script(&Script::tokens(5, 200.0));
                        // The end of the daemon ends them.
                        match call.send().await {
                            Ok(reply) => drop(reply.ending().await),
                            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                        }
                    }
                });
            }
            let until = Instant::now() + Duration::from_millis(random.random_range(50..1200));
            // What was shown last before the end is what must not be lost.
            while Instant::now() < until {
                let shown = Shown::of(&world.daemon).await?;
                ensure!(!shown.went_back(&last), "round {round}: {last:?}, then {shown:?}");
                last = shown;
            }
            world.daemon.kill()?;
            callers.shutdown().await;
            let begin = Instant::now();
            world.daemon.restart().await?;
            ready.record(begin.elapsed());
            let shown = Shown::of(&world.daemon).await?;
            ensure!(!shown.went_back(&last), "round {round}, after the restart: {last:?}, then {shown:?}");
            let warnings = world.daemon.control().get("/api/warnings").send().await?.text().await?;
            ensure!(!warnings.contains("state_"), "round {round}: {warnings}");
            last = shown;
        }
        measured(
            "kill -9 under load",
            format!(
                "{rounds} rounds: the database opened each time, no counter went back ({last:?}), ready after {ready}"
            ),
        );
        ensure!(last.requests > 0 && last.event > 0, "nothing was counted: {last:?}");
        if binaries::optimised() && soak() {
            ensure!(ready.max() <= Duration::from_secs(1), "{ready}");
        }
        Ok(())
    })
}

#[test]
fn a_stopped_tunnel_stays_stopped_over_a_crash() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        let reply = world.daemon.control().post("/api/tunnel/stop?wait=10").send().await?;
        ensure!(reply.status() == 200);
        // The order is kept within the time of a commit.
        poll_until("the stop is kept", Duration::from_secs(5), async || {
            let events = world.daemon.control().get("/api/events").send().await.ok()?.text().await.ok()?;
            events.contains("tunnel_stop").then_some(())
        })
        .await?;
        world.daemon.kill()?;
        world.daemon.restart().await?;
        let tunnel = world.daemon.tunnel().await?;
        ensure!(tunnel["target"] == "down", "{tunnel}");
        Ok(())
    })
}

#[test]
fn a_broken_database_is_set_aside_and_said() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        let database = world.daemon.dir().join("state/state.db");
        world.daemon.kill()?;
        // All of it: the log beside it alone would be enough to mend the file.
        for suffix in ["-wal", "-shm"] {
            drop(std::fs::remove_file(database.with_file_name(format!("state.db{suffix}"))));
        }
        std::fs::write(&database, vec![7; 50_000])?;
        world.daemon.restart().await?;
        let warnings = world.daemon.control().get("/api/warnings").send().await?.text().await?;
        ensure!(warnings.contains("state_corrupt"), "{warnings}");
        let kept = std::fs::read_dir(world.daemon.dir().join("state"))?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("state.db.corrupt-"));
        ensure!(kept, "the broken database was not kept");
        world.daemon.wait_for_backend("ollama", Duration::from_secs(10)).await?;
        Ok(())
    })
}

#[test]
fn usage_is_counted_by_the_key_that_asked() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let other = world.relay.token(&e2e::TokenRequest::new("alice", e2e::Scope::Inference))?;
        let body = json!({ "model": MODEL, "stream": false, "messages": [] });
        for (caller, n) in [(world.remote(), 2), (world.relay.caller().bearer(&other), 3), (world.local(), 1)]
        {
            for _ in 0..n {
                let reply =
                    caller.post("/api/chat").json(&body).script(&Script::tokens(2, 1000.0)).send().await?;
                ensure!(reply.status() == 200, "{}", reply.status());
                drop(reply.bytes().await?);
            }
        }
        let counted = async || {
            let usage =
                world.daemon.control().get("/api/usage?by=key").send().await.ok()?.json().await.ok()?;
            let mut counts: Vec<u64> =
                usage["usage"].as_array()?.iter().filter_map(|row| row["requests"].as_u64()).collect();
            counts.sort_unstable();
            let local =
                usage["usage"].as_array()?.iter().any(|row| row["key"] == "local" && row["requests"] == 1);
            (counts == [1, 2, 3] && local).then_some(())
        };
        poll_until("each key's requests are counted apart", Duration::from_secs(5), counted).await
    })
}
