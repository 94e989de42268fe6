//! `/ws`: what a client that watches sees, and what it may ask for.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{
    Daemon, DaemonOptions, MODEL, RelayOptions, Scope, Script, TokenRequest, eventually, measured, scenario,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async, tungstenite::Message, tungstenite::client::IntoClientRequest as _,
};

const LIMIT: Duration = Duration::from_secs(10);

struct Watcher {
    socket: WebSocketStream<TcpStream>,
}

impl Watcher {
    async fn connect(daemon: &Daemon) -> Result<Self> {
        let stream = TcpStream::connect(daemon.api()).await?;
        let (socket, _) = client_async(format!("ws://{}/ws", daemon.api()), stream).await?;
        Ok(Self { socket })
    }

    /// As a page of the daemon's own origin, which may do all that any page may.
    async fn page(daemon: &Daemon) -> Result<Self> {
        let stream = TcpStream::connect(daemon.api()).await?;
        let mut request = format!("ws://{}/ws", daemon.api()).into_client_request()?;
        request.headers_mut().insert("origin", format!("http://{}", daemon.api()).parse()?);
        let (socket, _) = client_async(request, stream).await?;
        Ok(Self { socket })
    }

    async fn next(&mut self) -> Result<Value> {
        loop {
            match tokio::time::timeout(LIMIT, self.socket.next())
                .await?
                .context("the daemon has closed")??
            {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Close(close) => bail!("closed: {close:?}"),
                _ => {}
            }
        }
    }

    /// The next message for which this holds; others are passed over.
    async fn find(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            let message = self.next().await?;
            if wanted(&message) {
                return Ok(message);
            }
        }
        bail!("not seen: {what}")
    }

    async fn say(&mut self, command: Value) -> Result<()> {
        Ok(self.socket.send(Message::text(command.to_string())).await?)
    }

    async fn ask(&mut self, command: Value) -> Result<Value> {
        let id = command["id"].clone();
        self.say(command).await?;
        self.find("an answer", |message| message.get("seq").is_none() && message["id"] == id).await
    }
}

#[test]
fn a_client_sees_how_things_stand_and_each_change() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(e2e::WorldOptions::default().with("metricsUpdateInterval", 1)).await?;
        let mut watcher = Watcher::connect(&world.daemon).await?;
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let message = watcher.next().await?;
            ensure!(message["seq"].as_u64().is_some() && message["timestamp"].is_string(), "{message}");
            let kind = message["type"].as_str().unwrap_or_default().to_owned();
            if !matches!(kind.as_str(), "event" | "warning") && !seen.contains(&kind) {
                seen.push(kind);
            }
        }
        seen.sort_unstable();
        ensure!(seen == ["metrics_update", "model_update", "status_update"], "{seen:?}");
        // A second one is not told of by the first.
        let status = world.daemon.status().await?;
        let mut second = Watcher::connect(&world.daemon).await?;
        let update = second.find("a status", |message| message["type"] == "status_update").await?;
        ensure!(update["data"]["tunnel"]["state"] == status["tunnel"]["state"], "{update}");
        let models = second.find("models", |message| message["type"] == "model_update").await?;
        ensure!(models["data"]["models"][0]["name"] == MODEL, "{models}");
        let begin = Instant::now();
        world.daemon.control().post("/api/tunnel/stop").send().await?;
        watcher
            .find("the stop", |message| {
                message["type"] == "status_update" && message["data"]["tunnel"]["target"] == "down"
            })
            .await?;
        measured("a change seen over /ws", format!("after {:.1} ms", begin.elapsed().as_secs_f64() * 1e3));
        watcher.find("the event", |message| message["type"] == "event").await?;
        Ok(())
    })
}

