//! What one scenario starts, and what is shown when it fails.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::{
    canary,
    client::Caller,
    daemon::{Daemon, DaemonOptions},
    fake_backend::{FakeBackend, FakeBackendOptions},
    flaky_link::FlakyLink,
    oidc_provider::{self, OidcProvider, ProviderOptions},
    relay::{Relay, RelayOptions, Scope, TokenRequest},
};

const CONNECT_LIMIT: Duration = Duration::from_secs(15);
const LOG_TAIL_LINES: usize = 60;

/// Runs a scenario on a runtime of its own; when it fails, prints the logs of the processes that it started.
pub fn scenario<F>(body: F) -> Result<()>
where
    F: AsyncFnOnce(&mut Lab) -> Result<()>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut lab = Lab::new()?;
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(body(&mut lab))));
    let outcome = outcome.map(|outcome| outcome.and_then(|()| canary::check(lab.dir())));
    // A client script may still sit in a blocking task: its process is gone, its thread is not waited for.
    runtime.shutdown_background();
    if !matches!(outcome, Ok(Ok(()))) {
        lab.show_logs();
    }
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Returns the seed of a random schedule (`E2E_SEED`, else a new one) and prints it.
#[expect(clippy::print_stdout, reason = "a schedule that found a fault can be repeated")]
pub fn seed(what: &str) -> u64 {
    let seed =
        std::env::var("E2E_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("seed: {what}: E2E_SEED={seed}");
    seed
}

/// The folder of one scenario and the logs in it.
#[derive(Debug)]
pub struct Lab {
    dir: TempDir,
    logs: Vec<PathBuf>,
    folders: usize,
}

impl Lab {
    fn new() -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix("e2e-").tempdir().context("making a folder for the scenario")?;
        Ok(Self { dir, logs: Vec::new(), folders: 0 })
    }

    /// The scenario's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a folder of its own for one process, and shows the log `<folder>/<log>` if the scenario fails.
    pub fn folder(&mut self, name: &str, log: &str) -> Result<PathBuf> {
        self.folders += 1;
        let folder = self.dir.path().join(format!("{}-{name}", self.folders));
        fs::create_dir_all(&folder)?;
        self.logs.push(folder.join(log));
        Ok(folder)
    }

    /// Starts a relay.
    pub async fn relay(&mut self, options: RelayOptions) -> Result<Relay> {
        Relay::start(&self.folder("relay", "relay.log")?, options).await
    }

    /// Starts an OpenID provider; none where it is not installed.
    pub fn provider(&mut self, options: ProviderOptions) -> Result<Option<OidcProvider>> {
        OidcProvider::start(&self.folder("provider", oidc_provider::LOG)?, options)
    }

    /// Starts a daemon.
    pub async fn daemon(&mut self, options: DaemonOptions) -> Result<Daemon> {
        Daemon::start(&self.folder("daemon", "tunneld.log")?, options).await
    }

    /// Starts relay, daemon and a scripted Ollama with the default options, and waits until all are connected.
    pub async fn world(&mut self) -> Result<World> {
        self.world_with(WorldOptions::default()).await
    }

    /// Starts relay, daemon and a scripted backend, and waits until all are connected.
    pub async fn world_with(&mut self, options: WorldOptions) -> Result<World> {
        let backend = FakeBackend::start(options.backend).await?;
        let relay = self.relay(options.relay).await?;
        let link = if options.link { Some(FlakyLink::start(relay.listen())?) } else { None };
        let tunnel_token = relay.token(&TokenRequest::new(SUBJECT, Scope::Tunnel))?;
        let caller_token = relay.token(&TokenRequest::new(SUBJECT, Scope::Inference))?;
        let daemon = self
            .daemon(DaemonOptions {
                ollama: Some(backend.addr()),
                relay: Some(link.as_ref().map_or_else(|| relay.url(), FlakyLink::url)),
                token: Some(tunnel_token.clone()),
                config: options.config,
                ..DaemonOptions::default()
            })
            .await?;
        daemon.wait_for_tunnel("connected", CONNECT_LIMIT).await?;
        daemon.wait_for_backend("ollama", CONNECT_LIMIT).await?;
        Ok(World { daemon, relay, backend, link, tunnel_token, caller_token })
    }

    #[expect(clippy::print_stderr, reason = "the logs explain the failure")]
    fn show_logs(&mut self) {
        for log in &self.logs {
            let bytes = fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            eprintln!("--- the last {} of {} lines of {}", tail.len(), lines.len(), log.display());
            for line in tail {
                eprintln!("{line}");
            }
        }
        if std::env::var_os("E2E_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("--- kept: {}", self.dir.path().display());
        }
    }
}

/// Whose tokens a [`World`] uses.
const SUBJECT: &str = "alice";

/// What a [`World`] is made of.
#[derive(Clone, Debug, Default)]
pub struct WorldOptions {
    /// The relay.
    pub relay: RelayOptions,
    /// The backend.
    pub backend: FakeBackendOptions,
    /// Further keys of the daemon's config.
    pub config: Map<String, Value>,
    /// Puts a [`FlakyLink`] between daemon and relay.
    pub link: bool,
}

impl WorldOptions {
    /// With a [`FlakyLink`] between daemon and relay.
    pub fn linked() -> Self {
        Self { link: true, ..Self::default() }
    }

    /// Sets a key of the daemon's config.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config.insert(key.to_owned(), value.into());
        self
    }
}

/// A relay, a daemon with its tunnel up, and a scripted backend behind it.
#[derive(Debug)]
pub struct World {
    /// The daemon; declared first, so that it is the first to end.
    pub daemon: Daemon,
    /// The relay.
    pub relay: Relay,
    /// The backend.
    pub backend: FakeBackend,
    /// What lies between daemon and relay, if anything.
    pub link: Option<FlakyLink>,
    /// The token that the daemon dials with.
    pub tunnel_token: String,
    /// The token that callers ask the relay with.
    pub caller_token: String,
}

impl World {
    /// A caller on the relay, with a token.
    pub fn remote(&self) -> Caller {
        self.relay.caller().bearer(&self.caller_token)
    }

    /// A caller on the gateway.
    pub fn local(&self) -> Caller {
        self.daemon.local()
    }

    /// Both doors, with their names.
    pub fn doors(&self) -> [(&'static str, Caller); 2] {
        [("relay", self.remote()), ("gateway", self.local())]
    }

    /// The link, in a world that was made with one.
    pub fn link(&self) -> Result<&FlakyLink> {
        self.link.as_ref().context("this world has no flaky link")
    }
}
