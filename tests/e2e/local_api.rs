//! The local API: the original's commands as they were printed, and how quickly it answers.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Caller, DaemonOptions, Latencies, Script, binaries, in_own_network, measured, ports, scenario,
    skipped, soak, soak_count,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::streams;

/// The diagnostic commands of the original system's manual, byte for byte.
const COMMANDS: [&str; 4] = [
    "curl http://localhost:8765/api/health",
    "curl http://localhost:8765/api/status | jq",
    "curl http://localhost:8765/api/metrics | jq",
    "curl -X POST http://localhost:8765/api/tunnel/restart",
];

#[test]
fn the_original_commands_work_as_they_were_printed() -> Result<()> {
    scenario(async |lab| {
        // Port 8765 may be somebody's on this machine, so the commands get a loopback of their own.
        let dir = lab.folder("daemon", "tunneld.log")?;
        fs::write(dir.join("tunnel_config.json"), "{}")?;
        let commands = COMMANDS
            .map(|command| format!("{command} > answer 2> noise || exit 3\ncat answer; echo; echo ----\n"))
            .concat();
        let script = format!(
            "cd {dir}\n{tunneld} --config tunnel_config.json --state-dir state > tunneld.log 2>&1 &\n\
             for i in $(seq 100); do curl -s -o probe http://localhost:8765/livez && break; sleep 0.1; done\n{commands}",
            dir = dir.display(),
            tunneld = binaries::tunneld()?.display(),
        );
        let home = dir.display().to_string();
        let environment = [("HOME", home.as_str()), ("XDG_RUNTIME_DIR", home.as_str())];
        let Some(output) = in_own_network(&script, &environment).await? else {
            return skipped("the original's commands", "this user may make no network namespace");
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let noise = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {text}{noise}", output.status);
        let answers = text.split("----").filter(|answer| !answer.trim().is_empty());
        let answers: Vec<Value> =
            answers.map(serde_json::from_str).collect::<Result<_, _>>().context(text.clone())?;
        let [health, status, metrics, restart] = answers.as_slice() else {
            anyhow::bail!("{} answers: {text}", answers.len())
        };
        for (answer, fields) in [
            (health, &["status", "uptime", "version", "timestamp"][..]),
            (status, &["tunnel_manager", "connections", "timestamp"][..]),
            (metrics, &["api_server", "tunnel_metrics", "timestamp"][..]),
            (restart, &["message", "status", "timestamp"][..]),
        ] {
            for field in fields {
                ensure!(answer.get(field).is_some(), "{field} is missing in {answer}");
            }
        }
        ensure!(restart["status"] == "success", "{restart}");
        measured("the original's four curl commands", "work as printed");
        Ok(())
    })
}

/// What is asked while streams run; each reads.
const QUICK: [&str; 12] = [
    "/api/health",
    "/api/status",
    "/api/connections",
    "/api/metrics",
    "/api/version",
    "/api/models",
    "/api/requests",
    "/api/usage?by=model",
    "/api/events?limit=20",
    "/api/warnings",
    "/api/config",
    "/api/auth",
];

#[test]
fn it_answers_quickly_while_streams_run() -> Result<()> {
    scenario(async |lab| {
        let world = lab.world().await?;
        let seconds: u32 = if soak() { 30 } else { 5 };
        let mut running = JoinSet::new();
        for number in 0..200_u64 {
            let caller = if number.is_multiple_of(2) { world.remote() } else { world.local() };
            running.spawn(async move {
                let script = Script::tokens(seconds * 10 + 20, 10.0).seed(number);
                let reply = streams::open(&caller, Api::OllamaChat, &script).await?;
                streams::exact(reply, Api::OllamaChat, &script).await
            });
        }
        let all_run = async || {
            world.backend.requests().iter().filter(|exchange| exchange.ended().is_none()).count() == 200
        };
        e2e::eventually("200 streams run", Duration::from_secs(20), all_run).await?;
        let (mut all, mut by_path) = (Latencies::default(), QUICK.map(|path| (path, Latencies::default())));
        let mut connection = KeepAlive::open(&world.daemon.control()).await?;
        let until = Instant::now() + Duration::from_secs(u64::from(seconds) - 1);
        while Instant::now() < until {
            for (path, latencies) in &mut by_path {
                let took = connection.get(path).await.with_context(|| format!("GET {path}"))?;
                latencies.record(took);
                all.record(took);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        let slowest = by_path.iter().max_by_key(|(_, latencies)| latencies.percentile(99.0));
        let slowest = slowest.map(|(path, latencies)| format!("{path}: {latencies}")).unwrap_or_default();
        measured("/api/* while 200 streams run", format!("{all}; the slowest {slowest}"));
        if binaries::optimised() && soak() {
            ensure!(all.percentile(99.0) < Duration::from_millis(10), "{all}");
        }
        Ok(())
    })
}

/// One connection that is asked again and again, so that no handshake is measured.
struct KeepAlive {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl KeepAlive {
    async fn open(caller: &Caller) -> Result<Self> {
        let stream = TcpStream::connect(caller.addr()).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host: caller.addr().to_string(), buffer: Vec::new() })
    }

    /// Asks and returns how long the whole answer took.
    async fn get(&mut self, path: &str) -> Result<Duration> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        let begin = Instant::now();
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            let n = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(n > 0, "closed");
            let text = String::from_utf8_lossy(&self.buffer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
            });
            if body.len() >= length.context("an answer has a length")? {
                return Ok(begin.elapsed());
            }
        }
    }
}

#[test]
fn it_is_ready_soon_after_the_start() -> Result<()> {
    scenario(async |lab| {
        let mut took = Latencies::default();
        for number in 0..soak_count(5, 50) {
            let dir = lab.folder("ready", "tunneld.log")?;
            let (api, gateway) = (ports::free()?, ports::free()?);
            let config = serde_json::json!({ "apiServerPort": api, "gatewayPort": gateway, "enableLocalOllama": false, "enableCloudProxy": false });
            fs::write(dir.join("tunnel_config.json"), config.to_string())?;
            let mut command = Command::new(binaries::tunneld()?);
            command
                .env_clear()
                .env("HOME", &dir)
                .env("XDG_RUNTIME_DIR", &dir)
                .arg("--config")
                .arg(dir.join("tunnel_config.json"));
            let begin = Instant::now();
            let mut process = e2e::Process::spawn("tunneld", &mut command, &dir.join("tunneld.log"))?;
            // An answer, so the new state database is part of it.
            let control = Caller::new(std::net::SocketAddr::from(([127, 0, 0, 1], api)));
            while !control.get("/livez").send().await.is_ok_and(|reply| reply.status() == 200) {
                ensure!(begin.elapsed() < Duration::from_secs(10), "run {number}: {}", process.printed());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            took.record(begin.elapsed());
            process.kill()?;
        }
        measured("from exec to the first answer, with a new database", &took);
        if binaries::optimised() && soak() {
            ensure!(took.percentile(99.0) <= Duration::from_millis(100), "{took}");
        }
        Ok(())
    })
}

#[test]
fn a_daemon_without_backends_says_what_is_missing() -> Result<()> {
    scenario(async |lab| {
        let daemon = lab.daemon(DaemonOptions::default()).await?;
        let reply = daemon.control().get("/readyz").send().await?;
        ensure!(reply.status() == 503);
        let body = reply.json().await?;
        ensure!(body["error"].as_str().is_some_and(|error| error.contains("start one")), "{body}");
        Ok(())
    })
}
