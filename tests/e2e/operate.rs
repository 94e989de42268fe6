//! Running a relay: what its operator asks and orders, what it keeps, what watches and guards it.

mod firewall;
mod monitoring;
mod unit;
mod zero_storage;

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use e2e::{Relay, RelayOptions, Script, eventually, measured, scenario};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(15);

/// Runs an operator's command that must succeed, and returns what it prints.
async fn operator(relay: &Relay, args: &[&str]) -> Result<String> {
    let output = relay.operator(args).await?;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn json(relay: &Relay, args: &[&str]) -> Result<Value> {
    let text = operator(relay, &[args, &["--json"]].concat()).await?;
    serde_json::from_str(&text).with_context(|| format!("{args:?} printed {text}"))
}

#[test]
fn an_operator_sees_who_is_there_and_closes_a_session() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let relay = &world.relay;
        let tenants = operator(relay, &["admin", "tenants"]).await?;
        ensure!(tenants.starts_with("SUBJECT") && tenants.contains("alice"), "{tenants}");
        let streaming = world
            .remote()
            .post("/api/chat")
            .script(&Script::tokens(100_000, 20.0))
            .json(&chat())
            .send()
            .await?;
        let sessions = json(relay, &["admin", "sessions"]).await?;
        let session = &sessions["sessions"][0];
        ensure!(session["streams"] == 1 && session["attached"] == true, "{sessions}");
        ensure!(session["agent"].as_str().is_some_and(|agent| agent.starts_with("tunneld/")), "{sessions}");
        let limits = operator(relay, &["admin", "limits"]).await?;
        ensure!(
            limits.contains("\"max_streams\": 5000") && limits.contains("at their limit now: 0"),
            "{limits}"
        );

        let id = session["id"].as_str().context("an id")?.to_owned();
        operator(relay, &["admin", "close", &id]).await?;
        ensure!(streaming.ending().await.text().contains("was lost"));
        eventually("the daemon has dialled again", LIMIT, async || {
            json(relay, &["admin", "sessions"])
                .await
                .is_ok_and(|sessions| sessions["sessions"][0]["id"].as_str().is_some_and(|new| new != id))
        })
        .await?;
        let gone = relay.operator(&["admin", "close", &id]).await?;
        ensure!(!gone.status.success());
        ensure!(String::from_utf8_lossy(&gone.stderr).contains("no session with this id"));
        Ok(())
    })
}

#[test]
fn an_operators_drain_ends_the_relay_as_a_signal_does() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        operator(&world.relay, &["admin", "drain"]).await?;
        let status = world.relay.process().wait(LIMIT).await?;
        ensure!(status.success(), "{status}");
        let late = world.relay.operator(&["admin", "tenants"]).await?;
        let said = String::from_utf8_lossy(&late.stderr).into_owned();
        ensure!(!late.status.success() && said.contains("cannot reach the relay"), "{said}");
        Ok(())
    })
}

#[test]
fn the_audit_log_outlives_kills_and_tells_every_change() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        let log = world.relay.data_dir().join("audit.jsonl");
        for _ in 0..3 {
            let refused = world.relay.caller().bearer("not.a.token").get("/api/tags").send().await?;
            ensure!(refused.status() == 401);
            eventually("the refusal is written", LIMIT, async || {
                fs::read_to_string(&log).is_ok_and(|text| text.contains("token_refused"))
            })
            .await?;
            world.relay.kill()?;
            world.relay.restart().await?;
            world.daemon.wait_for_tunnel("connected", LIMIT).await?;
        }
        let hash = operator(&world.relay, &["audit", "hash", "subject", "alice"]).await?;
        eventually("the tunnel is in the log", LIMIT, async || {
            fs::read_to_string(&log).is_ok_and(|text| text.matches("tunnel_up").count() == 4)
        })
        .await?;
        let text = fs::read_to_string(&log)?;
        ensure!(text.contains(&format!("\"event\":\"tunnel_up\",\"subject\":\"{}\"", hash.trim())), "{text}");
        ensure!(!text.contains("alice"), "a name is in clear");
        let report = json(&world.relay, &["audit", "verify"]).await?;
        ensure!(report[0]["n_faults"] == 0, "{report}");

        world.relay.terminate();
        world.relay.process().wait(LIMIT).await?;
        let text = fs::read_to_string(&log)?;
        let lines: Vec<&str> = text.lines().collect();
        let mut found = 0;
        for (n, line) in lines.iter().enumerate() {
            // One digit of one line is another.
            let at = line.find("\"at\":\"20").context("each line has a time")? + 8;
            let mut changed: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
            changed[n].replace_range(at..=at, if line.as_bytes()[at] == b'9' { "8" } else { "9" });
            fs::write(&log, changed.join("\n") + "\n")?;
            let output = world.relay.operator(&["audit", "verify"]).await?;
            let said = String::from_utf8(output.stdout)?;
            ensure!(output.status.code() == Some(1), "line {}: {said}", n + 1);
            ensure!(said.contains(&format!("audit.jsonl:{}: the line was changed", n + 1)), "{said}");
            found += 1;
        }
        measured(
            "audit log after 3 kill -9",
            format!("chain unbroken; {found} of {found} changes of a line named"),
        );
        Ok(())
    })
}

#[test]
fn a_flood_of_refused_tokens_fills_no_disk() -> Result<()> {
    scenario(async |lab| {
        let relay = lab.relay(RelayOptions::default()).await?;
        let n = e2e::soak_count(500, 10_000);
        let caller = relay.caller().bearer("not.a.token");
        for _ in 0..n {
            ensure!(caller.get("/api/tags").send().await?.status().is_client_error());
        }
        let log = relay.data_dir().join("audit.jsonl");
        eventually("the log has settled", LIMIT, async || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("token_refused"))
        })
        .await?;
        let text = fs::read_to_string(&log)?;
        let lines = text.matches("token_refused").count();
        ensure!(lines * 20 < n, "{lines} lines of {n} refusals");
        measured("refused tokens, one address", format!("{n} refusals, {lines} lines, {} bytes", text.len()));
        Ok(())
    })
}

fn chat() -> Value {
    e2e::Api::OllamaChat.request(e2e::MODEL)
}
