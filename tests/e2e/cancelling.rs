//! A caller that hangs up stops the model: the backend's connection is closed, in whatever phase the request was.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::{
    Api, Caller, Exchange, FakeBackend, Latencies, MODEL, Pattern, Script, Sink, World, eventually, measured,
    scenario, soak_count,
};
use futures_util::{StreamExt as _, stream};
use tokio::task::JoinSet;

use crate::streams;

const BAR: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 10;
const ARRIVAL: Duration = Duration::from_secs(20);

/// What the request is doing when its caller hangs up.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Uploading,
    Waiting,
    Streaming,
}

#[test]
fn hanging_up_while_uploading_closes_the_backends_connection() -> Result<()> {
    hang_up(Phase::Uploading)
}

#[test]
fn hanging_up_before_the_first_byte_closes_the_backends_connection() -> Result<()> {
    hang_up(Phase::Waiting)
}

#[test]
fn hanging_up_in_mid_stream_closes_the_backends_connection() -> Result<()> {
    hang_up(Phase::Streaming)
}

fn hang_up(phase: Phase) -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let n = soak_count(20, 1000);
        for (door, caller) in world.doors() {
            let calls = (0..n).map(|number| {
                let (caller, backend, id) = (caller.clone(), &world.backend, format!("{door}-{number}"));
                async move { hang_up_once(&caller, backend, phase, &id).await.context(id) }
            });
            let mut running = stream::iter(calls).buffer_unordered(AT_ONCE);
            let mut all = Latencies::default();
            while let Some(took) = running.next().await {
                all.record(took?);
            }
            measured("caller hangs up, backend's connection closed", format!("{door}, {phase:?}: {all}"));
            ensure!(all.len() == n as u64 && all.max() <= BAR, "{door}, {phase:?}: {all}");
        }
        ensure!(unfinished(&world.backend) == 0, "a connection is left open");
        Ok(())
    })
}

/// Returns how long after the hanging up the backend saw its connection closed.
async fn hang_up_once(caller: &Caller, backend: &FakeBackend, phase: Phase, id: &str) -> Result<Duration> {
    let hung_up = match phase {
        Phase::Uploading => {
            let prefix = format!("{{\"model\":\"{MODEL}\",\"prompt\":\"");
            let pattern = Pattern::new(1);
            let pieces = [prefix.into(), pattern.slice(0, 300_000)];
            let sink = Sink { prefix_bytes: 0, pattern_bytes: 0 };
            let script = Script { sink: Some(sink), ..Script::default() }.id(id);
            // What was sent is followed by silence: the rest of the body never comes.
            let body = stream::iter(pieces).chain(stream::pending::<Bytes>());
            let call =
                caller.post("/api/generate").header("content-type", "application/json").script(&script);
            let mut sending = Box::pin(call.stream(body).send());
            let arrived = eventually("the upload arrives", ARRIVAL, async || {
                // Keeps the upload moving while the backend is watched.
                let answered = futures_util::poll!(sending.as_mut()).is_ready();
                !answered && backend.request(id).is_some_and(|exchange| exchange.received_bytes() > 250_000)
            });
            arrived.await?;
            drop(sending);
            Instant::now()
        }
        Phase::Waiting => {
            let script = Script { hang: true, ..Script::default() }.id(id);
            let call = caller.post("/api/chat").json(&Api::OllamaChat.request(MODEL)).script(&script);
            let mut sending = Box::pin(call.send());
            eventually("the request arrives", ARRIVAL, async || {
                let answered = futures_util::poll!(sending.as_mut()).is_ready();
                !answered && backend.request(id).is_some()
            })
            .await?;
            drop(sending);
            Instant::now()
        }
        Phase::Streaming => {
            let script = Script::tokens(100_000, 50.0).id(id);
            let mut reply = streams::open(caller, Api::OpenAiChat, &script).await?;
            streams::read_tokens(&mut reply, 3).await?;
            drop(reply);
            Instant::now()
        }
    };
    let exchange = backend.request(id).context("the request arrived")?;
    // Wait for longer than the bar, so that a miss is measured rather than only noticed.
    let closed = exchange.connection_closed(Duration::from_secs(20)).await?;
    ensure!(!exchange.completed(), "the backend had nothing left to do");
    Ok(closed.saturating_duration_since(hung_up))
}

/// Requests that were not answered in full and whose connection is open.
fn unfinished(backend: &FakeBackend) -> usize {
    let open = |exchange: &&Arc<Exchange>| !exchange.completed() && exchange.connection.closed().is_none();
    backend.requests().iter().filter(open).count()
}

/// Says who still holds requests whose callers have gone.
async fn holders(world: &World) -> Result<String> {
    let open = unfinished(&world.backend);
    let in_flight = world.daemon.status().await?["connections"]["ollama"]["in_flight"].clone();
    let metrics = world.relay.metrics().await?;
    let relay = metrics.lines().find(|line| line.starts_with("tunnel_relay_streams ")).unwrap_or_default();
    Ok(format!("{open} open at the backend, {in_flight} in flight in the daemon, in the relay {relay}"))
}

#[test]
fn many_callers_that_hang_up_at_once_do_not_end_the_tunnel() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let before = world.daemon.tunnel().await?;
        let caller = world.remote();
        for round in 0..soak_count(3, 20) {
            let mut calls = JoinSet::new();
            for number in 0..200 {
                let script = Script { hang: true, ..Script::default() }.id(format!("{round}-{number}"));
                let call = caller.post("/api/chat").json(&Api::OllamaChat.request(MODEL)).script(&script);
                calls.spawn(call.send());
            }
            // In the first round all have arrived; in the others they hang up wherever they are.
            if round == 0 {
                eventually("200 requests arrive", ARRIVAL, async || world.backend.requests().len() == 200)
                    .await?;
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            calls.shutdown().await;
            // The connection of a request that was answered is kept for the next one.
            let closed = async || unfinished(&world.backend) == 0;
            let limit = Duration::from_secs(10);
            let took = match eventually("the backend's connections are closed", limit, closed).await {
                Ok(took) => took,
                Err(error) => return Err(error.context(holders(&world).await?)),
            };
            measured("200 callers hang up at once, all closed", format!("{took:?}"));
            let script = Script::tokens(5, 1000.0);
            let reply = streams::open(&caller, Api::OllamaChat, &script).await?;
            streams::exact(reply, Api::OllamaChat, &script).await?;
        }
        let after = world.daemon.tunnel().await?;
        ensure!(
            before["since"] == after["since"] && before["reconnects"] == after["reconnects"],
            "{before} {after}"
        );
        Ok(())
    })
}
