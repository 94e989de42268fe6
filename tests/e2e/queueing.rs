//! A server that works on so many requests at once has a queue: fair between callers, visible, and left at any time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, Daemon, DaemonOptions, FakeBackend, FakeBackendOptions, Lab, Latencies, MODEL,
    OfficialClients, Relay, RelayOptions, Scope, Script, TokenRequest, eventually, measured, scenario,
    skipped, soak_count,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(20);
const SLOTS: usize = 2;
/// Time that the server works on one request.
const SERVICE: Duration = Duration::from_millis(250);
/// Enough for a flood out of one hand.
const TIERS: &str = "[tiers.free]\nrequests_per_minute = 1000000\nburst = 100000\nmax_streams = 4000\n";

struct Site {
    daemon: Daemon,
    relay: Relay,
    backend: FakeBackend,
}

impl Site {
    async fn start(lab: &mut Lab, slots: usize, queue: Value) -> Result<Self> {
        let backend = FakeBackend::start(FakeBackendOptions::default()).await?;
        let config = Some(TIERS.to_owned());
        let relay = lab.relay(RelayOptions { config, ..RelayOptions::default() }).await?;
        let token = relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        let gpu = json!([{ "id": "gpu", "type": "ollama", "url": backend.url(), "maxConcurrent": slots }]);
        let options =
            DaemonOptions { relay: Some(relay.url()), token: Some(token), ..DaemonOptions::default() };
        let daemon = lab.daemon(options.with("connections", gpu).with("queue", queue)).await?;
        daemon.wait_for_tunnel("connected", SOON).await?;
        daemon.wait_for_backend("gpu", SOON).await?;
        Ok(Self { daemon, relay, backend })
    }

    /// A remote caller with a token of its own.
    fn remote(&self) -> Result<Caller> {
        let request =
            TokenRequest { tier: Some("free".to_owned()), ..TokenRequest::new("alice", Scope::Inference) };
        Ok(self.relay.caller().bearer(&self.relay.token(&request)?))
    }

    async fn queued(&self) -> Result<u64> {
        Ok(self.daemon.status().await?["connections"]["gpu"]["queued"].as_u64().unwrap_or_default())
    }

    /// Returns one request as `tunnelctl` shows it; none when it is not there.
    async fn shown(&self, id: &str) -> Result<Option<Value>> {
        let output = self.daemon.tunnelctl(&["requests", "list", "--json"]).await?;
        let requests: Value = serde_json::from_slice(&output.stdout)?;
        let all = requests["requests"].as_array().context("no list")?;
        Ok(all.iter().find(|request| request["id"] == id).cloned())
    }
}

fn ask(caller: &Caller, script: &Script) -> e2e::Call {
    caller.post(Api::OllamaChat.path()).script(script).json(&Api::OllamaChat.request(MODEL))
}

#[test]
fn a_flood_of_the_gateway_does_not_keep_a_remote_caller_waiting() -> Result<()> {
    scenario(async |lab| {
        let site = Site::start(lab, SLOTS, json!({ "maxWaiting": 64, "maxWait": 600 })).await?;
        flooded(&site, site.daemon.local(), site.remote()?, "64 places, flood from the gateway").await
    })
}

#[test]
fn a_flood_of_one_remote_caller_does_not_keep_another_waiting() -> Result<()> {
    scenario(async |lab| {
        let site = Site::start(lab, SLOTS, json!({ "maxWaiting": 2000, "maxWait": 600 })).await?;
        flooded(&site, site.remote()?, site.remote()?, "2000 places, flood from another token").await
    })
}

/// One caller keeps as many requests at once coming, another sends one at a time: measures how long that one waits.
async fn flooded(site: &Site, flood: Caller, other: Caller, what: &str) -> Result<()> {
    let n_flood = soak_count(200, 1000);
    let (n_others, pause) = (soak_count(6, 60), Duration::from_secs(soak_count(0, 1) as u64));
    let script = Script { tokens: Some(1), first_byte_ms: SERVICE.as_millis() as u64, ..Script::default() };
    let (over, served, refused) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..n_flood {
        let (flood, script, over) = (flood.clone(), script.clone(), Arc::clone(&over));
        let (served, refused) = (Arc::clone(&served), Arc::clone(&refused));
        callers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let reply = ask(&flood, &script).send().await?;
                if reply.status() == 200 {
                    reply.bytes().await?;
                    served.fetch_add(1, Ordering::Relaxed);
                } else {
                    ensure!(reply.status() == 429, "{}: {}", reply.status(), reply.text().await?);
                    refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Ok(())
        });
    }
    let enough = n_flood.min(64) as u64 - SLOTS as u64;
    eventually("the flood waits", SOON, async || site.queued().await.is_ok_and(|n| n >= enough)).await?;
    let mut waits = Latencies::default();
    for _ in 0..n_others {
        let reply = ask(&other, &script).send().await?;
        ensure!(reply.status() == 200, "{}: {}", reply.status(), reply.text().await?);
        waits.record(reply.waited().saturating_sub(SERVICE));
        reply.bytes().await?;
        tokio::time::sleep(pause).await;
    }
    over.store(true, Ordering::Relaxed);
    callers.shutdown().await;
    let (served, refused) = (served.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    measured(
        "one key floods, another waits",
        format!(
            "{what}, {n_flood} at once, {SLOTS} slots of {SERVICE:?}: waits {waits}; of the flood {served} served, \
             {refused} refused"
        ),
    );
    ensure!(served > 0, "the flood got nothing");
    ensure!(waits.max() <= SERVICE * 2, "{what}: {waits}");
    eventually("all have left", SOON, async || site.queued().await.is_ok_and(|n| n == 0)).await?;
    Ok(())
}