#[test]
fn the_original_commands_are_answered() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let mut watcher = Watcher::connect(&world.daemon).await?;
        let mut tray = Watcher::connect(&world.daemon).await?;
        ensure!(
            watcher.ask(json!({ "command": "PING", "id": 7 })).await? == json!({ "id": 7, "status": "pong" })
        );
        let status = watcher.ask(json!({ "command": "GET_CONNECTION_STATUS", "id": "a" })).await?;
        ensure!(status["status"]["local_ollama"]["state"] == "connected", "{status}");
        ensure!(status["status"]["cloud_proxy"]["state"] == "connected", "{status}");
        let auth = watcher.ask(json!({ "command": "AUTH_STATUS", "id": 1 })).await?;
        ensure!(auth["authenticated"] == true && auth["subject"] == "alice", "{auth}");
        // What is for the other clients reaches each of them, with what it carries and nothing else.
        for (command, told) in [
            (
                json!({ "command": "UPDATE_TOOLTIP", "id": 2, "text": "busy" }),
                json!({ "command": "UPDATE_TOOLTIP", "text": "busy" }),
            ),
            (
                json!({ "command": "UPDATE_ICON", "id": 2, "state": "partial" }),
                json!({ "command": "UPDATE_ICON", "state": "partial" }),
            ),
            (json!({ "command": "SHOW", "id": 2 }), json!({ "command": "SHOW" })),
            (
                json!({ "command": "SHOW", "id": 2, "from": "tray" }),
                json!({ "command": "SHOW", "from": "tray" }),
            ),
            (json!({ "command": "HIDE", "id": 2 }), json!({ "command": "HIDE" })),
            (json!({ "command": "SETTINGS", "id": 2 }), json!({ "command": "SETTINGS" })),
            (json!({ "command": "QUIT", "id": 2 }), json!({ "command": "QUIT" })),
        ] {
            let answer = watcher.ask(command.clone()).await?;
            ensure!(answer == json!({ "id": 2, "status": "success", "clients": 1 }), "{command}: {answer}");
            let heard = tray.find("a call", |message| message["command"] == told["command"]).await?;
            ensure!(heard == told, "{command}: {heard}");
        }
        for command in ["UPDATE_TOOLTIP", "UPDATE_ICON", "UPDATE_AUTH_TOKEN"] {
            let answer = watcher.ask(json!({ "command": command, "id": 2 })).await?;
            ensure!(answer["code"] == "bad_request" && answer["error"].is_string(), "{command}: {answer}");
        }
        for (text, code) in [("nonsense", None), (r#"{"command": "NO_SUCH"}"#, Some("unknown_command"))] {
            watcher.socket.send(Message::text(text)).await?;
            let answer = watcher.find("an error", |message| message["error"].is_string()).await?;
            ensure!(code.is_none_or(|code| answer["code"] == code), "{answer}");
        }
        // A request to a model, in one piece and in parts.
        let body =
            json!({ "model": MODEL, "stream": false, "messages": [{ "role": "user", "content": "hi" }] });
        let whole = watcher.ask(json!({ "command": "PROXY_REQUEST", "id": 3, "method": "POST", "path": "/api/chat", "data": body })).await?;
        ensure!(whole["result"]["done"] == true, "{whole}");
        let body =
            json!({ "model": MODEL, "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
        watcher.say(json!({ "command": "PROXY_REQUEST", "id": 4, "path": "/api/chat", "data": body, "stream": true })).await?;
        let mut text = String::new();
        loop {
            let message = watcher.find("a part", |message| message["id"] == 4).await?;
            if message["end"] == true {
                break;
            }
            text.push_str(message["chunk"].as_str().with_context(|| message.to_string())?);
        }
        ensure!(text.lines().last().is_some_and(|line| line.contains("\"done\":true")), "{text}");
        // Told of a change, once asked for.
        watcher.ask(json!({ "command": "SUBSCRIBE_LEGACY", "id": 5 })).await?;
        world.daemon.control().post("/api/tunnel/stop").send().await?;
        let told =
            watcher.find("the change", |message| message["command"] == "CONNECTION_STATUS_CHANGED").await?;
        ensure!(told["connection_type"] == "cloud_proxy", "{told}");
        ensure!(told["status"]["state"].is_string(), "{told}");
        Ok(())
    })
}

#[test]
fn a_token_that_comes_over_the_socket_is_dialled_with_and_forgotten_again() -> Result<()> {
    scenario(async |lab| {
        let relay = lab.relay(RelayOptions::default()).await?;
        let options = DaemonOptions { relay: Some(relay.url()), ..DaemonOptions::default() };
        let daemon = lab.daemon(options).await?;
        let mut watcher = Watcher::connect(&daemon).await?;
        let auth = watcher.ask(json!({ "command": "AUTH_STATUS", "id": 1 })).await?;
        ensure!(
            auth == json!({ "id": 1, "authenticated": false, "subject": null, "expires_at": null }),
            "{auth}"
        );
        let token = relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        let stored = watcher.ask(json!({ "command": "UPDATE_AUTH_TOKEN", "id": 2, "token": token })).await?;
        ensure!(stored == json!({ "id": 2, "status": "success" }), "{stored}");
        daemon.wait_for_tunnel("connected", LIMIT).await?;
        let auth = watcher.ask(json!({ "command": "AUTH_STATUS", "id": 3 })).await?;
        ensure!(auth["authenticated"] == true && auth["subject"] == "alice", "{auth}");
        let mut page = Watcher::page(&daemon).await?;
        let token = relay.token(&TokenRequest::new("mallory", Scope::Tunnel))?;
        let refused = page.ask(json!({ "command": "UPDATE_AUTH_TOKEN", "id": 9, "token": token })).await?;
        ensure!(refused["code"] == "page_change_refused", "{refused}");
        let removed = page.ask(json!({ "command": "UPDATE_AUTH_TOKEN", "id": 4, "token": "" })).await?;
        ensure!(removed == json!({ "id": 4, "status": "success" }), "{removed}");
        daemon.wait_for_tunnel("disconnected", LIMIT).await?;
        Ok(())
    })
}

