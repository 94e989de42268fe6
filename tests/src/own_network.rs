//! A network of its own: a loopback on which every port is free, and nothing else that could be reached.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};

use crate::namespaces::forbidden;

const LOOPBACK_UP: &str = "ip link set lo up";

/// Runs a shell script in a network namespace of its own, with this environment and nothing else of ours but `PATH`.
///
/// `None` where this user may make no namespace.
pub async fn in_own_network(script: &str, environment: &[(&str, &str)]) -> Result<Option<Output>> {
    let mut options = vec!["--net", "--pid", "--fork", "--kill-child"];
    if !rustix::process::geteuid().is_root() {
        options.push("--map-root-user");
    }
    let mut command = Command::new("unshare");
    command.args(&options).args(["sh", "-c", &format!("{LOOPBACK_UP}\n{script}")]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    command.envs(environment.iter().copied());
    let run = move || match forbidden(&options, LOOPBACK_UP) {
        Some(_) => Ok(None),
        None => command.output().map(Some).context("running unshare"),
    };
    tokio::task::spawn_blocking(run).await?
}
