//! Requests and answers pass both doors as they are.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, DaemonOptions, FakeBackend, MODEL, RelayOptions, Scope, Script, TokenRequest, WorldOptions, scenario,
};
use http::Method;
use serde_json::{Value, json};

use crate::streams;

#[test]
fn both_doors_answer_as_the_backend_does() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let direct = e2e::Caller::new(world.backend.addr());
        for (door, caller) in world.doors() {
            for path in ["/api/tags", "/api/ps", "/v1/models"] {
                let reply = caller.get(path).send().await?;
                ensure!(reply.status() == 200, "{door} {path}: {}", reply.status());
                let (answer, expected) = (reply.json().await?, direct.get(path).send().await?.json().await?);
                let name = |value: &Value| {
                    let key = if path == "/v1/models" { "/data/0/id" } else { "/models/0/name" };
                    value.pointer(key).cloned()
                };
                ensure!(name(&answer) == name(&expected), "{door} {path}: {answer}");
            }
            let version = caller.get("/api/version").send().await?.json().await?;
            ensure!(version.get("version").is_some_and(Value::is_string), "{door}: {version}");
            let posts = [
                ("/api/show", json!({"model": MODEL})),
                ("/api/chat", json!({"model": MODEL, "stream": false, "messages": []})),
                ("/api/generate", json!({"model": MODEL, "stream": false, "prompt": "x"})),
                ("/api/embed", json!({"model": MODEL, "input": ["a", "b"]})),
                ("/api/embeddings", json!({"model": MODEL, "prompt": "a"})),
                ("/v1/chat/completions", json!({"model": MODEL, "messages": []})),
                ("/v1/completions", json!({"model": MODEL, "prompt": "x"})),
                ("/v1/embeddings", json!({"model": MODEL, "input": "a"})),
            ];
            for (path, body) in posts {
                let reply = caller.post(path).json(&body).send().await?;
                ensure!(reply.status() == 200, "{door} {path}: {}", reply.status());
                let expected = direct.post(path).json(&body).send().await?;
                ensure!(reply.header("content-type") == expected.header("content-type"), "{door} {path}");
                ensure!(reply.bytes().await? == expected.bytes().await?, "{door} {path}: the body differs");
            }
            for api in [Api::OllamaChat, Api::OllamaGenerate, Api::OpenAiChat, Api::OpenAiCompletions] {
                let script = Script::tokens(20, 1000.0);
                let reply = streams::open(&caller, api, &script).await?;
                streams::exact(reply, api, &script)
                    .await
                    .with_context(|| format!("{door} {}", api.path()))?;
            }
        }
        Ok(())
    })
}

#[test]
fn end_to_end_headers_pass_and_what_is_the_callers_own_does_not() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        for (door, caller) in world.doors() {
            let body = json!({"model": MODEL, "prompt": "déjà vu — 日本"}).to_string();
            let mut call = caller
                .post("/api/generate?a=b%20c&d=%2F")
                .script(&Script { echo: true, ..Script::default() })
                .header("content-type", "application/json")
                .header("accept", "application/x-ndjson")
                .header("x-kept", "yes")
                .header("connection", "x-hop-request")
                .header("x-hop-request", "no")
                .header("cookie", "secret=1")
                .header("tunnel-caller", "forged")
                .header("forwarded", "for=forged")
                .body(body.clone());
            if door == "relay" {
                call =
                    call.header("origin", "https://evil.example").header("referer", "https://evil.example/x");
            }
            let reply = call.send().await?;
            ensure!(reply.status() == 200, "{door}: {}", reply.status());
            ensure!(
                reply.header("x-end-to-end") == "kept",
                "{door}: an end-to-end header of the response is lost"
            );
            ensure!(reply.header("x-hop").is_empty(), "{door}: a hop-by-hop header of the response passed");
            ensure!(!reply.header("x-request-id").is_empty(), "{door}: no x-request-id");
            let seen = reply.json().await?;
            ensure!(seen["target"] == "/api/generate?a=b%20c&d=%2F", "{door}: {}", seen["target"]);
            ensure!(seen["method"] == "POST" && seen["body_bytes"] == body.len(), "{door}: {seen}");
            let sum: u32 = body.bytes().map(u32::from).sum();
            ensure!(seen["body"] == sum, "{door}: the body was changed");

            let headers = seen["headers"].as_array().context("headers")?;
            let value =
                |name: &str| headers.iter().find(|header| header[0] == name).map(|header| header[1].clone());
            ensure!(value("host") == Some(world.backend.addr().to_string().into()), "{door}: {headers:?}");
            ensure!(value("x-kept") == Some("yes".into()), "{door}: x-kept is lost");
            ensure!(value("accept") == Some("application/x-ndjson".into()), "{door}: accept is lost");
            for name in ["x-hop-request", "cookie", "origin", "referer", "authorization", "tunnel-caller"] {
                ensure!(value(name).is_none(), "{door}: {name} reached the backend: {headers:?}");
            }
            ensure!(value("forwarded") != Some("for=forged".into()), "{door}: a forged header passed");
        }
        Ok(())
    })
}