#[test]
fn a_queued_request_is_shown_and_can_be_cancelled() -> Result<()> {
    scenario(async |lab| {
        let site = Site::start(lab, 1, json!({ "maxWaiting": 3, "maxWait": 60 })).await?;
        let hold = Script { hang: true, ..Script::default() }.id("holds");
        let mut calls = JoinSet::new();
        let holder = ask(&site.daemon.local(), &hold).header("x-request-id", "holds");
        calls.spawn(holder.send());
        site.backend.arrival("holds", SOON).await?;
        let mut waiting = JoinSet::new();
        for (nth, id) in ["one", "two", "three"].iter().enumerate() {
            let call = ask(&site.daemon.local(), &Script::tokens(1, 100.0)).header("x-request-id", id);
            waiting.spawn(async move { Ok::<_, anyhow::Error>((*id, call.send().await?)) });
            let place = nth as u64 + 1;
            eventually("it waits", SOON, async || site.queued().await.is_ok_and(|n| n == place)).await?;
            let shown = site.shown(id).await?.context("it is not shown")?;
            ensure!(
                (&shown["state"], &shown["queue_position"], &shown["waiting_for"])
                    == (&json!("queued"), &json!(nth + 1), &json!(["gpu"])),
                "{shown}"
            );
        }
        // There is no room for a fourth; the clients say so in their own words.
        refused(&site).await?;
        let output = site.daemon.tunnelctl(&["requests", "cancel", "one"]).await?;
        ensure!(output.status.success(), "{output:?}");
        let (id, reply) = waiting.join_next().await.context("nobody was cancelled")???;
        ensure!(id == "one" && reply.status() == 503, "{id}: {}", reply.status());
        ensure!(site.shown("one").await?.is_none(), "it still runs");
        let shown = site.shown("two").await?.context("the next one has gone")?;
        ensure!(shown["queue_position"] == 1, "{shown}");
        // One that holds a slot gives way too; the others are served, one after the other.
        let output = site.daemon.tunnelctl(&["requests", "cancel", "holds"]).await?;
        ensure!(output.status.success(), "{output:?}");
        for (expected, position) in [("two", "2"), ("three", "3")] {
            let (id, reply) = waiting.join_next().await.context("nobody was served")???;
            ensure!(id == expected && reply.status() == 200, "{id}: {}", reply.status());
            ensure!(reply.header("x-tunnel-queue-position") == position, "{:?}", reply.headers());
            ensure!(!reply.header("x-tunnel-queued-ms").is_empty(), "{:?}", reply.headers());
            reply.bytes().await?;
        }
        // By the tunnel too the headers come through, and are absent where nobody waited.
        let reply = ask(&site.remote()?, &Script::tokens(1, 100.0)).send().await?;
        ensure!(
            reply.status() == 200 && reply.header("x-tunnel-queued-ms").is_empty(),
            "{:?}",
            reply.headers()
        );
        Ok(())
    })
}

/// What a caller gets whose requests fill the queue, by itself and through the official clients.
async fn refused(site: &Site) -> Result<()> {
    let reply = ask(&site.daemon.local(), &Script::default()).send().await?;
    let retry: u64 = reply.header("retry-after").parse().context("no Retry-After")?;
    ensure!(reply.status() == 429 && (1..=60).contains(&retry), "{}, {retry}", reply.status());
    let error = reply.json().await?["error"].as_str().unwrap_or_default().to_owned();
    ensure!(error.contains("'gpu'") && error.contains("3 requests wait already"), "{error}");
    let Some(clients) = OfficialClients::find() else {
        return skipped("the official clients on a full queue", "they are not installed");
    };
    let base = format!("http://{}", site.daemon.gateway());
    let said = clients.run("queue_full.py", &[&base, MODEL]).await?;
    measured("a full queue, as the official clients tell it", said.trim());
    Ok(())
}
