//! The real tray process.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::Result;

use crate::{
    binaries,
    desktop::Desktop,
    process::{Memory, Process},
};

/// A running `tunnel-tray`. Dropping it kills it.
#[derive(Debug)]
pub struct Tray {
    process: Process,
    dir: PathBuf,
}

impl Tray {
    /// Starts a tray on this desktop that follows the daemon at this address; it does not wait for its icon.
    ///
    /// Terminals that it opens and systemd, which it may ask to start the daemon, are scripts that note their arguments;
    /// [`Self::ran`] tells them.
    pub fn start(dir: &Path, desktop: &Desktop, url: &str) -> Result<Self> {
        let mut command = Self::command(dir, url)?;
        command.env("DBUS_SESSION_BUS_ADDRESS", desktop.address());
        Self::spawn(dir, command)
    }

    /// Starts a tray where there is no session bus.
    pub fn start_without_bus(dir: &Path, url: &str) -> Result<Self> {
        let command = Self::command(dir, url)?;
        Self::spawn(dir, command)
    }

    /// The command with an environment of its own, for a scenario that adds to it.
    pub fn command(dir: &Path, url: &str) -> Result<Command> {
        let programs = dir.join("programs");
        let run = dir.join("run");
        for folder in [&programs, &run] {
            fs::create_dir_all(folder)?;
        }
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
        for name in ["terminal", "systemctl"] {
            let script = format!("#!/bin/sh\necho {name} \"$@\" >> '{}'\n", dir.join("ran").display());
            fs::write(programs.join(name), script)?;
            fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755))?;
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(std::iter::once(programs.clone()).chain(env::split_paths(&path)))?;
        let mut command = Command::new(binaries::tunnel_tray()?);
        command.env_clear().env("PATH", path).env("HOME", dir).env("XDG_RUNTIME_DIR", run);
        // Nobody connects to the display; without one it would open no terminal.
        command.env("TERMINAL", programs.join("terminal")).env("DISPLAY", ":none").env("LANG", "C.UTF-8");
        // A moment longer than it takes until it says that there is no panel.
        command.args(["--url", url, "--panel-wait", "7"]);
        Ok(command)
    }

    /// Starts what [`Self::command`] has prepared.
    pub fn spawn(dir: &Path, mut command: Command) -> Result<Self> {
        let process = Process::spawn("tunnel-tray", &mut command, &dir.join("tray.log"))?;
        Ok(Self { process, dir: dir.to_owned() })
    }

    /// The programs that it has run, a line each.
    pub fn ran(&self) -> String {
        fs::read_to_string(self.dir.join("ran")).unwrap_or_default()
    }

    /// Ends it at once.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit).await
    }

    /// Returns the exit status if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.process.exited()
    }

    /// What it has said.
    pub fn printed(&self) -> String {
        self.process.printed()
    }

    /// Its resident memory.
    pub fn memory(&self) -> Result<Memory> {
        self.process.memory()
    }

    /// CPU time that it has used since it started.
    pub fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }
}
