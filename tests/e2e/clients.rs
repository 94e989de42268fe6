//! The official clients, unmodified, through both doors.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::{
    FakeBackend, Lab, MODEL, ModelServer, OfficialClients, REAL_MODEL, World, WorldOptions, measured,
    scenario, skipped,
};
use serde_json::json;

pub(crate) const MISSING: &str = "the client libraries are not installed; run `cargo xtask setup`";

/// Base URL and token (`-` for none) of both doors.
fn doors(world: &World) -> [(&'static str, String, String); 2] {
    let gateway = format!("http://{}", world.daemon.gateway());
    [("relay", world.relay.url(), world.caller_token.clone()), ("gateway", gateway, "-".to_owned())]
}

pub(crate) async fn through_both_doors(
    world: &World,
    script: &str,
    base_path: &str,
    model: &str,
) -> Result<()> {
    let clients = OfficialClients::find().context(MISSING)?;
    for (door, base, token) in doors(world) {
        let base = format!("{base}{base_path}");
        let passed = clients
            .run(script, &[&base, &token, model])
            .await
            .with_context(|| format!("through the {door}"))?;
        measured("official clients", format!("{door}: {}", passed.trim()));
    }
    Ok(())
}

/// Runs one client library against the scripted Ollama, both its languages of API.
fn scripted(script: &str, base_path: &str) -> Result<()> {
    if OfficialClients::find().is_none() {
        return skipped(script, MISSING);
    }
    scenario(async |lab| {
        let world = lab.world().await?;
        through_both_doors(&world, script, base_path, MODEL).await
    })
}

/// What fails through a door but passes here is the door's fault.
#[test]
fn the_scripted_backend_itself_satisfies_the_clients() -> Result<()> {
    let Some(clients) = OfficialClients::find() else { return skipped("clients without a tunnel", MISSING) };
    scenario(async |_| {
        let backend = FakeBackend::ollama().await?;
        let (plain, v1) = (backend.url(), format!("{}/v1", backend.url()));
        let runs = [
            ("ollama_client.py", &plain),
            ("ollama_client.mjs", &plain),
            ("langchain_client.py", &plain),
            ("openai_client.py", &v1),
            ("openai_client.mjs", &v1),
        ];
        for (script, base) in runs {
            clients.run(script, &[base, "-", MODEL]).await?;
        }
        Ok(())
    })
}

#[test]
fn ollama_python() -> Result<()> {
    scripted("ollama_client.py", "")
}

#[test]
fn ollama_js() -> Result<()> {
    scripted("ollama_client.mjs", "")
}

#[test]
fn langchain_ollama() -> Result<()> {
    scripted("langchain_client.py", "")
}

#[test]
fn openai_python() -> Result<()> {
    scripted("openai_client.py", "/v1")
}

#[test]
fn openai_js() -> Result<()> {
    scripted("openai_client.mjs", "/v1")
}

#[test]
fn openai_clients_with_a_backend_that_speaks_openai_alone() -> Result<()> {
    if OfficialClients::find().is_none() {
        return skipped("openai clients, another backend", MISSING);
    }
    scenario(async |lab| {
        let vllm = FakeBackend::openai("qwen2.5:7b").await?;
        let world = with_openai_backend(lab, "vllm", &vllm.url()).await?;
        through_both_doors(&world, "openai_client.py", "/v1", "qwen2.5:7b").await?;
        through_both_doors(&world, "openai_client.mjs", "/v1", "qwen2.5:7b").await
    })
}

#[test]
fn openai_clients_with_a_real_model() -> Result<()> {
    if OfficialClients::find().is_none() {
        return skipped("openai clients with a real model", MISSING);
    }
    scenario(async |lab| {
        let folder = lab.folder("model", "llama.log")?;
        let Some(model) = ModelServer::start(&folder).await? else {
            return skipped("openai clients with a real model", "no model server; run `cargo xtask setup`");
        };
        let world = with_openai_backend(lab, "llama", &model.url()).await?;
        through_both_doors(&world, "openai_client.py", "/v1", REAL_MODEL).await?;
        through_both_doors(&world, "openai_client.mjs", "/v1", REAL_MODEL).await
    })
}

async fn with_openai_backend(lab: &mut Lab, id: &str, url: &str) -> Result<World> {
    let connections = json!([{"id": id, "type": "openai", "url": url}]);
    let world = lab.world_with(WorldOptions::default().with("connections", connections)).await?;
    world.daemon.wait_for_backend(id, Duration::from_secs(20)).await?;
    Ok(world)
}
