//! The four situations in which each command line is tried.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use e2e::{
    Api, Daemon, DaemonOptions, FakeBackend, Masks, Relay, Reply, Scope, Script, ScriptedDoor, TokenRequest,
    poll_until,
};
use http::Method;
use serde_json::json;

/// How things stand when a command line is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Situation {
    Running,
    Absent,
    OtherServer,
    Refused,
}

impl Situation {
    pub(super) const ALL: [Self; 4] = [Self::Running, Self::Absent, Self::OtherServer, Self::Refused];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Running => "the daemon runs",
            Self::Absent => "the daemon does not run",
            Self::OtherServer => "another web server answers at --url",
            Self::Refused => "the daemon belongs to another user",
        }
    }
}

/// What all situations share.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) relay: Relay,
    pub(super) backend: FakeBackend,
    /// A model server that no configuration names.
    pub(super) server: FakeBackend,
    /// Of the daemon that all share.
    pub(super) token: String,
    /// Of all that have a daemon of their own, which come and go: the account of the shared one has it alone. One for all
    /// of them: each secret is looked for in everything that was written.
    pub(super) others_token: String,
    pub(super) absent: String,
    pub(super) other: ScriptedDoor,
    pub(super) refusing: ScriptedDoor,
    /// Stands before `PATH`: there is no systemd and no journal, whatever this machine has.
    pub(super) programs: PathBuf,
}

impl Stage {
    pub(super) async fn set(lab: &mut e2e::Lab) -> Result<Self> {
        let programs = lab.dir().join("programs");
        fs::create_dir_all(&programs)?;
        for (name, script) in [
            (
                "systemctl",
                "#!/bin/sh\necho 'Failed to connect to bus: No such file or directory' >&2\nexit 1\n",
            ),
            ("journalctl", "#!/bin/sh\necho 'No journal files were found.' >&2\nexit 1\n"),
            (
                "loginctl",
                "#!/bin/sh\necho 'Failed to connect to bus: No such file or directory' >&2\nexit 1\n",
            ),
        ] {
            fs::write(programs.join(name), script)?;
            fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755))?;
        }
        let relay = lab.relay(e2e::RelayOptions::default()).await?;
        Ok(Self {
            token: relay.token(&TokenRequest::new("alice", Scope::Tunnel))?,
            others_token: relay.token(&TokenRequest::new("bob", Scope::Tunnel))?,
            relay,
            backend: FakeBackend::ollama().await?,
            server: FakeBackend::openai("spare-model").await?,
            absent: format!("http://127.0.0.1:{}", e2e::ports::free()?),
            other: ScriptedDoor::other_web_server().await?,
            refusing: ScriptedDoor::refusing().await?,
            programs,
        })
    }

    /// A daemon whose tunnel is up, with a request that runs through it.
    pub(super) async fn daemon(&self, dir: &Path, device: &str, token: &str) -> Result<Running> {
        let spare = |form: &str| {
            json!({ "id": format!("spare-{form}"), "type": "openai", "url": self.server.url(), "enabled": form == "text",
                "priority": 5 })
        };
        let options = DaemonOptions {
            ollama: Some(self.backend.addr()),
            relay: Some(self.relay.url()),
            token: Some(token.to_owned()),
            device: device.to_owned(),
            ..DaemonOptions::default()
        };
        let daemon =
            Daemon::start(dir, options.with("connections", json!([spare("text"), spare("json")]))).await?;
        daemon.wait_for_tunnel("connected", super::LIMIT).await?;
        daemon.wait_for_backend("ollama", super::LIMIT).await?;
        daemon.wait_for_backend("spare-text", super::LIMIT).await?;
        // The first round trip of the tunnel is measured a moment after it is up.
        poll_until("the tunnel's round trip", super::LIMIT, async || {
            let status = daemon.status().await.ok()?;
            status.pointer("/connections/cloud/latency").filter(|latency| latency.is_number()).map(drop)
        })
        .await?;
        // Those above come in any order; this event is the last in every run.
        let change = json!({ "healthCheckInterval": 6 });
        let changed = daemon.control().call(Method::PATCH, "/api/config").json(&change).send().await?;
        ensure!(changed.status() == 200, "{}", changed.status());
        poll_until("the change is an event", super::LIMIT, async || {
            let events = daemon.control().get("/api/events?limit=1").send().await.ok()?.json().await.ok()?;
            (events.pointer("/events/0/kind")? == "config_reloaded").then_some(())
        })
        .await?;
        let script = Script::tokens(1_000_000, 20.0);
        let reply = crate::streams::open(&daemon.local(), Api::OllamaChat, &script).await?;
        let list = daemon.control().get("/api/requests").send().await?.json().await?;
        let request = list["requests"][0]["id"].as_str().context("a request runs")?.to_owned();
        Ok(Running { daemon, request, _reply: reply })
    }

    /// What is not the same the next time, for everything that is the same in all situations.
    pub(super) fn masks(&self) -> Masks {
        let mut masks = Masks::default();
        masks.add(env!("CARGO_PKG_VERSION"), "version");
        masks.add(self.relay.listen().port(), "relay port");
        masks.add(self.backend.addr().port(), "model server port");
        masks.add(self.server.addr().port(), "other model server port");
        for (url, name) in [
            (&self.absent, "nobody's port"),
            (&self.other.url(), "other port"),
            (&self.refusing.url(), "refusing port"),
        ] {
            masks.add(url.rsplit(':').next().unwrap_or_default(), name);
        }
        masks
    }
}

/// A daemon that runs, and what was done with it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) daemon: Daemon,
    /// The id of a request that goes on until the end.
    pub(super) request: String,
    _reply: Reply,
}

/// Writes the files that command lines name.
pub(super) fn write_files(folder: &Path, token: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    let original = json!({ "local_ollama": { "connection_type": "local_ollama", "host": "localhost", "port": 11434, "enabled": true } });
    for (name, text) in [
        ("valid.json", r#"{ "gatewayPort": 12000 }"#),
        ("faulty.json", r#"{ "gatewayPort": "many", "gatewayPrt": 1 }"#),
        ("connection_config.json", &original.to_string()),
        ("token", token),
    ] {
        fs::write(folder.join(name), text)?;
    }
    fs::set_permissions(folder.join("token"), fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// A command in a home of its own: no bus, no keyring, no proxy of the developer's, English and UTC.
pub(super) fn at_home(program: &Path, home: &Path, programs: &Path) -> Result<Command> {
    let run = home.join("run");
    fs::create_dir_all(&run)?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(programs.to_owned()).chain(std::env::split_paths(&path)))?;
    let mut command = Command::new(program);
    command.env_clear().env("PATH", path).env("HOME", home).env("XDG_RUNTIME_DIR", run);
    command.env("LANG", "C.UTF-8").env("TZ", "UTC").env("EDITOR", "true").current_dir(home);
    Ok(command)
}