#[test]
fn a_tray_takes_the_notifications_over_once_and_for_as_long_as_it_is_there() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let mut tray = Watcher::connect(&world.daemon).await?;
        for id in 1..=2 {
            let answer = tray.ask(json!({ "command": "TAKE_NOTIFICATIONS", "id": id })).await?;
            ensure!(answer == json!({ "id": id, "status": "success" }), "{answer}");
        }
        Ok(())
    })
}

#[test]
fn a_cancelled_proxy_request_stops_the_backend() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let mut watcher = Watcher::connect(&world.daemon).await?;
        // The scripted model makes as many tokens as it is asked for, slowly enough for any cancel.
        let body = json!({ "model": MODEL, "stream": true, "messages": [], "options": { "num_predict": 1_000_000 } });
        watcher.say(json!({ "command": "PROXY_REQUEST", "id": "long", "path": "/api/chat", "data": body, "stream": true })).await?;
        watcher.find("a part", |message| message["chunk"].is_string()).await?;
        let running = world.daemon.control().get("/api/requests").send().await?.json().await?;
        ensure!(running["requests"][0]["ingress"] == "local", "{running}");
        let begin = Instant::now();
        watcher.say(json!({ "command": "CANCEL", "id": "long" })).await?;
        let answer = watcher.find("the answer", |message| message.get("cancelled").is_some()).await?;
        ensure!(answer["cancelled"] == true, "{answer}");
        let idle = async || world.backend.requests().iter().all(|exchange| exchange.ended().is_some());
        eventually("the backend has stopped", Duration::from_secs(5), idle).await?;
        measured(
            "PROXY_REQUEST cancelled",
            format!("the backend stopped after {:.1} ms", begin.elapsed().as_secs_f64() * 1e3),
        );
        Ok(())
    })
}

#[test]
fn a_running_request_is_listed_and_can_be_cancelled() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        for (door, caller) in world.doors() {
            let script = Script::tokens(100_000, 50.0);
            let reply = crate::streams::open(&caller, e2e::Api::OllamaChat, &script).await?;
            let list = world.daemon.control().get("/api/requests").send().await?.json().await?;
            let request = &list["requests"][0];
            ensure!(
                request["model"] == MODEL
                    && request["connection"] == "ollama"
                    && request["state"] == "streaming",
                "{door}: {list}"
            );
            let id = request["id"].as_str().context("a request has an id")?;
            let cancelled = world
                .daemon
                .control()
                .call(http::Method::DELETE, &format!("/api/requests/{id}"))
                .send()
                .await?;
            ensure!(cancelled.status() == 200, "{door}: {}", cancelled.status());
            let ending = reply.ending().await;
            ensure!(ending.error.is_some(), "{door}: a cancelled answer looks whole");
            ensure!(ending.text().contains("cancelled") || door == "relay", "{door}: {}", ending.text());
            let gone = world
                .daemon
                .control()
                .call(http::Method::DELETE, &format!("/api/requests/{id}"))
                .send()
                .await?;
            ensure!(gone.status() == 404, "{door}: {}", gone.status());
        }
        Ok(())
    })
}

#[test]
fn a_client_that_does_not_read_costs_the_others_nothing() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world_with(e2e::WorldOptions::default().with("metricsUpdateInterval", 1)).await?;
        let deaf = Watcher::connect(&world.daemon).await?;
        let mut listening = Watcher::connect(&world.daemon).await?;
        let before = world.daemon.memory()?.rss;
        let mut tooltips = Watcher::connect(&world.daemon).await?;
        let text = "x".repeat(500);
        for number in 0..2000 {
            tooltips.ask(json!({ "command": "UPDATE_TOOLTIP", "id": number, "text": text })).await?;
            if number % 100 == 0 {
                listening.find("a tooltip", |message| message["command"] == "UPDATE_TOOLTIP").await?;
            }
        }
        let grown = world.daemon.memory()?.rss.saturating_sub(before);
        measured(
            "a /ws client that does not read, 2,000 messages",
            format!("the daemon grew by {} KiB", grown / 1024),
        );
        ensure!(grown < 2 << 20, "{grown} bytes");
        drop(deaf);
        Ok(())
    })
}
