//! Connections to what is elsewhere: a relay as a connection of another machine, with a token out of the secret store.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Caller, DaemonOptions, FakeBackend, MODEL, ModelServer, REAL_MODEL, RelayOptions, Scope, TokenRequest,
    binaries, look_for_secrets, poll_until, scenario, skipped,
};
use http::Method;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);

/// Returns what the daemon tells of a connection.
async fn connection(daemon: &e2e::Daemon, id: &str) -> Result<Value> {
    let status = daemon.status().await?;
    status["connections"].get(id).cloned().context("the connection is there")
}

async fn wait_for_error(daemon: &e2e::Daemon, id: &str, part: &str) -> Result<()> {
    poll_until(&format!("{id} tells: {part}"), LIMIT, async || {
        let connection = connection(daemon, id).await.ok()?;
        connection["error"].as_str().is_some_and(|error| error.contains(part)).then_some(())
    })
    .await
}

/// Streams an answer and returns it; it must have a regular end.
async fn streamed(caller: &Caller, model: &str) -> Result<String> {
    let body = json!({ "model": model, "stream": true, "max_tokens": 16,
        "messages": [{ "role": "user", "content": "hi" }] });
    let reply = caller.post("/v1/chat/completions").json(&body).send().await?;
    let status = reply.status();
    let text = reply.text().await?;
    ensure!(status == 200 && text.ends_with("data: [DONE]\n\n"), "{status}: {text}");
    Ok(text)
}

#[test]
fn laptop_falls_back_to_the_desktop_at_home() -> Result<()> {
    scenario(async |lab| {
        let relay = lab.relay(RelayOptions::default()).await?;
        let at_home = FakeBackend::ollama().await?;
        let tunnel = relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        let key = relay.token(&TokenRequest::new("alice", Scope::Inference))?;
        let desktop = lab
            .daemon(DaemonOptions {
                ollama: Some(at_home.addr()),
                relay: Some(relay.url()),
                token: Some(tunnel.clone()),
                ..DaemonOptions::default()
            })
            .await?;
        desktop.wait_for_tunnel("connected", LIMIT).await?;
        desktop.wait_for_backend("ollama", LIMIT).await?;

        // The laptop has a tunnel to the same relay, so that its own account leads back to it, too.
        let near = FakeBackend::openai(MODEL).await?;
        near.crash().await?;
        let connections = json!([
            { "id": "home", "type": "cloud", "url": relay.url(), "credential": "home", "priority": 1 },
            { "id": "near", "type": "openai", "url": near.url() },
        ]);
        let options = DaemonOptions {
            relay: Some(relay.url()),
            token: Some(tunnel),
            device: "laptop".to_owned(),
            ..DaemonOptions::default()
        };
        let laptop = lab.daemon(options.with("connections", connections)).await?;
        laptop.wait_for_tunnel("connected", LIMIT).await?;
        let advice = "no secret named home; store it with: tunnelctl connections credential set home";
        wait_for_error(&laptop, "home", advice).await?;

        store(&laptop, "home", &key).await?;
        laptop.wait_for_backend("home", LIMIT).await?;
        let home = connection(&laptop, "home").await?;
        ensure!(home["speaks"] == json!(["ollama", "openai"]) && home["type"] == "cloud", "{home}");
        // Of two devices the relay asks the one that has told it that it has the model, which takes a moment.
        let local = laptop.local();
        let text = poll_until("home answers", LIMIT, async || streamed(&local, MODEL).await.ok()).await?;
        ensure!(!text.is_empty() && !at_home.requests().is_empty(), "the desktop at home answered");

        // What comes through the tunnel to the laptop stays there: it has nothing to answer with.
        let before = at_home.requests().len();
        let back = relay.caller().bearer(&key).header("tunnel-device", "laptop");
        let body = json!({ "model": MODEL, "messages": [] });
        let reply = back.post("/api/chat").json(&body).send().await?;
        ensure!(reply.status().is_client_error() || reply.status().is_server_error(), "{}", reply.status());
        ensure!(at_home.requests().len() == before, "it did not go round");

        // A server of its own is preferred as soon as there is one.
        near.revive().await?;
        laptop.wait_for_backend("near", LIMIT).await?;
        streamed(&laptop.local(), MODEL).await?;
        ensure!(
            near.requests().len() == 1 && at_home.requests().len() == before,
            "this machine's own goes first"
        );

        for path in
            ["/api/status", "/api/connections", "/api/credentials", "/api/config", "/api/events", "/metrics"]
        {
            let answer = laptop.control().get(path).send().await?.bytes().await?;
            look_for_secrets(&answer).with_context(|| path.to_owned())?;
        }
        let removed = laptop.control().call(Method::DELETE, "/api/credentials/home").send().await?;
        ensure!(removed.status() == 200, "{}", removed.status());
        wait_for_error(&laptop, "home", "no secret named home").await?;
        // The scenario looks for the token in every file and log by itself.
        Ok(())
    })
}

/// Stores a secret as a user does: from standard input, in no command line.
async fn store(daemon: &e2e::Daemon, name: &str, secret: &str) -> Result<()> {
    let mut command = Command::new(binaries::tunnelctl()?);
    command.args(["--url", &format!("http://{}", daemon.api()), "connections", "credential", "set", name]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let secret = secret.to_owned();
    let run = move || -> Result<Output> {
        let mut child = command.spawn()?;
        // Dropped at once: that is the end of the input.
        child.stdin.take().context("it has an input")?.write_all(secret.as_bytes())?;
        Ok(child.wait_with_output()?)
    };
    let output = tokio::task::spawn_blocking(run).await??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    look_for_secrets(&output.stdout)?;
    look_for_secrets(&output.stderr)
}

#[test]
fn a_real_llama_server_is_served_as_what_it_is() -> Result<()> {
    scenario(async |lab| {
        let folder = lab.folder("model", "llama.log")?;
        let Some(model) = ModelServer::start(&folder).await? else {
            return skipped(
                "a real llama.cpp server as type llamacpp",
                "no model server; run `cargo xtask setup`",
            );
        };
        let connections =
            json!([{ "id": "llama", "type": "llamacpp", "url": format!("{}/v1", model.url()) }]);
        let daemon = lab.daemon(DaemonOptions::default().with("connections", connections)).await?;
        daemon.wait_for_backend("llama", LIMIT).await?;
        let llama = connection(&daemon, "llama").await?;
        ensure!(llama["type"] == "llamacpp" && llama["models"] == json!([REAL_MODEL]), "{llama}");
        ensure!(llama["version"].as_str().is_some_and(|version| version.starts_with('b')), "{llama}");
        let text = streamed(&daemon.local(), REAL_MODEL).await?;
        ensure!(text.contains("chat.completion.chunk"), "{text}");
        let url = format!("/api/connections/detect?url={}", model.url());
        let found: Value = daemon.control().call(Method::POST, &url).send().await?.json().await?;
        let found = &found["servers"][0];
        ensure!(found["kind"] == "llamacpp" && found["connection"] == "llama", "{found}");
        Ok(())
    })
}
