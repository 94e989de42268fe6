//! Asking the user's systemd.

use std::collections::BTreeMap;
use std::io;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// Option of `systemctl show` that names the properties which are looked at.
pub(in crate::commands) const WANTED: &str = "--property=LoadState,ActiveState,SubState,UnitFileState,MainPID,\
     ActiveEnterTimestamp,StatusText,Result,ExecMainStatus,FragmentPath,NRestarts";

/// A user manager that answers.
#[derive(Debug)]
pub(super) struct Systemctl(());

/// What `systemctl show` tells of a unit.
#[derive(Debug, Default)]
pub(in crate::commands) struct Properties(BTreeMap<String, String>);

impl Systemctl {
    /// Makes sure that there is a user manager to talk to.
    pub(super) fn find() -> anyhow::Result<Self> {
        let systemctl = Self(());
        let output = match systemctl.output(&["show", "--property=Version"]) {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("there is no systemctl here, so no user services; run it yourself: tunneld")
            }
            Err(error) => return Err(error).context("running systemctl"),
        };
        if !output.status.success() {
            bail!(
                "systemd's user manager does not answer ({}); log in as this user rather than through su or \
                 sudo, or, on a machine without logins: loginctl enable-linger; or run it without systemd: tunneld",
                complaint(&output)
            );
        }
        Ok(systemctl)
    }

    /// Runs a verb; fails with what systemctl says.
    pub(super) fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.output(arguments).context("running systemctl")?;
        if !output.status.success() {
            bail!("systemctl --user {} failed: {}", arguments.join(" "), complaint(&output));
        }
        Ok(())
    }

    /// Returns what systemd knows of a unit; also of one that does not exist.
    pub(super) fn show(&self, unit: &str) -> anyhow::Result<Properties> {
        let output = self.output(&["show", unit, "--timestamp=unix", WANTED]).context("running systemctl")?;
        if !output.status.success() {
            bail!("systemctl --user show {unit} failed: {}", complaint(&output));
        }
        Ok(Properties::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    fn output(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut command = Command::new("systemctl");
        command.arg("--user").arg("--no-pager").args(arguments);
        // Plain text, whatever the terminal is.
        command.stdin(Stdio::null()).env("SYSTEMD_COLORS", "0").env("LC_ALL", "C.UTF-8").output()
    }
}

impl Properties {
    pub(in crate::commands) fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// Returns a property; empty when it has none.
    pub(in crate::commands) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(in crate::commands) fn exists(&self) -> bool {
        self.get("LoadState") != "not-found"
    }

    pub(in crate::commands) fn is_active(&self) -> bool {
        matches!(self.get("ActiveState"), "active" | "reloading" | "activating")
    }

    pub(in crate::commands) fn is_enabled(&self) -> bool {
        matches!(self.get("UnitFileState"), "enabled" | "enabled-runtime")
    }
}

/// What a program said last on standard error.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_line_by_line() {
        let text = "LoadState=loaded\nActiveState=active\nStatusText=2 = 1 + 1\nMainPID=7\nUnitFileState=\n";
        let properties = Properties::parse(text);
        assert!(properties.exists() && properties.is_active() && !properties.is_enabled());
        assert_eq!(properties.get("StatusText"), "2 = 1 + 1");
        assert_eq!(properties.get("Result"), "");
    }
}