#[test]
fn a_caller_reaches_the_device_that_it_names() -> Result<()> {
    scenario(async |lab| {
        let relay = lab.relay(RelayOptions::default()).await?;
        let token = relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        let mut backends = Vec::new();
        let mut daemons = Vec::new();
        for device in ["desk", "lap"] {
            let backend = FakeBackend::ollama().await?;
            let options = DaemonOptions {
                ollama: Some(backend.addr()),
                relay: Some(relay.url()),
                token: Some(token.clone()),
                device: device.to_owned(),
                ..DaemonOptions::default()
            };
            let daemon = lab.daemon(options).await?;
            daemon.wait_for_tunnel("connected", Duration::from_secs(15)).await?;
            daemon.wait_for_backend("ollama", Duration::from_secs(15)).await?;
            backends.push(backend);
            daemons.push(daemon);
        }
        let [desk, lap] = [&backends[0], &backends[1]];
        let caller = relay.caller().bearer(&relay.token(&TokenRequest::new("alice", Scope::Inference))?);
        let ask = async |caller: &e2e::Caller, id: &str| -> Result<u16> {
            let call = caller.post("/api/chat").json(&Api::OllamaChat.request(MODEL));
            let reply = call.script(&Script::default().id(id)).send().await?;
            let status = reply.status().as_u16();
            reply.bytes().await?;
            Ok(status)
        };

        ensure!(ask(&caller.clone().header("tunnel-device", "lap"), "by header").await? == 200);
        ensure!(lap.request("by header").is_some() && desk.request("by header").is_none());

        ensure!(ask(&caller.clone().prefix("/d/desk"), "by prefix").await? == 200);
        let seen = desk.request("by prefix").context("the prefix chose another device")?;
        ensure!(seen.target.path() == "/api/chat", "the prefix reached the backend: {}", seen.target);

        let bound =
            TokenRequest { device: Some("lap".to_owned()), ..TokenRequest::new("alice", Scope::Inference) };
        let bound = relay.caller().bearer(&relay.token(&bound)?);
        ensure!(ask(&bound, "by token").await? == 200);
        ensure!(lap.request("by token").is_some(), "a token for one device chooses it");
        let refused = ask(&bound.header("tunnel-device", "desk"), "past the token").await?;
        ensure!(
            (400..500).contains(&refused) && desk.request("past the token").is_none(),
            "status {refused}"
        );

        let unknown = ask(&caller.clone().header("tunnel-device", "tablet"), "unknown").await?;
        ensure!(unknown == 404, "an unknown device gives {unknown}");
        // Nothing tells which of the two is meant by what may change something and names no model.
        let undecided = caller.post("/api/chat").body("not JSON").send().await?;
        ensure!(undecided.header("tunnel-error") == "device_required", "{}", undecided.status());

        let mallory = relay.caller().bearer(&relay.token(&TokenRequest::new("mallory", Scope::Inference))?);
        let foreign = ask(&mallory.header("tunnel-device", "desk"), "foreign").await?;
        ensure!(
            foreign == 404 && desk.request("foreign").is_none(),
            "another subject's device gives {foreign}"
        );
        Ok(())
    })
}

#[test]
fn listings_of_two_backends_are_merged_and_each_model_finds_its_own() -> Result<()> {
    scenario(async |lab| {
        let vllm = FakeBackend::openai("qwen2.5:7b").await?;
        let connections = json!([{"id": "vllm", "type": "openai", "url": vllm.url()}]);
        let world = lab.world_with(WorldOptions::default().with("connections", connections)).await?;
        world.daemon.wait_for_backend("vllm", Duration::from_secs(10)).await?;
        for (door, caller) in world.doors() {
            for (path, list, key) in [("/v1/models", "data", "id"), ("/api/tags", "models", "name")] {
                let listing = caller.get(path).send().await?.json().await?;
                let names: Vec<&Value> =
                    listing[list].as_array().context("a list")?.iter().map(|model| &model[key]).collect();
                ensure!(names.contains(&&json!(MODEL)), "{door} {path}: {listing}");
                if path == "/v1/models" {
                    ensure!(names.contains(&&json!("qwen2.5:7b")), "{door} {path}: {listing}");
                }
            }
            let call = caller.post("/v1/chat/completions").json(&Api::OpenAiChat.request("qwen2.5:7b"));
            let reply = call.script(&Script::default().id(door)).send().await?;
            ensure!(reply.status() == 200, "{door}: {}", reply.status());
            ensure!(reply.header("x-tunnel-connection") == "vllm", "{door}: {:?}", reply.headers());
            reply.bytes().await?;
            ensure!(
                vllm.request(door).is_some() && world.backend.request(door).is_none(),
                "{door}: the wrong backend"
            );
        }
        Ok(())
    })
}

