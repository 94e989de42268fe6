//! Prepares what the bench measures and runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::apt::{self, Suite};
use crate::{run, talk, workspace};

/// Peers from crates.io: program, and what cargo is told to install. rathole's own lock file names crates that no
/// longer compile, and of its features only plain TCP takes part.
const CRATES: [(&str, &[&str]); 2] = [
    ("rathole", &["rathole", "--version", "0.5.0", "--no-default-features", "--features", "server,client"]),
    ("bore", &["bore-cli", "--version", "0.6.0", "--locked"]),
];
/// Peers from Debian: program and package.
const PACKAGES: [(&str, &str); 5] = [
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
];

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    talk::plan(
        "bench: ours beside its peers, in one run",
        &[
            "builds release binaries of ours and of the bench (some minutes the first time)",
            "installs below .cache/bench, if missing: rathole and bore-cli with cargo",
            "unpacks there, if missing: nginx, haproxy and OpenSSH from Debian; no service starts",
        ],
    );
    install()?;
    talk::step("building ours for release");
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release"]);
    for package in ["tunnel-relay", "tunneld", "tunnelctl", "bench"] {
        cargo.args(["--package", package]);
    }
    run::shown(&mut cargo)?;
    let mut bench = std::process::Command::new(workspace::target().join("release/bench"));
    bench.current_dir(workspace::root()).args(arguments);
    bench.arg("--installed").arg(folder()).arg("--out").arg(workspace::target().join("bench"));
    let status = bench.status().context("starting the bench")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn folder() -> PathBuf {
    workspace::cache("bench")
}

fn install() -> anyhow::Result<()> {
    run::require_room(&folder(), 1024)?;
    for (program, arguments) in CRATES {
        if folder().join("bin").join(program).exists() {
            continue;
        }
        talk::step(&format!("installing {program} from crates.io"));
        let build = folder().join("build");
        let mut cargo = workspace::cargo();
        cargo.arg("install").args(arguments).arg("--root").arg(folder()).env("CARGO_TARGET_DIR", &build);
        run::with_retries(program, || run::logged(&format!("installing {program}"), &mut cargo))?;
        apt::remove(&build)?;
    }
    let root = folder().join("root");
    let missing: Vec<_> =
        PACKAGES.into_iter().filter(|(program, _)| apt::find(Path::new("/"), program).is_none()).collect();
    if missing.iter().all(|(program, _)| root.join("run").join(program).exists()) {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    talk::step(&format!("unpacking from Debian: {}", packages.join(", ")));
    apt::remove(&root)?;
    fs::create_dir_all(&root)?;
    apt::unpack(Suite::Own, &packages, &root)?;
    for (program, package) in missing {
        apt::write_wrapper(&root, program).with_context(|| format!("unpacking {package}"))?;
    }
    Ok(())
}
