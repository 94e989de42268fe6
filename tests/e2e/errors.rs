//! What went wrong is said in the caller's dialect, with the documented status.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Api, Caller, MODEL, Reply, Scope, Script, TokenRequest, WorldOptions, measured, scenario};
use serde_json::{Value, json};

use crate::streams;

/// The machine-readable code of an error, where its dialect has one.
fn code(path: &str, body: &Value) -> Option<String> {
    let code = if path.starts_with("/v1") { &body["error"]["code"] } else { &body["code"] };
    code.as_str().map(str::to_owned)
}

/// Fails unless the answer is this error, worded as the path's dialect words errors.
async fn is_error(reply: Reply, path: &str, status: u16, expected: &str) -> Result<()> {
    let got = reply.status().as_u16();
    let retry_after = reply.header("retry-after").to_owned();
    let content_type = reply.header("content-type").to_owned();
    let text = reply.text().await?;
    ensure!(got == status, "{path}: {got} instead of {status} {expected}: {text}");
    let body: Value = serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))?;
    if path.starts_with("/v1") {
        ensure!(body["error"]["message"].is_string() && body["error"]["type"].is_string(), "{path}: {text}");
        ensure!(code(path, &body).as_deref() == Some(expected), "{path}: not {expected}: {text}");
    } else if path.starts_with("/api") {
        ensure!(body["error"].is_string(), "{path}: {text}");
    } else {
        ensure!(content_type.starts_with("application/problem+json"), "{path}: {content_type}");
        ensure!(code(path, &body).as_deref() == Some(expected), "{path}: not {expected}: {text}");
    }
    if [429, 503].contains(&status) {
        ensure!(retry_after.parse::<u64>().is_ok(), "{path}: {expected} without Retry-After");
    }
    Ok(())
}

const PATHS: [&str; 3] = ["/api/chat", "/v1/chat/completions", "/elsewhere"];

async fn chat(caller: &Caller, path: &str) -> Result<Reply> {
    caller.post(path).json(&json!({"model": MODEL, "messages": []})).send().await
}

#[test]
fn the_relay_says_why_a_caller_is_not_let_in() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let token = |request: TokenRequest| world.relay.token(&request);
        let nobody = world.relay.caller();
        let wrong_scope = nobody.clone().bearer(&world.tunnel_token);
        let expired =
            TokenRequest { ttl: Some("1s".to_owned()), ..TokenRequest::new("alice", Scope::Inference) };
        let expired = nobody.clone().bearer(&token(expired)?);
        let stranger = nobody.clone().bearer(&token(TokenRequest::new("bob", Scope::Inference))?);
        let unknown_device = world.remote().header("tunnel-device", "tablet");
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        for path in PATHS {
            is_error(chat(&nobody, path).await?, path, 401, "token_missing").await?;
            is_error(chat(&nobody.clone().bearer("nonsense"), path).await?, path, 401, "token_invalid")
                .await?;
            is_error(chat(&expired, path).await?, path, 401, "token_expired").await?;
            is_error(chat(&wrong_scope, path).await?, path, 403, "not_allowed").await?;
            is_error(chat(&unknown_device, path).await?, path, 404, "unknown_device").await?;
        }
        let status = chat(&stranger, "/api/chat").await?.status();
        ensure!(status == 404 || status == 503, "a subject without a device gets {status}");
        is_error(chat(&world.remote(), "/elsewhere").await?, "/elsewhere", 403, "path_not_allowed").await?;
        let health = nobody.get("/health").send().await?;
        ensure!(health.status() == 200, "the relay's health is for everybody: {}", health.status());
        for path in ["/_tunnel/v1/migrate", "/_tunnel/v1/connect", "/_tunnel/x"] {
            let status = chat(&world.remote(), path).await?.status();
            ensure!(status.is_client_error(), "{path}: {status}");
        }
        Ok(())
    })
}

#[test]
fn a_device_that_is_away_is_said_to_be_away() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        // A request that waits for its first byte when the session goes.
        let script = Script { hang: true, ..Script::default() }.id("lost");
        let waiting = {
            let call = world.remote().post("/v1/chat/completions").json(&Api::OpenAiChat.request(MODEL));
            let mut sending = Box::pin(call.script(&script).send());
            let arrived = e2e::eventually("it arrives", Duration::from_secs(5), async || {
                let done = futures_util::poll!(sending.as_mut()).is_ready();
                !done && world.backend.request("lost").is_some()
            });
            arrived.await?;
            sending
        };
        world.daemon.kill()?;
        world.daemon.restart().await?;
        let lost = tokio::time::timeout(Duration::from_secs(10), waiting).await.context("left waiting")??;
        is_error(lost, "/v1/chat/completions", 502, "tunnel_lost").await?;

        world.daemon.wait_for_tunnel("connected", Duration::from_secs(10)).await?;
        let stop = world.daemon.tunnelctl(&["stop"]).await?;
        ensure!(stop.status.success(), "stop: {}", String::from_utf8_lossy(&stop.stderr));
        for path in ["/api/chat", "/v1/chat/completions"] {
            is_error(chat(&world.remote(), path).await?, path, 503, "device_offline").await?;
        }
        Ok(())
    })
}

