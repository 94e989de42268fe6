//! Model servers as processes of their own: killed, stopped, slowed, and started again on the same port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use e2e::{Caller, Lab, ModelServer, Process, REAL_MODEL, eventually, ports};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Longest wait for a server to have loaded its model.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Of each tenth of a second, how much a slowed server does not run.
const STOPPED: Duration = Duration::from_millis(80);
const RUNNING: Duration = Duration::from_millis(20);

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The real llama.cpp server with a small real model.
    LlamaCpp,
    /// The scripted server, which answers as a real Ollama was recorded to.
    Ollama,
}

impl Kind {
    fn connection_type(self) -> &'static str {
        match self {
            Self::LlamaCpp => "llamacpp",
            Self::Ollama => "ollama",
        }
    }
}

/// A server that has [`REAL_MODEL`].
#[derive(Debug)]
pub(crate) struct ServerProcess {
    id: &'static str,
    kind: Kind,
    port: u16,
    log: PathBuf,
    process: Process,
}

impl ServerProcess {
    /// Starts one; none if what it runs is not installed.
    pub(crate) async fn start(lab: &mut Lab, id: &'static str, kind: Kind) -> Result<Option<Self>> {
        if kind == Kind::LlamaCpp && !ModelServer::dir().join("start.sh").exists() {
            return Ok(None);
        }
        let (port, log) = (ports::free()?, lab.folder(id, "server.log")?.join("server.log"));
        let process = spawn(id, kind, port, &log)?;
        let server = Self { id, kind, port, log, process };
        server.wait_until_ready().await?;
        Ok(Some(server))
    }

    /// The id of its connection.
    pub(crate) fn id(&self) -> &'static str {
        self.id
    }

    /// Its entry in `connections`.
    pub(crate) fn connection(&self) -> Value {
        let (kind, url) = (self.kind.connection_type(), format!("http://{}", self.addr()));
        match self.kind {
            // As many as it has slots.
            Kind::LlamaCpp => json!({"id": self.id, "type": kind, "url": url, "maxConcurrent": 2}),
            Kind::Ollama => json!({"id": self.id, "type": kind, "url": url}),
        }
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again after [`Self::kill`]; returns when it could serve.
    pub(crate) async fn restart(&mut self) -> Result<Instant> {
        self.process = spawn(self.id, self.kind, self.port, &self.log)?;
        self.wait_until_ready().await?;
        Ok(Instant::now())
    }

    /// Stops it: its connections stay, the kernel even takes new ones, and nothing is answered.
    pub(crate) fn hang(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it run on after [`Self::hang`].
    pub(crate) fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Lets it run a fifth of the time, for so long.
    pub(crate) async fn slow(&self, length: Duration) {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.hang();
            tokio::time::sleep(STOPPED).await;
            self.resume();
            tokio::time::sleep(RUNNING).await;
        }
    }

    fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let caller = Caller::new(self.addr());
        eventually("the server has loaded its model", START_LIMIT, async || {
            caller.get("/health").send().await.is_ok_and(|reply| reply.status() == 200)
        })
        .await
        .with_context(|| format!("{}: {}", self.id, self.process.printed()))?;
        Ok(())
    }
}

fn spawn(id: &str, kind: Kind, port: u16, log: &std::path::Path) -> Result<Process> {
    let mut command = match kind {
        Kind::LlamaCpp => {
            let mut command = Command::new(ModelServer::dir().join("start.sh"));
            // One thread and a short context: several of them share two cores.
            command.args([&port.to_string(), "-t", "1", "-c", "1024"]);
            command
        }
        Kind::Ollama => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_scripted-server"));
            command.args([&port.to_string(), REAL_MODEL]);
            command
        }
    };
    Process::spawn(id, &mut command, log)
}
