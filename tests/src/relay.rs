//! The real relay process.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    binaries,
    canary::keep_secret,
    client::Caller,
    process::{Memory, Process, describe},
    wait::poll_until,
};

const START_LIMIT: Duration = Duration::from_secs(20);

/// How a relay is started.
#[derive(Clone, Debug, Default)]
pub struct RelayOptions {
    /// `--grace`, in seconds. Default: the relay's own.
    pub grace_s: Option<u64>,
    /// Text of its `--config` file. Default: none.
    pub config: Option<String>,
    /// `--data-dir`, for relays that share an issuer. Default: a new one.
    pub data_dir: Option<PathBuf>,
    /// Further arguments of `serve`.
    pub args: Vec<String>,
    /// Further variables of its environment.
    pub env: Vec<(String, String)>,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A daemon dials with it.
    Tunnel,
    /// A caller asks with it.
    Inference,
    /// A caller asks with it, makes keys and takes them back.
    Account,
}

/// Which token to make.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// Whose.
    pub subject: String,
    /// For what.
    pub scope: Scope,
    /// For this device alone.
    pub device: Option<String>,
    /// With the limits of this tier.
    pub tier: Option<String>,
    /// How long it holds, as in `30d`. Default: the relay's own.
    pub ttl: Option<String>,
}

impl TokenRequest {
    /// A token of this subject and scope, for every device, with the relay's default lifetime.
    pub fn new(subject: &str, scope: Scope) -> Self {
        Self { subject: subject.to_owned(), scope, device: None, tier: None, ttl: None }
    }
}

/// A running `tunnel-relay`. Dropping it kills it.
#[derive(Debug)]
pub struct Relay {
    process: Process,
    dir: PathBuf,
    options: RelayOptions,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Relay {
    /// Starts a relay on free ports of 127.0.0.1 with its data, address file and log below `dir`, and waits until it
    /// listens.
    pub async fn start(dir: &Path, options: RelayOptions) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let process = spawn(dir, &options, any, any)?;
        let mut relay = Self { process, dir: dir.to_owned(), options, listen: any, admin: any };
        relay.learn_addresses().await?;
        Ok(relay)
    }

    /// Starts again, on the same ports and with the same data, after [`Self::kill`] or [`Self::terminate`].
    pub async fn restart(&mut self) -> Result<()> {
        ensure!(self.process.exited()?.is_some(), "the relay still runs");
        drop(fs::remove_file(self.dir.join(ADDR_FILE)));
        self.process = spawn(&self.dir, &self.options, self.listen, self.admin)?;
        self.learn_addresses().await
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Asks it to drain (SIGTERM) without waiting for the end.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Where callers and daemons come.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The relay as a base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its resident memory.
    pub fn memory(&self) -> Result<Memory> {
        self.process.memory()
    }

    /// How many descriptors it has open.
    pub fn process_fds(&self) -> Result<usize> {
        self.process.open_fds()
    }

    /// A caller on the public port, without a token.
    pub fn caller(&self) -> Caller {
        Caller::new(self.listen)
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> Result<String> {
        Caller::new(self.admin).get("/metrics").send().await?.text().await
    }

    /// Makes a token with the relay's own command.
    pub fn token(&self, request: &TokenRequest) -> Result<String> {
        let token = token(&self.data_dir(), request)?;
        keep_secret(&token);
        Ok(token)
    }

    /// Where its issuer's key is.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(&self.dir, &self.options)
    }

    /// Runs `tunnel-relay admin` or `tunnel-relay audit` with the data directory of this relay.
    pub async fn operator(&self, args: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new(binaries::tunnel_relay()?);
        command.args(args).arg("--data-dir").arg(self.data_dir()).stdin(std::process::Stdio::null());
        tokio::task::spawn_blocking(move || command.output().context("running tunnel-relay")).await?
    }

    async fn learn_addresses(&mut self) -> Result<()> {
        let file = self.dir.join(ADDR_FILE);
        let process = &mut self.process;
        let text = poll_until("the relay writes its addresses", START_LIMIT, async || {
            if let Ok(Some(status)) = process.exited() {
                return Some(Err(describe(status)));
            }
            fs::read_to_string(&file).ok().filter(|text| !text.is_empty()).map(Ok)
        })
        .await?;
        let text = match text {
            Ok(text) => text,
            Err(status) => bail!("the relay ended at start: {status}\n{}", self.process.printed()),
        };
        let addrs: Value =
            serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        let addr = |key: &str| -> Result<SocketAddr> {
            let text =
                addrs.get(key).and_then(Value::as_str).with_context(|| format!("no `{key}` in {addrs}"))?;
            Ok(text.parse()?)
        };
        self.listen = addr("listen")?;
        self.admin = addr("admin")?;
        Ok(())
    }
}

/// Makes a token from the issuer's key in this data directory.
fn token(data_dir: &Path, request: &TokenRequest) -> Result<String> {
    let scopes: &[&str] = match request.scope {
        Scope::Tunnel => &["--scope", "tunnel"],
        Scope::Inference => &["--scope", "inference"],
        Scope::Account => &["--scope", "inference", "--scope", "account"],
    };
    let mut command = Command::new(binaries::tunnel_relay()?);
    command
        .args(["token", "create", "--subject", &request.subject])
        .args(scopes)
        .arg("--data-dir")
        .arg(data_dir);
    let optional = [("--device", &request.device), ("--tier", &request.tier), ("--ttl", &request.ttl)];
    for (flag, value) in optional {
        if let Some(value) = value {
            command.args([flag, value]);
        }
    }
    let output = command.output().context("running tunnel-relay token create")?;
    ensure!(output.status.success(), "token create failed: {}", String::from_utf8_lossy(&output.stderr));
    let token = String::from_utf8(output.stdout)?;
    ensure!(token.split_whitespace().count() == 1, "token create printed more than the token: {token:?}");
    Ok(token.trim().to_owned())
}

const ADDR_FILE: &str = "addresses.json";

fn data_dir(dir: &Path, options: &RelayOptions) -> PathBuf {
    options.data_dir.clone().unwrap_or_else(|| dir.join("data"))
}

fn spawn(dir: &Path, options: &RelayOptions, listen: SocketAddr, admin: SocketAddr) -> Result<Process> {
    let mut command = Command::new(std::path::absolute(binaries::tunnel_relay()?)?);
    // What the developer's shell says about proxies and logs is no part of the test.
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).env("HOME", dir);
    command.envs(options.env.iter().map(|(name, value)| (name, value))).current_dir(dir);
    command.args([
        "serve",
        "--listen",
        &listen.to_string(),
        "--admin-listen",
        &admin.to_string(),
        "--data-dir",
    ]);
    command.arg(data_dir(dir, options)).arg("--addr-file").arg(dir.join(ADDR_FILE));
    if let Some(grace) = options.grace_s {
        command.args(["--grace", &grace.to_string()]);
    }
    if let Some(config) = &options.config {
        let file = dir.join("relay.toml");
        fs::write(&file, config)?;
        command.arg("--config").arg(file);
    }
    command.args(&options.args);
    Process::spawn("tunnel-relay", &mut command, &dir.join("relay.log"))
}
