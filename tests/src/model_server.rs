//! The real model server, where it is installed.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    binaries,
    client::Caller,
    ports,
    process::{Process, describe},
    wait::poll_until,
};

/// The name that the real model is served under; no scripted backend has it.
pub const REAL_MODEL: &str = "smollm2:135m";

const START_LIMIT: Duration = Duration::from_secs(60);

/// A running llama.cpp server with a small real model; it speaks OpenAI's API alone.
#[derive(Debug)]
pub struct ModelServer {
    process: Process,
    addr: SocketAddr,
}

impl ModelServer {
    /// Tells where the server is looked for: `TUNNEL_MODEL_DIR`, else `.cache/model-server` of the workspace.
    pub fn dir() -> PathBuf {
        let default = || binaries::workspace_dir().join(".cache").join("model-server");
        env::var_os("TUNNEL_MODEL_DIR").map_or_else(default, PathBuf::from)
    }

    /// Runs its `start.sh PORT` with the log below `dir`; none if it is not installed.
    pub async fn start(dir: &Path) -> Result<Option<Self>> {
        let start = Self::dir().join("start.sh");
        if !start.exists() {
            return Ok(None);
        }
        let port = ports::free()?;
        let mut command = Command::new(start);
        // One thread: two keep both cores of a small machine busy, and what is timed is the path, not the model.
        command.args([&port.to_string(), "-t", "1"]);
        let mut process = Process::spawn("llama-server", &mut command, &dir.join("llama.log"))?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let caller = Caller::new(addr);
        let ended = poll_until("the model is loaded", START_LIMIT, async || {
            if let Ok(Some(status)) = process.exited() {
                return Some(Some(describe(status)));
            }
            caller.get("/health").send().await.is_ok_and(|reply| reply.status() == 200).then_some(None)
        })
        .await?;
        if let Some(status) = ended {
            bail!("llama-server ended at start: {status}\n{}", process.printed());
        }
        Ok(Some(Self { process, addr }))
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as a base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
