//! What each tenant may use: tiers out of the relay's file, changed while it runs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::{
    Caller, Lab, RelayOptions, Scope, Script, TokenRequest, World, WorldOptions, measured, poll_until,
    scenario, soak_count,
};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

const TIERS: &str = "[tiers.free]\nrequests_per_minute = 60\nburst = 5\nmax_body_bytes = 65536\n\
                     bytes_per_second = 1048576\n[tiers.premium]\nmax_streams = 500\n";

async fn world(lab: &mut Lab, config: &str) -> Result<World> {
    let relay = RelayOptions { config: Some(config.to_owned()), ..RelayOptions::default() };
    lab.world_with(WorldOptions { relay, ..WorldOptions::default() }).await
}

/// A caller with a token of this tier.
fn of_tier(world: &World, tier: &str) -> Result<Caller> {
    let request =
        TokenRequest { tier: Some(tier.to_owned()), ..TokenRequest::new("alice", Scope::Inference) };
    Ok(world.relay.caller().bearer(&world.relay.token(&request)?))
}

/// The file that the relay follows: beside its data.
fn settings_file(world: &World) -> PathBuf {
    world.relay.data_dir().with_file_name("relay.toml")
}

#[test]
fn a_free_tenant_reaches_its_burst_and_a_premium_one_does_not() -> Result<()> {
    scenario(async |lab| {
        let world = world(lab, TIERS).await?;
        let (free, premium) = (of_tier(&world, "free")?, of_tier(&world, "premium")?);
        let mut let_in = 0;
        let refused = loop {
            let reply = free.get("/api/tags").send().await?;
            ensure!(reply.header("ratelimit-policy") == "\"tenant\";q=60;w=60", "{:?}", reply.headers());
            if reply.status() != 200 {
                break reply;
            }
            let_in += 1;
            ensure!(let_in < 50, "never refused");
        };
        ensure!((5..=8).contains(&let_in), "{let_in} let in with a burst of 5");
        ensure!(refused.status() == 429 && refused.header("retry-after") == "1", "{:?}", refused.headers());
        ensure!(refused.header("ratelimit") == "\"tenant\";r=0;t=1", "{:?}", refused.headers());
        for number in 0..50 {
            let reply = premium.get("/api/tags").send().await?;
            ensure!(reply.status() == 200, "premium, {number}: {}", reply.status());
        }
        measured("tier limits", format!("free: {let_in} at once, then 429; premium: 50 of 50"));
        Ok(())
    })
}

#[test]
fn saves_of_the_file_under_load_fail_no_request() -> Result<()> {
    scenario(async |lab| {
        let world = world(lab, TIERS).await?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let premium = of_tier(&world, "premium")?;
        let mut callers = JoinSet::new();
        // 4 callers, 50 requests a second each.
        for _ in 0..4 {
            let (premium, stop, sent) = (premium.clone(), Arc::clone(&stop), Arc::clone(&sent));
            callers.spawn(async move {
                let mut failed = Vec::new();
                let mut ticks = tokio::time::interval(Duration::from_millis(20));
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    sent.fetch_add(1, Ordering::Relaxed);
                    match premium.get("/api/tags").send().await {
                        Ok(reply) if reply.status() == 200 => {
                            if let Err(error) = reply.bytes().await {
                                failed.push(format!("{error:#}"));
                            }
                        }
                        Ok(reply) => failed.push(reply.status().to_string()),
                        Err(error) => failed.push(format!("{error:#}")),
                    }
                }
                failed
            });
        }
        let n = soak_count(6, 50);
        let (file, free, started) = (settings_file(&world), of_tier(&world, "free")?, Instant::now());
        for number in 0..n {
            let per_minute = 1_000 + number;
            let good = format!(
                "[tiers.free]\nrequests_per_minute = {per_minute}\n[tiers.premium]\nmax_streams = 500\n"
            );
            save(&file, &good, number)?;
            poll_until("the change is in force", Duration::from_secs(10), async || {
                let reply = free.get("/api/tags").send().await.ok()?;
                (reply.header("ratelimit-policy") == format!("\"tenant\";q={per_minute};w=60")).then_some(())
            })
            .await?;
            let errors = reloads(&world, "error").await?;
            save(&file, BROKEN[number % BROKEN.len()], number)?;
            poll_until("the fault is told", Duration::from_secs(10), async || {
                (reloads(&world, "error").await.ok()? > errors).then_some(())
            })
            .await?;
            let policy = free.get("/api/tags").send().await?.header("ratelimit-policy").to_owned();
            ensure!(
                policy.contains(&format!("q={per_minute};")),
                "a broken file changed what is in force: {policy}"
            );
        }
        stop.store(true, Ordering::Relaxed);
        let failed = callers.join_all().await.concat();
        let sent = sent.load(Ordering::Relaxed);
        let rate = sent as f64 / started.elapsed().as_secs_f64();
        measured(
            "relay settings saved under load",
            format!("{n} good and {n} broken saves, {rate:.0} requests/s, {} of {sent} failed", failed.len()),
        );
        ensure!(failed.is_empty(), "{failed:?}");
        Ok(())
    })
}

const BROKEN: [&str; 4] = [
    "[tiers.free\n",
    "[tiers.free]\nrequests_per_minute = -1\n",
    "colour = 1\n",
    "[tiers.premium]\nburst = 3\n",
];

