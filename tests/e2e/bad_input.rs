//! Bad input gets a clear sentence, and loses nothing.

use std::{
    convert::Infallible,
    fs,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use e2e::{
    Daemon, DaemonOptions, Lab, RelayOptions, Scope, TokenRequest, binaries, measured, poll_until, ports,
    scenario,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Runs `tunneld` on this config text until it ends by itself; returns what it printed.
async fn fails_to_start(lab: &mut Lab, config: &str) -> Result<String> {
    let dir = lab.folder("daemon", "tunneld.log")?;
    let file = dir.join("tunnel_config.json");
    fs::write(&file, config)?;
    let mut command = std::process::Command::new(binaries::tunneld()?);
    command.env_clear().env("HOME", &dir).env("XDG_RUNTIME_DIR", &dir);
    command.arg("--config").arg(&file).arg("--state-dir").arg(dir.join("state"));
    let mut process = e2e::Process::spawn("tunneld", &mut command, &dir.join("tunneld.log"))?;
    let status = process.wait(Duration::from_secs(10)).await?;
    ensure!(!status.success(), "it ended as if all were well: {}", process.printed());
    ensure!(fs::read_to_string(&file)? == config, "the user's file was changed");
    Ok(process.printed())
}

#[test]
fn a_config_with_five_faults_reports_five() -> Result<()> {
    scenario(async |lab| {
        let config =
            json!({"ollamaPort": 70_000, "cloudProxyUrl": "ftp://relay.example", "healthCheckInterval": 1,
            "logLevel": "LOUD", "gatewayPrt": 11_435})
            .to_string();
        let printed = fails_to_start(lab, &config).await?;
        let faults = [
            "Ollama port must be between 1 and 65535",
            "Cloud proxy URL must start with http:// or https://",
            "Health check interval must be between 5 and 300 seconds",
            "Log level must be one of: DEBUG, INFO, WARN, ERROR",
            "gatewayPort",
        ];
        for fault in faults {
            let lines = printed.lines().filter(|line| line.contains(fault)).count();
            ensure!(lines == 1, "{lines} lines say {fault:?}:\n{printed}");
        }
        for key in ["ollamaPort", "cloudProxyUrl", "healthCheckInterval", "logLevel", "gatewayPrt"] {
            ensure!(printed.contains(key), "{key} is not named:\n{printed}");
        }
        measured("config with five faults", "five lines");

        let printed = fails_to_start(lab, "{\"ollamaPort\": 11434,").await?;
        ensure!(printed.contains("tunnel_config.json"), "a file that is not JSON is named:\n{printed}");
        Ok(())
    })
}

#[test]
fn a_port_that_is_taken_is_named_with_its_owner() -> Result<()> {
    scenario(async |lab| {
        for key in ["apiServerPort", "gatewayPort"] {
            let taken = ports::free()?;
            let _owner = TcpListener::bind(("127.0.0.1", taken))?;
            let other = if key == "gatewayPort" { "apiServerPort" } else { "gatewayPort" };
            let mut config = json!({"enableLocalOllama": false, "enableCloudProxy": false});
            config[key] = taken.into();
            config[other] = ports::free()?.into();
            let printed = fails_to_start(lab, &config.to_string()).await?;
            ensure!(printed.contains(&taken.to_string()), "{key}: the port is not named:\n{printed}");
            let owner = std::process::id().to_string();
            ensure!(printed.contains(&owner), "{key}: the owner {owner} is not named:\n{printed}");
        }
        measured("port taken", "port and owner named");
        Ok(())
    })
}

/// Someone who listens where a relay should, and answers everything with the same.
struct NotARelay {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl NotARelay {
    async fn start(status: u16, headers: &[(&'static str, String)], body: &'static str) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let headers = headers.to_vec();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let headers = headers.clone();
                connections.spawn(async move {
                    let service = service_fn(move |_| {
                        let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
                        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
                        for (name, value) in &headers {
                            response.headers_mut().insert(*name, value.parse().expect("a plain value"));
                        }
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let serve = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // Whoever asked may leave when it likes.
                    drop(serve.await);
                });
            }
        });
        Ok(Self { addr, _tasks: tasks })
    }
}

/// Starts a daemon that cannot connect and returns what `tunnelctl status --json` says about its tunnel.
async fn complaint(lab: &mut Lab, relay: String, token: String) -> Result<(Value, String)> {
    let options =
        DaemonOptions { relay: Some(relay), token: Some(token.clone()), ..DaemonOptions::default() };
    let daemon = lab.daemon(options).await?;
    let tunnel = said(&daemon).await?;
    let sentence =
        tunnel["last_error"].as_str().map_or_else(|| tunnel["last_error"].to_string(), str::to_owned);
    ensure!(!daemon_prints(&daemon, &token)?, "the token is in the daemon's log");
    ensure!(!sentence.contains(&token), "the token is in the status");
    let human = daemon.tunnelctl(&["status"]).await?;
    let human = String::from_utf8_lossy(&human.stdout).into_owned();
    ensure!(human.contains(&sentence), "status for people says something else:\n{human}");
    Ok((tunnel, sentence))
}

async fn said(daemon: &Daemon) -> Result<Value> {
    poll_until("status says what is wrong", Duration::from_secs(15), async || {
        let output = daemon.tunnelctl(&["status", "--json"]).await.ok()?;
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let tunnel = status.get("tunnel")?.clone();
        // At the start the token is looked for first, which is no complaint.
        let complains = tunnel.get("last_error")?.as_str().is_some_and(|error| !error.contains("looked for"));
        complains.then_some(tunnel)
    })
    .await
}

fn daemon_prints(daemon: &Daemon, text: &str) -> Result<bool> {
    Ok(fs::read_to_string(daemon.dir().join("tunneld.log")).context("reading the log")?.contains(text))
}

#[test]
fn each_way_in_which_a_relay_cannot_be_used_has_its_own_sentence() -> Result<()> {
    scenario(async |lab| {
        let relay = lab.relay(RelayOptions::default()).await?;
        let foreign_relay = lab.relay(RelayOptions::default()).await?;
        let good = relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        let foreign = foreign_relay.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        let scope = relay.token(&TokenRequest::new("alice", Scope::Inference))?;
        let short = TokenRequest { ttl: Some("1s".to_owned()), ..TokenRequest::new("alice", Scope::Tunnel) };
        let expired = relay.token(&short)?;
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        let page =
            NotARelay::start(200, &[("content-type", "text/html".to_owned())], "<h1>hello</h1>").await?;
        // The same refusal of a token, from a server whose clock says something else than ours.
        let refusal = r#"{"type":"about:blank","title":"Unauthorized","status":401,"code":"token_expired"}"#;
        let headers = [
            ("content-type", "application/problem+json".to_owned()),
            ("date", "Mon, 02 Jan 2040 03:04:05 GMT".to_owned()),
        ];
        let other_clock = NotARelay::start(401, &headers, refusal).await?;
        let nobody = format!("http://127.0.0.1:{}", ports::free()?);

        let cases = [
            ("not a relay", format!("http://{}", page.addr), good.clone()),
            ("nobody there", nobody, good.clone()),
            ("expired", relay.url(), expired),
            ("foreign", relay.url(), foreign),
            ("scope", relay.url(), scope),
            ("clock", format!("http://{}", other_clock.addr), good),
        ];
        let mut sentences: Vec<(&str, String)> = Vec::new();
        for (what, url, token) in cases {
            let (tunnel, sentence) = complaint(lab, url, token).await.with_context(|| what.to_owned())?;
            let stops = matches!(what, "expired" | "foreign" | "scope" | "clock");
            ensure!((tunnel["state"] == "refused") == stops, "{what}: {tunnel}");
            measured("what tunnelctl status says", format!("{what}: {sentence}"));
            sentences.push((what, sentence));
        }
        for (index, (what, sentence)) in sentences.iter().enumerate() {
            let same = sentences[..index].iter().find(|(_, earlier)| earlier == sentence);
            ensure!(same.is_none(), "{what} and {same:?} are said in the same words");
        }
        let says = |what: &str, words: &[&str]| {
            let sentence =
                sentences.iter().find(|(name, _)| *name == what).map(|(_, sentence)| sentence.to_lowercase());
            let sentence = sentence.unwrap_or_default();
            ensure!(words.iter().any(|word| sentence.contains(word)), "{what}: {sentence}");
            Ok(())
        };
        says("foreign", &["another relay"])?;
        says("nobody there", &["could not reach", "cannot reach"])?;
        says("not a relay", &["no tunnel relay", "not a tunnel relay"])?;
        says("expired", &["expired"])?;
        says("scope", &["scope", "not for", "not allowed"])?;
        says("clock", &["clock", "time"])?;
        Ok(())
    })
}
