//! Several desktops of one account, behind one URL.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, Daemon, DaemonOptions, FakeBackend, FakeBackendOptions, Lab, OfficialClients, Relay,
    RelayOptions, Scope, Script, TokenRequest, measured, poll_until, scenario, skipped,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(15);

/// What the two desktops have.
const ON_DESK: [&str; 2] = ["llama3.2:3b", "both:1b"];
const ON_LAP: [&str; 2] = ["qwen3:8b", "both:1b"];

struct Two {
    relay: Relay,
    caller: Caller,
    token: String,
    desk: (Daemon, FakeBackend),
    lap: (Daemon, FakeBackend),
}

async fn two(lab: &mut Lab) -> Result<Two> {
    let relay = lab.relay(RelayOptions::default()).await?;
    let tunnel = relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
    let token = relay.token(&TokenRequest::new("alice", Scope::Inference))?;
    let desk = desktop(lab, &relay, &tunnel, "desk", &ON_DESK).await?;
    let lap = desktop(lab, &relay, &tunnel, "lap", &ON_LAP).await?;
    let caller = relay.caller().bearer(&token);
    let two = Two { relay, caller, token, desk, lap };
    // A desktop may be there before its model server has been looked at.
    let told = |device: &Value| device["models"].as_array().is_some_and(|models| !models.is_empty());
    two.until("both tell their models", |devices| devices.iter().all(told)).await?;
    Ok(two)
}

async fn desktop(
    lab: &mut Lab,
    relay: &Relay,
    token: &str,
    device: &str,
    models: &[&str],
) -> Result<(Daemon, FakeBackend)> {
    let models = models.iter().map(|model| (*model).to_owned()).collect();
    let backend = FakeBackend::start(FakeBackendOptions { models, ..FakeBackendOptions::default() }).await?;
    let options = DaemonOptions {
        ollama: Some(backend.addr()),
        relay: Some(relay.url()),
        token: Some(token.to_owned()),
        device: device.to_owned(),
        // So that a change of its models is seen soon.
        ..DaemonOptions::default().with("healthCheckInterval", 5)
    };
    let daemon = lab.daemon(options).await?;
    daemon.wait_for_backend("ollama", LIMIT).await?;
    daemon.wait_for_tunnel("connected", LIMIT).await?;
    Ok((daemon, backend))
}

impl Two {
    async fn devices(&self) -> Result<Vec<Value>> {
        let reply = self.caller.get("/_tunnel/v1/devices").send().await?;
        ensure!(reply.status() == 200, "{}", reply.status());
        Ok(reply.json().await?["devices"].as_array().context("a list")?.clone())
    }

    async fn until(&self, what: &str, holds: impl Fn(&[Value]) -> bool) -> Result<()> {
        let known = async || self.devices().await.ok().filter(|devices| devices.len() == 2 && holds(devices));
        poll_until(what, LIMIT, known).await.map(drop)
    }

    /// Asks for a model, and returns which device answered.
    async fn ask(&self, model: &str, id: &str) -> Result<(u16, String)> {
        let call = self.caller.post("/api/chat").json(&Api::OllamaChat.request(model));
        let reply = call.script(&Script::default().id(id)).send().await?;
        let answered = (reply.status().as_u16(), reply.header("tunnel-device").to_owned());
        reply.bytes().await?;
        Ok(answered)
    }
}

#[test]
fn one_url_goes_where_the_model_is() -> Result<()> {
    scenario(async |lab| {
        let two = two(lab).await?;
        for (model, device) in [("llama3.2:3b", "desk"), ("qwen3:8b", "lap")] {
            let answered = two.ask(model, model).await?;
            ensure!(answered == (200, device.to_owned()), "{model}: {answered:?}");
        }
        let nobody = two.caller.post("/v1/chat/completions").json(&json!({"model": "nope", "messages": []}));
        let nobody = nobody.send().await?;
        ensure!(nobody.header("tunnel-error") == "model_not_found", "{}", nobody.status());

        let list = two.caller.get("/v1/models").send().await?.json().await?;
        let mut ids: Vec<&str> = list["data"]
            .as_array()
            .context("data")?
            .iter()
            .filter_map(|model| model["id"].as_str())
            .collect();
        ids.sort_unstable();
        ensure!(ids == ["both:1b", "llama3.2:3b", "qwen3:8b"], "{ids:?}");

        // A switch of the preference is told at once, without a new dial.
        let set = two.lap.0.tunnelctl(&["config", "set", "preferredDevice", "true"]).await?;
        ensure!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        two.until("lap is preferred", |devices| devices[1]["preferred"] == true).await?;
        let answered = two.ask("both:1b", "preferred").await?;
        ensure!(answered == (200, "lap".to_owned()), "{answered:?}");
        ensure!(two.lap.1.request("preferred").is_some() && two.desk.1.request("preferred").is_none());

        // Streams as a stream does through one device.
        let script = Script::tokens(20, 1_000.0).id("stream");
        let caller = two.caller.clone();
        let mut body = Api::OpenAiChat.request("llama3.2:3b");
        body["stream"] = true.into();
        let reply = caller.post(Api::OpenAiChat.path()).json(&body).script(&script).send().await?;
        let ending = reply.ending().await;
        ensure!(ending.error.is_none() && ending.text().ends_with("data: [DONE]\n\n"), "{}", ending.text());

        let listed = two.desk.0.tunnelctl(&["devices", "--json"]).await?;
        ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed: Value = serde_json::from_slice(&listed.stdout)?;
        ensure!(listed["this_device"] == "desk" && listed["devices"][1]["name"] == "lap", "{listed}");
        ensure!(listed["devices"][1]["preferred"] == true, "{listed}");
        let table = two.desk.0.tunnelctl(&["devices"]).await?;
        let table = String::from_utf8_lossy(&table.stdout).into_owned();
        ensure!(table.contains("qwen3:8b") && table.contains("this machine"), "{table}");
        Ok(())
    })
}

#[test]
fn a_device_that_stops_is_left_out_and_its_open_answer_holds_nothing_up() -> Result<()> {
    scenario(async |lab| {
        let two = two(lab).await?;
        let stopped = two.lap.0.tunnelctl(&["stop", "--wait", "10"]).await?;
        ensure!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
        two.until("lap is offline", |devices| devices[1]["online"] == false).await?;
        // One is left, and it gets everything.
        let answered = two.ask("llama3.2:3b", "left").await?;
        ensure!(answered == (200, "desk".to_owned()), "{answered:?}");
        ensure!(two.devices().await?[1]["models"].is_null(), "its models are forgotten");
        Ok(())
    })
}

#[test]
fn official_clients_list_and_chat_by_one_url() -> Result<()> {
    let Some(clients) = OfficialClients::find() else {
        return skipped("one URL, official clients", "they are not installed; run `cargo xtask setup`");
    };
    scenario(async |lab| {
        let two = two(lab).await?;
        // Its answer to an unknown model is the model server's own then.
        let set = two.desk.0.tunnelctl(&["config", "set", "preferredDevice", "true"]).await?;
        ensure!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
        two.until("desk is preferred", |devices| devices[0]["preferred"] == true).await?;
        let (plain, v1) = (two.relay.url(), format!("{}/v1", two.relay.url()));
        for model in ["llama3.2:3b", "qwen3:8b"] {
            for (script, base) in [("ollama_client.py", &plain), ("openai_client.py", &v1)] {
                let passed = clients.run(script, &[base, &two.token, model]).await?;
                measured("one URL", format!("{model}: {}", passed.trim()));
            }
        }
        Ok(())
    })
}