#[test]
fn methods_and_empty_bodies_pass() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        for (door, caller) in world.doors() {
            let head = caller.call(Method::HEAD, "/api/tags").send().await?;
            ensure!(head.status() == 200, "{door} HEAD: {}", head.status());
            ensure!(head.bytes().await?.is_empty(), "{door}: HEAD has a body");
            let wrong = caller.call(Method::PUT, "/api/chat").send().await?;
            ensure!(wrong.status().is_client_error(), "{door} PUT: {}", wrong.status());
            let empty = caller.post("/api/chat").send().await?;
            ensure!(empty.status() == 400, "{door}: a chat without a body gives {}", empty.status());
            let broken =
                caller.post("/api/chat").header("content-type", "application/json").body("{").send().await?;
            ensure!(broken.status() == 400, "{door}: broken JSON gives {}", broken.status());
            let nameless = caller.post("/api/chat").json(&json!({"messages": []})).send().await?;
            ensure!(nameless.status() == 400, "{door}: no model gives {}", nameless.status());
            ensure!(
                nameless.json().await? == json!({"error": "model is required"}),
                "{door}: Ollama's own words"
            );
        }
        Ok(())
    })
}

#[test]
fn tunnelctl_says_what_is_so_and_does_what_it_is_told() -> Result<()> {
    scenario(async |lab| {
        let mut world = lab.world().await?;
        let code = |output: &std::process::Output| output.status.code().unwrap_or(-1);
        let daemon = &world.daemon;

        let status = daemon.tunnelctl_by_socket(&["status", "--json"]).await?;
        ensure!(code(&status) == 0, "by the socket: {}", String::from_utf8_lossy(&status.stderr));
        let status: Value = serde_json::from_slice(&status.stdout).context("status --json prints JSON")?;
        ensure!(status["tunnel"]["state"] == "connected" && status["tunnel"]["device"] == "desk", "{status}");
        ensure!(status["connections"]["ollama"]["state"] == "connected", "{status}");
        let human = daemon.tunnelctl(&["status"]).await?;
        ensure!(code(&human) == 0 && !human.stdout.is_empty(), "status for people");
        ensure!(code(&daemon.tunnelctl(&["version"]).await?) == 0, "version");
        ensure!(
            code(&daemon.tunnelctl(&["wait", "--for", "ready", "--timeout", "5"]).await?) == 0,
            "wait ready"
        );

        ensure!(code(&daemon.tunnelctl(&["stop"]).await?) == 0, "stop");
        daemon.wait_for_tunnel("disconnected", Duration::from_secs(5)).await?;
        ensure!(code(&daemon.tunnelctl(&["stop"]).await?) == 0, "stop is idempotent");
        let offline = world.remote().get("/api/version").send().await?;
        ensure!(offline.status() == 503, "a stopped tunnel gives {}", offline.status());
        let waited = daemon.tunnelctl(&["wait", "--for", "tunnel", "--timeout", "1"]).await?;
        ensure!(code(&waited) == 4, "waiting for what was stopped gives {}", code(&waited));
        ensure!(code(&daemon.tunnelctl(&["start"]).await?) == 0, "start");
        ensure!(
            code(&daemon.tunnelctl(&["wait", "--for", "tunnel", "--timeout", "10"]).await?) == 0,
            "wait tunnel"
        );
        ensure!(code(&daemon.tunnelctl(&["restart"]).await?) == 0, "restart");
        ensure!(
            code(&daemon.tunnelctl(&["wait", "--for", "tunnel", "--timeout", "10"]).await?) == 0,
            "after restart"
        );
        ensure!(code(&daemon.tunnelctl(&["no-such-verb"]).await?) == 2, "a wrong verb is a usage error");

        world.daemon.kill()?;
        for output in
            [world.daemon.tunnelctl(&["status"]).await?, world.daemon.tunnelctl_by_socket(&["status"]).await?]
        {
            ensure!(code(&output) == 3, "without a daemon: {}", code(&output));
            ensure!(!output.stderr.is_empty(), "it says what to do");
        }
        Ok(())
    })
}

#[test]
fn the_gateway_serves_without_relay_token_or_a_home_that_can_be_written() -> Result<()> {
    scenario(async |lab| {
        let backend = FakeBackend::ollama().await?;
        let daemon =
            lab.daemon(DaemonOptions { ollama: Some(backend.addr()), ..DaemonOptions::default() }).await?;
        daemon.wait_for_backend("ollama", Duration::from_secs(10)).await?;
        let script = Script::tokens(10, 1000.0);
        streams::exact(
            streams::open(&daemon.local(), Api::OllamaChat, &script).await?,
            Api::OllamaChat,
            &script,
        )
        .await?;

        // The cloud is on but there is no token: that is a state, not an error.
        let options = DaemonOptions {
            ollama: Some(backend.addr()),
            relay: Some("http://127.0.0.1:9".to_owned()),
            ..DaemonOptions::default()
        };
        let daemon = lab.daemon(options).await?;
        daemon.wait_for_backend("ollama", Duration::from_secs(10)).await?;
        streams::exact(
            streams::open(&daemon.local(), Api::OpenAiChat, &script).await?,
            Api::OpenAiChat,
            &script,
        )
        .await?;
        let health = daemon.control().get("/api/health").send().await?;
        ensure!(health.status() == 200, "health: {}", health.status());
        Ok(())
    })
}
