//! The configuration changes while requests run, and none of them notices.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::{Daemon, MODEL, Script, measured, poll_until, scenario, soak_count};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What is wrong with a broken file; taken in turn.
const BROKEN: [fn(&Value) -> String; 6] = [
    |_| String::new(),
    |config| config.to_string().trim_end_matches('}').to_owned(),
    |config| with(config, "requestTimeout", json!(1)).to_string(),
    |config| with(config, "logLevel", json!("LOUD")).to_string(),
    |config| json!([config]).to_string(),
    |config| with(config, "olamaHost", json!("x")).to_string(),
];

fn with(config: &Value, key: &str, value: Value) -> Value {
    let mut config = config.clone();
    config[key] = value;
    config
}

/// Writes as editors do, each in its way: in place, or beside and renamed.
fn save(file: &Path, text: &str, number: usize) -> Result<()> {
    if number.is_multiple_of(2) {
        fs::write(file, text)?;
    } else {
        let beside = file.with_extension("tmp");
        fs::write(&beside, text)?;
        fs::rename(&beside, file)?;
    }
    Ok(())
}

#[test]
fn a_hundred_changes_under_load_lose_no_request() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let file = world.daemon.config_file();
        let first: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        // 10 callers, 50 requests a second each.
        for number in 0..10_u64 {
            let caller = if number.is_multiple_of(2) { world.local() } else { world.remote() };
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            callers.spawn(async move {
                let mut failed = Vec::new();
                let mut ticks = tokio::time::interval(Duration::from_millis(20));
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let body = json!({ "model": MODEL, "stream": false, "messages": [{ "role": "user", "content": "hi" }] });
                    let answered = caller.post("/api/chat").json(&body).script(&Script::tokens(1, 1000.0)).send().await;
                    sent.fetch_add(1, Ordering::Relaxed);
                    match answered {
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
        let n = soak_count(25, 100);
        let (mut n_broken, mut last_good) = (0, 60);
        let begin = std::time::Instant::now();
        for number in 0..n {
            if number % 5 == 4 {
                let broken =
                    BROKEN[n_broken % BROKEN.len()](&with(&first, "requestTimeout", json!(last_good)));
                save(&file, &broken, number)?;
                n_broken += 1;
                config_warning(&world.daemon, true)
                    .await
                    .with_context(|| format!("after broken file {n_broken}: {broken}"))?;
                ensure!(
                    in_force(&world.daemon).await? == last_good,
                    "a broken file changed what is in force"
                );
                ensure!(fs::read_to_string(&file)? == broken, "a broken file of the user's was overwritten");
            } else {
                last_good = 61 + number as u64;
                save(&file, &with(&first, "requestTimeout", json!(last_good)).to_string(), number)?;
                let taken = async || (in_force(&world.daemon).await.ok()? == last_good).then_some(());
                poll_until("the change is in force", Duration::from_secs(10), taken).await?;
                config_warning(&world.daemon, false).await?;
            }
        }
        let took = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        let failed: Vec<String> = callers.join_all().await.concat();
        let sent = sent.load(Ordering::Relaxed);
        measured(
            "config changes under load",
            format!(
                "{n} changes, {n_broken} of them broken and warned of, {:.0} requests/s, {} of {sent} failed",
                sent as f64 / took.as_secs_f64(),
                failed.len()
            ),
        );
        ensure!(failed.is_empty(), "{failed:?}");
        Ok(())
    })
}

async fn in_force(daemon: &Daemon) -> Result<u64> {
    let config = daemon.control().get("/api/config").send().await?.json().await?;
    config["requestTimeout"].as_u64().with_context(|| format!("no requestTimeout in {config}"))
}

/// Waits until the warning about the file is there, or is gone.
async fn config_warning(daemon: &Daemon, wanted: bool) -> Result<()> {
    poll_until("the warning about the file", Duration::from_secs(10), async || {
        let warnings = daemon.control().get("/api/warnings").send().await.ok()?.json().await.ok()?;
        let there =
            warnings["warnings"].as_array()?.iter().any(|warning| warning["code"] == "config_invalid");
        (there == wanted).then_some(())
    })
    .await
}

#[test]
fn ports_move_while_the_daemon_runs() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let file = world.daemon.config_file();
        let first: Value = serde_json::from_slice(&fs::read(&file)?)?;
        // A stream that runs goes on where it was.
        let script = Script::tokens(40, 20.0);
        let reply = crate::streams::open(&world.local(), e2e::Api::OllamaChat, &script).await?;
        let moved = e2e::ports::free()?;
        fs::write(&file, with(&first, "gatewayPort", json!(moved)).to_string())?;
        let there = e2e::Caller::new(std::net::SocketAddr::from(([127, 0, 0, 1], moved)));
        poll_until("the gateway answers on its new port", Duration::from_secs(10), async || {
            there.get("/api/version").send().await.is_ok_and(|reply| reply.status() == 200).then_some(())
        })
        .await?;
        poll_until("the old port is closed", Duration::from_secs(10), async || {
            tokio::net::TcpStream::connect(world.daemon.gateway()).await.is_err().then_some(())
        })
        .await?;
        crate::streams::exact(reply, e2e::Api::OllamaChat, &script).await?;
        // One that is taken: the old one stays, and the warning says whose it is.
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let config = with(&first, "gatewayPort", json!(taken.local_addr()?.port()));
        fs::write(&file, config.to_string())?;
        poll_until("the warning about the port", Duration::from_secs(10), async || {
            let warnings =
                world.daemon.control().get("/api/warnings").send().await.ok()?.json().await.ok()?;
            let text = warnings.to_string();
            (text.contains("port_taken") && text.contains(&std::process::id().to_string())).then_some(())
        })
        .await?;
        ensure!(there.get("/api/version").send().await?.status() == 200, "the port in use was given up");
        Ok(())
    })
}
