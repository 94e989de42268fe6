//! Prompts, answers, tokens and what callers make up turn up nowhere but where they belong.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{ApiRoute, MODEL, Scope, Script, TokenRequest, eventually, keep_secret, measured, raw, scenario};
use http::Method;
use serde_json::{Value, json};

#[test]
fn what_passes_through_is_kept_by_nobody() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(e2e::WorldOptions::default().with("logLevel", "DEBUG")).await?;
        let daemon = &world.daemon;
        let canary = |what: &str| {
            let secret = format!("canary-{what}-{:016x}", rand::random::<u64>());
            keep_secret(&secret);
            secret
        };
        let level = daemon
            .control()
            .call(Method::PUT, "/api/log-level")
            .json(&json!({ "level": "TRACE" }))
            .send()
            .await?;
        ensure!(level.status() == 200, "{}", level.status());
        // Through both doors: in the prompt, the query, a header, a model that nobody has, a path that is not there.
        for (door, caller) in world.doors() {
            let (prompt, query, key) = (canary("prompt"), canary("query"), canary("key"));
            let body = json!({ "model": MODEL, "stream": true, "messages": [{ "role": "user", "content": prompt }] });
            let call =
                caller.post(&format!("/api/chat?secret={query}")).json(&body).header("x-api-key", &key);
            let ending = call.script(&Script::tokens(3, 100.0)).send().await?.ending().await;
            ensure!(ending.error.is_none(), "{door}");
            let unknown = json!({ "model": canary("model"), "messages": [] });
            ensure!(caller.post("/api/chat").json(&unknown).send().await?.status() == 404, "{door}");
            drop(caller.get(&format!("/v1/{}", canary("path"))).send().await?.ending().await);
        }
        let addr = daemon.api();
        for request in [
            format!("GET /api/{} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n", canary("api-path")),
            format!(
                "GET /api/status?x={} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n",
                canary("api-query")
            ),
            format!("GET /api/status HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", canary("host")),
            format!(
                "GET /api/status HTTP/1.1\r\nHost: {addr}\r\nOrigin: http://{}\r\nConnection: close\r\n\r\n",
                canary("origin")
            ),
            format!("{} / HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n", canary("method")),
        ] {
            raw(addr, request.as_bytes()).await?;
        }
        // A token through the API, good and bad, and a clear-text one in a file of the original.
        let token = world.relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        for text in [
            json!({ "token": token }),
            json!({ "token": format!("{} with spaces", canary("token")) }),
            json!({ "tokn": canary("member") }),
        ] {
            let put = daemon.control().call(Method::PUT, "/api/auth/token").json(&text).send().await?;
            check(&put.text().await?)?;
        }
        let original = json!({ "cloud_proxy": { "connection_type": "cloud_proxy", "api_base_url": "http://127.0.0.1:1", "auth_token": canary("original"), "enabled": true } });
        check(&daemon.control().post("/api/config/import").json(&original).send().await?.text().await?)?;
        // Counted, so that the recorder has written what it writes.
        eventually("usage is kept", Duration::from_secs(5), async || {
            let usage = daemon.control().get("/api/usage?by=model").send().await;
            let Ok(usage) = usage else { return false };
            usage
                .json()
                .await
                .is_ok_and(|usage| usage["usage"].as_array().is_some_and(|rows| !rows.is_empty()))
        })
        .await?;
        let mut n_answers = 0;
        for ApiRoute { method, path } in ApiRoute::all(&daemon.control()).await? {
            if method == "GET" && path != "/ws" {
                check(&daemon.control().get(&path).send().await?.text().await?)
                    .with_context(|| path.clone())?;
                n_answers += 1;
            }
        }
        check(&world.relay.metrics().await?)?;
        for args in [&["status", "--json"][..], &["version"]] {
            let printed = daemon.tunnelctl(args).await?;
            check(&String::from_utf8_lossy(&[printed.stdout, printed.stderr].concat()))?;
        }
        let events: Value = daemon.control().get("/api/events").send().await?.json().await?;
        ensure!(events["events"].as_array().is_some_and(|events| !events.is_empty()));
        measured(
            "canaries",
            format!("{n_answers} answers, logs at TRACE, database, metrics, argv, environment: none found"),
        );
        Ok(())
    })
}

/// An answer must not repeat what was kept secret; the files are looked at when the scenario ends.
fn check(answer: &str) -> Result<()> {
    e2e::look_for_secrets(answer.as_bytes())
}
