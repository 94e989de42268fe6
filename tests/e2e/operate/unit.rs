//! The system unit, judged by systemd itself.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::{binaries, measured, skipped};

/// In tenths, as `--threshold` takes it. What is left is the network, and a root directory of its own.
const MOST_EXPOSURE: &str = "13";

#[test]
fn the_relays_unit_is_hardened() -> Result<()> {
    let unit = binaries::workspace_dir().join("systemd/tunnel-relay.service");
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--no-pager", "--offline=true", "--threshold", MOST_EXPOSURE]).arg(&unit);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return skipped("the relay's unit", &format!("systemd-analyze cannot be run: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let last = said.lines().rfind(|line| line.contains("exposure level")).context("a verdict")?;
    measured("systemd-analyze security, relay", last.rsplit(": ").next().unwrap_or(last));
    Ok(())
}
