//! Where the real binaries are; builds them once a process.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, anyhow, ensure};

const PACKAGES: [&str; 4] = ["tunneld", "tunnel-relay", "tunnelctl", "tunnel-tray"];

/// Returns the path of the daemon, building the workspace's binaries if need be.
pub fn tunneld() -> Result<PathBuf> {
    binary("tunneld")
}

/// Returns the path of the relay, building the workspace's binaries if need be.
pub fn tunnel_relay() -> Result<PathBuf> {
    binary("tunnel-relay")
}

/// Returns the path of the command line, building the workspace's binaries if need be.
pub fn tunnelctl() -> Result<PathBuf> {
    binary("tunnelctl")
}

/// Returns the path of the tray, building the workspace's binaries if need be.
pub fn tunnel_tray() -> Result<PathBuf> {
    binary("tunnel-tray")
}

/// Returns the folder of this package: `tests/` of the workspace.
pub fn package_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the root of the workspace.
pub fn workspace_dir() -> &'static Path {
    package_dir().parent().unwrap_or(package_dir())
}

/// Tells whether the binaries under test are optimised, so that a figure may be held against its bar.
pub fn optimised() -> bool {
    env::var_os("E2E_PROFILE").as_deref() == Some(OsStr::new("release"))
}

fn binary(name: &str) -> Result<PathBuf> {
    static DIR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let dir = DIR.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    let path = dir.as_ref().map_err(|error| anyhow!("{error}"))?.join(name);
    ensure!(path.is_file(), "{} is missing", path.display());
    Ok(path)
}

fn find() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("E2E_BIN_DIR") {
        return Ok(dir.into());
    }
    let release = optimised();
    let target = target_dir()?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace_dir()).args(["build", "--quiet", "--bins", "--target-dir"]).arg(&target);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    if release {
        cargo.arg("--release");
    }
    let status = cargo.status().context("running cargo build")?;
    ensure!(status.success(), "cargo build of {} failed: {status}", PACKAGES.join(", "));
    Ok(target.join(if release { "release" } else { "debug" }))
}

/// The target folder that this process was built into: `<target>/<profile>[/deps]/<this>`.
fn target_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("finding this executable")?;
    let mut profile = exe.parent().context("an executable has a folder")?;
    if profile.file_name() == Some(OsStr::new("deps")) {
        profile = profile.parent().context("deps has a parent")?;
    }
    Ok(profile.parent().context("a profile folder has a parent")?.to_owned())
}