/// Writes as editors do: in place, or beside and renamed.
fn save(file: &Path, text: &str, number: usize) -> Result<()> {
    if number.is_multiple_of(2) {
        return Ok(fs::write(file, text)?);
    }
    let beside = file.with_extension("tmp");
    fs::write(&beside, text)?;
    Ok(fs::rename(&beside, file)?)
}

async fn reloads(world: &World, result: &str) -> Result<u64> {
    let page = world.relay.metrics().await?;
    let sample = format!("tunnel_relay_config_reloads_total{{result=\"{result}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&sample)).context("no such metric")?;
    Ok(value.parse()?)
}

#[test]
fn a_body_that_is_too_long_reaches_no_backend() -> Result<()> {
    scenario(async |lab| {
        let world = world(lab, TIERS).await?;
        let free = of_tier(&world, "free")?;
        let script = Script::bytes(1).id("too long");
        let said = free.post("/api/chat").script(&script).body(vec![b' '; 65_537]).send().await?;
        ensure!(
            said.status() == 413 && said.header("tunnel-error") == "body_too_large",
            "{:?}",
            said.headers()
        );
        let pieces = futures_util::stream::iter((0..64).map(|_| Bytes::from(vec![b' '; 4_096])));
        let unsaid = free.post("/api/chat").script(&script).stream(pieces).send().await?;
        ensure!(unsaid.status() == 413, "chunked: {}", unsaid.status());
        ensure!(world.backend.request("too long").is_none_or(|request| !request.completed()));
        Ok(())
    })
}

#[test]
fn bytes_a_second_are_shared_by_all_streams_of_a_tenant() -> Result<()> {
    scenario(async |lab| {
        let world = world(lab, TIERS).await?;
        let free = of_tier(&world, "free")?;
        let mut streams = JoinSet::new();
        for seed in 0..3 {
            let call = free.post("/api/chat").json(&serde_json::json!({"model": e2e::MODEL, "messages": []}));
            let mut script = Script::bytes(64 * 1024 * 1024);
            script.seed = seed;
            let mut reply = call.script(&script).send().await?;
            streams.spawn(async move {
                // What the windows and sockets held at the start is no rate.
                let (from, until) =
                    (Instant::now() + Duration::from_secs(2), Instant::now() + Duration::from_secs(6));
                let mut n_bytes = 0;
                while let Ok(Some(chunk)) = reply.chunk().await {
                    if chunk.at >= until {
                        break;
                    }
                    n_bytes += if chunk.at >= from { chunk.bytes.len() } else { 0 };
                }
                n_bytes
            });
        }
        let each = streams.join_all().await;
        let rate = each.iter().sum::<usize>() as f64 / 4.0 / 1_048_576.0;
        let share = |n: &usize| *n as f64 / each.iter().sum::<usize>().max(1) as f64;
        measured(
            "bytes a second of a tenant",
            format!(
                "{:.0} % of the limit over 4 s, shares {:?}",
                rate * 100.0,
                each.iter().map(|n| format!("{:.2}", share(n))).collect::<Vec<_>>()
            ),
        );
        ensure!((0.85..=1.15).contains(&rate), "{rate:.2} of the limit");
        ensure!(each.iter().all(|n| share(n) > 0.2), "not shared evenly: {each:?}");
        Ok(())
    })
}

#[test]
fn slow_senders_and_callers_that_do_not_read_are_let_go() -> Result<()> {
    scenario(async |lab| {
        let world = world(lab, "[edge]\nunread_timeout_s = 2\nmin_upload_bytes_per_second = 1000\n").await?;
        let slow = async {
            let started = Instant::now();
            let pieces = futures_util::stream::unfold((), async |()| {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Some((Bytes::from_static(b" "), ()))
            });
            let reply = world.remote().post("/api/chat").stream(pieces.take(600)).send().await?;
            ensure!(
                reply.status() == 408 && reply.header("tunnel-error") == "upload_too_slow",
                "{}",
                reply.status()
            );
            Ok(started.elapsed())
        };
        let unread = async {
            let mut stream = TcpStream::connect(world.relay.listen()).await?;
            let script = serde_json::to_string(&Script::bytes(256 * 1024 * 1024).id("unread"))?;
            let body = format!("{{\"model\":\"{}\",\"messages\":[]}}", e2e::MODEL);
            let head = format!(
                "POST /api/chat HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {}\r\nfake-script: {script}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                world.caller_token,
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            let started = Instant::now();
            poll_until("the stream is freed", Duration::from_secs(20), async || {
                let page = world.relay.metrics().await.ok()?;
                page.contains("tunnel_relay_requests_total{outcome=\"caller_stalled\"} 1").then_some(())
            })
            .await?;
            let took = started.elapsed();
            // The backend was let go, too.
            world
                .backend
                .arrival("unread", Duration::from_secs(5))
                .await?
                .connection_closed(Duration::from_secs(5))
                .await?;
            let mut rest = Vec::new();
            // What was on its way, and then the end.
            let _reset = stream.read_to_end(&mut rest).await;
            anyhow::Ok(took)
        };
        let (slow, unread) = tokio::join!(slow, unread);
        let (slow, unread): (Duration, Duration) = (slow?, unread?);
        measured("slow body closed after", format!("{:.1} s", slow.as_secs_f64()));
        measured("unread response freed after", format!("{:.1} s (limit 2 s)", unread.as_secs_f64()));
        ensure!(slow < Duration::from_secs(12), "{slow:?}");
        Ok(())
    })
}
