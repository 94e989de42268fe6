//! No spelling of a management path slips past the policy for what comes from the tunnel.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{MODEL, Script, World, WorldOptions, measured, scenario};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Request lines without the version, as an attacker would type them.
const SPELLINGS: &[&str] = &[
    // As they are.
    "POST /api/pull",
    "POST /api/push",
    "POST /api/create",
    "POST /api/copy",
    "DELETE /api/delete",
    "POST /api/blobs/sha256:0123",
    "HEAD /api/blobs/sha256:0123",
    // Dots and slashes.
    "POST //api/pull",
    "POST /api//pull",
    "POST /api/./pull",
    "POST /./api/pull",
    "POST /api/chat/../pull",
    "POST /api/chat/../../api/pull",
    "POST /api/pull/",
    "POST /api/pull//",
    "POST /api/pull/.",
    "POST /v1/../api/pull",
    "POST /api/tags/..//pull",
    "POST /api/chat/..;/pull",
    "DELETE /api/tags/../delete",
    // Percent-encoded.
    "POST /api/%70ull",
    "POST /api/pul%6C",
    "POST /%61%70%69/pull",
    "POST /api%2fpull",
    "POST /api%2Fpull",
    "POST /api/%2e/pull",
    "POST /api/chat/%2e%2e/pull",
    "POST /api/chat/%2E%2E%2Fpull",
    "POST /api/chat%2f..%2fpull",
    "POST /api/chat/.%2e/pull",
    "POST /%2fapi/pull",
    "POST /api/pull%2f",
    // Encoded twice.
    "POST /api/%2570ull",
    "POST /api/chat/%252e%252e/pull",
    "POST /api%252fpull",
    // Other characters.
    "POST /api\\pull",
    "POST /api/chat\\..\\pull",
    "POST /api%5cpull",
    "POST /api/chat/..%5cpull",
    "POST /api/pull;x=/api/chat",
    "POST /api;x/pull",
    "POST /api/pull%00",
    "POST /api/chat%00/../pull",
    "POST /api/pull%20",
    "POST /api/pull%09",
    "POST /api/pull%0d%0a",
    "POST /api/pull?x=/api/chat",
    "POST /api/pull#/api/chat",
    "POST /api/pull%3fx",
    "POST /api/pull%23",
    "POST /api/\u{ff50}ull",
    "POST /api/%c0%ae%c0%ae/api/pull",
    "POST /api/%ef%bd%90ull",
    "POST /api/pu%6c%",
    "POST /api/pull.",
    "POST /api/pull.json",
    // Case.
    "POST /API/PULL",
    "POST /Api/Pull",
    "post /api/pull",
    // Other methods and forms.
    "GET /api/pull",
    "PUT /api/pull",
    "PATCH /api/create",
    "POST http://127.0.0.1/api/pull",
    "POST http://127.0.0.1:11434/api/pull",
    "POST https://desk/api/pull",
    "CONNECT 127.0.0.1:11434",
    "OPTIONS *",
    "POST *",
    "POST api/pull",
    // Through the choice of a device.
    "POST /d/desk/api/pull",
    "POST /d/desk//api/pull",
    "POST /d/desk/../desk/api/pull",
    "POST /d/desk/%2e%2e/api/pull",
    "POST /d/desk/d/desk/api/pull",
    "POST /d/%64esk/api/pull",
    // What other model servers have, and what is the daemon's own.
    "GET /slots",
    "GET /props",
    "POST /props",
    "POST /lora-adapters",
    "GET /metrics",
    "POST /v1/load_lora_adapter",
    "DELETE /v1/models/scripted:1b",
    "POST /v1/files",
    "GET /api/status",
    "POST /api/tunnel/stop",
    "PUT /api/config",
    "POST /_tunnel/v1/migrate",
    "POST /%5ftunnel/v1/migrate",
    "POST //_tunnel/v1/migrate",
    "GET /ws",
];

/// What a request from the tunnel may reach, byte for byte as the backend sees it.
const ALLOWED: &[&str] = &[
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/tags",
    "/api/ps",
    "/api/show",
    "/api/version",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/models",
];

/// Sends one request as raw bytes; returns the first line of the answer (none if the relay just closed).
async fn raw(world: &World, line: &str, headers: &str) -> Result<Option<String>> {
    let body = json!({"model": MODEL, "name": MODEL, "source": MODEL, "destination": "x", "stream": false})
        .to_string();
    let script = Script::default().id(line).header();
    // The id of the script may hold what no header may.
    let script = if script.is_ascii() { script } else { "{}".to_owned() };
    let mut stream = TcpStream::connect(world.relay.listen()).await?;
    let request = format!(
        "{line} HTTP/1.1\r\nHost: desk.example\r\nAuthorization: Bearer {}\r\nFake-Script: {script}\r\n\
         {headers}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        world.caller_token,
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    ensure!(read.is_ok(), "{line}: no end of the answer after 10 s");
    Ok(String::from_utf8_lossy(&answer).lines().next().map(str::to_owned))
}

#[test]
fn no_spelling_reaches_what_is_not_allowed() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let before = world.daemon.tunnel().await?;
        let mut passed = Vec::new();
        for line in SPELLINGS {
            let answer = raw(&world, line, "").await?;
            if answer.as_deref().is_some_and(|answer| answer.contains(" 200 ")) {
                passed.push((*line, answer.unwrap_or_default()));
            }
        }
        // An allowed path that is told to be another.
        let overrides = [
            "X-HTTP-Method-Override: DELETE\r\n",
            "X-Original-URL: /api/pull\r\n",
            "X-Rewrite-URL: /api/pull\r\n",
            "X-Forwarded-Prefix: /api/pull\r\n",
        ];
        for headers in overrides {
            let answer = raw(&world, "POST /api/show", headers).await?;
            ensure!(
                answer.is_some_and(|answer| answer.contains(" 200 ")),
                "{headers}: an allowed path is refused"
            );
        }
        let reached: Vec<String> = world
            .backend
            .requests()
            .iter()
            .filter(|exchange| !ALLOWED.contains(&exchange.target.path()))
            .map(|exchange| format!("{} {}", exchange.method, exchange.target))
            .collect();
        let figure =
            format!("{} spellings, {} reached the backend", SPELLINGS.len() + overrides.len(), reached.len());
        measured("path spellings against the remote policy", figure);
        ensure!(reached.is_empty(), "these reached the backend: {reached:#?}");
        ensure!(passed.is_empty(), "these were answered 200: {passed:#?}");
        let after = world.daemon.tunnel().await?;
        ensure!(
            before["since"] == after["since"] && after["state"] == "connected",
            "the tunnel was disturbed: {after}"
        );
        Ok(())
    })
}

#[test]
fn management_is_for_the_local_door_unless_it_is_allowed() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let body = json!({"model": MODEL});
        let pull = async |caller: e2e::Caller, id: &str| -> Result<u16> {
            let reply = caller.post("/api/pull").json(&body).script(&Script::default().id(id)).send().await?;
            Ok(reply.status().as_u16())
        };
        ensure!(pull(world.local(), "local").await? == 200 && world.backend.request("local").is_some());
        let refused = world.remote().post("/api/pull").json(&body).send().await?;
        ensure!(refused.status() == 403, "a pull through the tunnel gives {}", refused.status());
        ensure!(refused.json().await?["error"].is_string(), "in Ollama's words");
        drop(world);

        let world = lab.world_with(WorldOptions::default().with("remotePaths", "all")).await?;
        ensure!(pull(world.remote(), "allowed").await? == 200 && world.backend.request("allowed").is_some());
        Ok(())
    })
}
