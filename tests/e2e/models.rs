//! Names of the user's own for models, and models in and out of memory.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{MODEL, OfficialClients, Script, WorldOptions, measured, poll_until, scenario, skipped};
use serde_json::{Value, json};

use crate::clients::{MISSING, through_both_doors};

#[test]
fn official_clients_use_an_alias_as_any_model() -> Result<()> {
    if OfficialClients::find().is_none() {
        return skipped("official clients with an alias", MISSING);
    }
    scenario(async |lab| {
        let aliases = json!({"gpt-4o": MODEL, "fast": format!("ollama/{MODEL}")});
        let world = lab.world_with(WorldOptions::default().with("aliases", aliases)).await?;
        for (script, base) in
            [("ollama_client.py", ""), ("ollama_client.mjs", ""), ("openai_client.py", "/v1")]
        {
            through_both_doors(&world, script, base, "gpt-4o").await?;
        }
        through_both_doors(&world, "openai_client.mjs", "/v1", "fast").await
    })
}

#[test]
fn the_command_line_names_loads_and_keeps_models() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let (daemon, backend) = (&world.daemon, &world.backend);
        let run = async |args: &[&str]| -> Result<String> {
            let output = daemon.tunnelctl(args).await?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.success(), "{args:?}: {}{text}", String::from_utf8_lossy(&output.stderr));
            Ok(text)
        };
        let chat = async |model: &str| -> Result<u16> {
            let body = json!({"model": model, "messages": []});
            let reply = world.local().post("/api/chat").script(&Script::default()).json(&body).send().await?;
            Ok(reply.status().as_u16())
        };
        ensure!(chat("org/gpt-4o").await? == 404, "nobody has it yet");
        let said = run(&["models", "alias", "org/gpt-4o", MODEL]).await?;
        ensure!(said.contains("org/gpt-4o is an alias"), "{said}");
        ensure!(chat("org/gpt-4o").await? == 200 && chat("Org/GPT-4o:latest").await? == 200, "case and tag");
        let list = run(&["models", "list"]).await?;
        ensure!(list.contains(&format!("org/gpt-4o = {MODEL}")), "{list}");
        let chain = daemon.tunnelctl(&["models", "alias", "other", "ORG/gpt-4o"]).await?;
        let why = String::from_utf8_lossy(&chain.stderr).into_owned();
        ensure!(!chain.status.success() && why.contains("org/gpt-4o is an alias"), "{why}");
        run(&["models", "unalias", "ORG/GPT-4O"]).await?;
        ensure!(chat("org/gpt-4o").await? == 404, "it is forgotten");
        ensure!(
            !daemon.tunnelctl(&["models", "unalias", "org/gpt-4o"]).await?.status.success(),
            "a second time"
        );

        let said = run(&["models", "load", MODEL, "--on", "ollama", "--keep-alive", "30m"]).await?;
        ensure!(said.contains(MODEL) && said.contains("in memory"), "{said}");
        let said = run(&["models", "unload", MODEL]).await?;
        ensure!(said.contains("has left the memory of ollama"), "{said}");
        run(&["models", "warm", MODEL, "--on", "ollama"]).await?;
        let kept = async || {
            let models: Value = daemon.control().get("/api/models").send().await.ok()?.json().await.ok()?;
            let warm = &models["warm"][0];
            (warm["state"] == "loaded" && models["models"][0]["kept_warm"] == true).then(|| warm.clone())
        };
        let kept = poll_until("it is kept warm", Duration::from_secs(10), kept).await?;
        ensure!(kept["model"] == format!("ollama/{MODEL}") && kept["connection"] == "ollama", "{kept}");
        run(&["models", "cool", MODEL, "--on", "ollama"]).await?;
        let models: Value = daemon.control().get("/api/models").send().await?.json().await?;
        ensure!(models["models"][0]["kept_warm"] == false, "{models}");

        // Nobody's requests, and so nobody's usage: two were answered, the others unknown.
        let usage = async || {
            let usage: Value =
                daemon.control().get("/api/usage?by=model").send().await.ok()?.json().await.ok()?;
            let rows = usage["usage"].as_array().cloned()?;
            rows.into_iter().find(|row| row["model"] == MODEL && row["requests"].as_u64() >= Some(2))
        };
        let row = poll_until("usage", Duration::from_secs(10), usage).await.context("usage")?;
        ensure!(row["requests"] == 2, "loading counts as none: {row}");
        // The server was asked, and nothing of it can be reached from outside.
        let asked = backend.requests().iter().filter(|asked| asked.target.path() == "/api/generate").count();
        ensure!((3..=4).contains(&asked), "load, unload, warm: {asked}");
        for path in ["/api/models/load", "/api/models/unload"] {
            let reply = world.remote().post(path).json(&json!({"model": MODEL})).send().await?;
            ensure!(reply.status() == 403, "{path} through the tunnel: {}", reply.status());
        }
        measured(
            "aliases, load, unload, warm",
            "through API and command line; none of it through the tunnel",
        );
        Ok(())
    })
}
