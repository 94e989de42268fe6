//! The real daemon process, and the command line that asks it.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

use crate::{
    binaries,
    client::Caller,
    ports,
    process::{Memory, Process, describe},
    wait::poll_until,
};

const START_LIMIT: Duration = Duration::from_secs(20);

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The backend `ollama`; none switches it off.
    pub ollama: Option<SocketAddr>,
    /// The relay's base URL; none leaves the key out.
    pub relay: Option<String>,
    /// The token that it dials with.
    pub token: Option<String>,
    /// Its device name. Default: `desk`.
    pub device: String,
    /// Further keys of the config file, over the others.
    pub config: Map<String, Value>,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self { ollama: None, relay: None, token: None, device: "desk".to_owned(), config: Map::new() }
    }
}

impl DaemonOptions {
    /// Sets a key of the config file.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config.insert(key.to_owned(), value.into());
        self
    }
}

/// A running `tunneld`. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    dir: PathBuf,
    api: SocketAddr,
    gateway: SocketAddr,
}

impl Daemon {
    /// Writes a config with free ports below `dir`, starts the daemon and waits until its control port answers.
    pub async fn start(dir: &Path, options: DaemonOptions) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (api, gateway) = (ports::free()?, ports::free()?);
        write_config(dir, &options, api, gateway)?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut daemon =
            Self { process: spawn(dir)?, dir: dir.to_owned(), api: at(api), gateway: at(gateway) };
        daemon.wait_until_it_answers().await?;
        Ok(daemon)
    }

    /// Starts again with the same config and state, after [`Self::kill`] or [`Self::terminate`].
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.exited()?.is_none() {
            bail!("the daemon still runs");
        }
        self.process = spawn(&self.dir)?;
        self.wait_until_it_answers().await
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Asks it to drain (SIGTERM) without waiting for the end.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its resident memory.
    pub fn memory(&self) -> Result<Memory> {
        self.process.memory()
    }

    /// CPU time that it has used since it started.
    pub fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    /// The folder that holds its config, state and log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its config file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join(CONFIG_FILE)
    }

    /// Where its gateway listens.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// Where its control port listens.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// A caller on the gateway.
    pub fn local(&self) -> Caller {
        Caller::new(self.gateway)
    }

    /// A caller on the control port.
    pub fn control(&self) -> Caller {
        Caller::new(self.api)
    }

    /// The body of `GET /api/status`.
    pub async fn status(&self) -> Result<Value> {
        self.control().get("/api/status").send().await?.json().await
    }

    /// The member `tunnel` of the status.
    pub async fn tunnel(&self) -> Result<Value> {
        Ok(self.status().await?.get("tunnel").cloned().unwrap_or_default())
    }

    /// Waits until the tunnel is in this state, and returns how long that took.
    pub async fn wait_for_tunnel(&self, state: &str, limit: Duration) -> Result<Duration> {
        let started = Instant::now();
        let mut last = Value::Null;
        let waited = poll_until("the tunnel's state", limit, async || {
            last = self.tunnel().await.unwrap_or_default();
            (last.get("state").and_then(Value::as_str) == Some(state)).then_some(())
        });
        waited.await.with_context(|| format!("waiting for the tunnel to be {state}; it is {last}"))?;
        Ok(started.elapsed())
    }

    /// Waits until the connection (backend) with this id is connected.
    pub async fn wait_for_backend(&self, id: &str, limit: Duration) -> Result<()> {
        poll_until(&format!("the backend {id} is connected"), limit, async || {
            let status = self.status().await.ok()?;
            let state = status.get("connections")?.get(id)?.get("state")?.as_str()?.to_owned();
            (state == "connected").then_some(())
        })
        .await
    }

    /// Runs `tunnelctl` against this daemon's control port and returns what it printed.
    pub async fn tunnelctl(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(binaries::tunnelctl()?);
        environment(&mut command, &self.dir);
        command.arg("--url").arg(format!("http://{}", self.api)).args(args);
        run(command).await
    }

    /// Runs `tunnelctl`, letting it find the daemon by the control socket.
    pub async fn tunnelctl_by_socket(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(binaries::tunnelctl()?);
        environment(&mut command, &self.dir);
        command.args(args);
        run(command).await
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let (control, process) = (Caller::new(self.api), &mut self.process);
        let ended = poll_until("the daemon's control port answers", START_LIMIT, async || {
            if let Ok(Some(status)) = process.exited() {
                return Some(Some(describe(status)));
            }
            control.get("/livez").send().await.is_ok_and(|reply| reply.status() == 200).then_some(None)
        })
        .await
        .with_context(|| format!("control port {}", self.api))?;
        match ended {
            None => Ok(()),
            Some(status) => bail!("the daemon ended at start: {status}\n{}", self.process.printed()),
        }
    }
}

/// Runs a short command without holding up the test's other tasks.
async fn run(mut command: Command) -> Result<Output> {
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    output.context("running tunnelctl")
}

/// Starts `tunneld` with whatever config lies in `dir`, for scenarios in which it is to fail.
pub(crate) fn spawn(dir: &Path) -> Result<Process> {
    let mut command = Command::new(binaries::tunneld()?);
    environment(&mut command, dir);
    command.arg("--config").arg(dir.join(CONFIG_FILE)).arg("--state-dir").arg(dir.join("state"));
    if dir.join(TOKEN_FILE).exists() {
        command.arg("--token-file").arg(dir.join(TOKEN_FILE));
    }
    Process::spawn("tunneld", &mut command, &dir.join("tunneld.log"))
}

const CONFIG_FILE: &str = "tunnel_config.json";
const TOKEN_FILE: &str = "token";

/// A home of its own: no bus, no journal, no keyring, no proxy of the developer's.
fn environment(command: &mut Command, dir: &Path) {
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    command.env("HOME", dir).env("XDG_RUNTIME_DIR", dir.join("run"));
}

fn write_config(dir: &Path, options: &DaemonOptions, api: u16, gateway: u16) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let run = dir.join("run");
    fs::create_dir_all(&run)?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
    let mut config = json!({"apiServerPort": api, "gatewayPort": gateway, "deviceName": options.device,
        "healthCheckInterval": 5, "showNotifications": false});
    let keys = config.as_object_mut().context("the config is an object")?;
    match options.ollama {
        Some(addr) => {
            keys.insert("ollamaHost".to_owned(), addr.ip().to_string().into());
            keys.insert("ollamaPort".to_owned(), addr.port().into());
        }
        None => {
            keys.insert("enableLocalOllama".to_owned(), false.into());
        }
    }
    match &options.relay {
        Some(relay) => {
            keys.insert("cloudProxyUrl".to_owned(), relay.clone().into());
        }
        None => {
            keys.insert("enableCloudProxy".to_owned(), false.into());
        }
    }
    keys.extend(options.config.clone());
    fs::write(dir.join(CONFIG_FILE), serde_json::to_vec_pretty(&config)?)?;
    if let Some(token) = &options.token {
        fs::write(dir.join(TOKEN_FILE), token)?;
        fs::set_permissions(dir.join(TOKEN_FILE), fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}