#[test]
fn an_unknown_model_and_a_backend_that_is_down_are_told_apart() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        for (door, caller) in world.doors() {
            for api in [Api::OllamaChat, Api::OpenAiChat] {
                let reply = caller.post(api.path()).json(&api.request("nope")).send().await?;
                ensure!(reply.status() == 404, "{door}: an unknown model gives {}", reply.status());
                let body = reply.json().await?;
                let message = if api.is_sse() { &body["error"]["message"] } else { &body["error"] };
                ensure!(message == "model 'nope' not found", "{door}: {body}");
            }
        }
        world.backend.crash().await?;
        for (door, caller) in world.doors() {
            for path in ["/api/chat", "/v1/chat/completions"] {
                let reply = chat(&caller, path).await?;
                let status = reply.status().as_u16();
                let expected = if status == 503 { "backend_unavailable" } else { "backend_unreachable" };
                ensure!(
                    status == 502 || status == 503,
                    "{door} {path}: a backend that is gone gives {status}"
                );
                let body = reply.json().await?;
                ensure!(!body["error"].is_null(), "{door} {path}: {expected}: {body}");
            }
        }
        // An error that the backend itself answers passes as it is.
        world.backend.revive().await?;
        world.daemon.wait_for_backend("ollama", Duration::from_secs(15)).await?;
        for (door, caller) in world.doors() {
            let script = Script { status: Some(400), ..Script::default() };
            let reply =
                caller.post("/api/chat").json(&Api::OllamaChat.request(MODEL)).script(&script).send().await?;
            ensure!(reply.status() == 400, "{door}: {}", reply.status());
            ensure!(
                reply.json().await? == json!({"error": "scripted failure"}),
                "{door}: the body was changed"
            );
        }
        Ok(())
    })
}

#[test]
fn a_backend_that_stays_silent_is_given_up_in_time() -> Result<()> {
    scenario(async |lab| {
        let options = WorldOptions::default().with("firstByteTimeout", 5).with("requestTimeout", 5);
        let world = lab.world_with(options).await?;
        let silent = async |caller: Caller, api: Api| -> Result<Duration> {
            let script = Script { hang: true, ..Script::default() };
            let asked = Instant::now();
            let reply = caller.post(api.path()).json(&api.request(MODEL)).script(&script).send().await?;
            is_error(reply, api.path(), 504, "first_byte_timeout").await?;
            Ok(asked.elapsed())
        };
        let falls_silent = async |caller: Caller, api: Api| -> Result<Duration> {
            let script = Script { hang_after: Some(3), ..Script::tokens(100, 50.0) };
            let reply = streams::open(&caller, api, &script).await?;
            let asked = Instant::now();
            let ending = reply.ending().await;
            is_truthful(api, &ending.text())?;
            ensure!(ending.error.is_some(), "it ended as if all were well");
            Ok(asked.elapsed())
        };
        let (remote, local) = (world.remote(), world.local());
        let (a, b, c, d) = tokio::join!(
            silent(remote.clone(), Api::OllamaChat),
            silent(local.clone(), Api::OpenAiChat),
            falls_silent(remote, Api::OpenAiChat),
            falls_silent(local, Api::OllamaChat)
        );
        measured(
            "silent backend given up (limit 5 s)",
            format!("{:.1?} {:.1?}; in mid-stream {:.1?} {:.1?}", a?, b?, c?, d?),
        );
        Ok(())
    })
}

/// Fails unless the stream ends in an error in its dialect and in nothing that looks like a regular end.
fn is_truthful(api: Api, text: &str) -> Result<()> {
    ensure!(!text.contains("[DONE]") && !text.contains("\"done\":true"), "a forged end: {text}");
    let last = text.lines().rev().find(|line| !line.is_empty()).unwrap_or_default();
    let json = if api.is_sse() { last.strip_prefix("data: ").unwrap_or_default() } else { last };
    let error: Value = serde_json::from_str(json).with_context(|| format!("the last line is {last}"))?;
    let message = if api.is_sse() { &error["error"]["message"] } else { &error["error"] };
    ensure!(message.is_string(), "no error in the dialect: {last}");
    Ok(())
}

#[test]
fn a_response_that_breaks_off_ends_in_an_error_and_abnormally() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        for (door, caller) in world.doors() {
            for api in [Api::OllamaChat, Api::OllamaGenerate, Api::OpenAiChat, Api::OpenAiCompletions] {
                let script = Script { break_after: Some(5), ..Script::tokens(50, 200.0) };
                let ending = streams::open(&caller, api, &script).await?.ending().await;
                let text = ending.text();
                is_truthful(api, &text).with_context(|| format!("{door} {}", api.path()))?;
                ensure!(ending.error.is_some(), "{door} {}: a polite end: {text}", api.path());
                let whole: String = (0..5).map(|index| script.chunk(api, MODEL, index)).collect();
                ensure!(
                    text.starts_with(&whole),
                    "{door} {}: tokens before the break are lost: {text}",
                    api.path()
                );
            }
            let script =
                Script { break_after: Some(3), bytes_per_s: Some(10_000_000), ..Script::bytes(10 << 20) };
            let reply =
                caller.post("/api/generate").json(&json!({"model": MODEL})).script(&script).send().await?;
            let ending = reply.ending().await;
            ensure!(ending.error.is_some(), "{door}: half a download ended in peace");
        }
        Ok(())
    })
}
