//! What checks the local API from outside: schemathesis, promtool, a browser.

use std::fs;
use std::process::Command;

use anyhow::Context;

use crate::apt::{self, Need};
use crate::clients::PYTHON;
use crate::{run, talk, workspace};

const PROMTOOL: Need = Need { program: "promtool", check: &["--version"], package: "prometheus" };
const CHROMIUM: Need = Need { program: "chromium", check: &["--version"], package: "chromium" };
/// An ACME authority. It has no option that only asks for its version.
const PEBBLE: Need = Need { program: "sh", check: &["-c", "command -v pebble"], package: "pebble" };
const CURL: Need = Need { program: "curl", check: &["--version"], package: "curl" };
const JQ: Need = Need { program: "jq", check: &["--version"], package: "jq" };
const IP: Need = Need { program: "ip", check: &["-V"], package: "iproute2" };
const NFT: Need = Need { program: "nft", check: &["--version"], package: "nftables" };
const UNSHARE: Need = Need { program: "unshare", check: &["--version"], package: "util-linux" };

/// Its version; the others are what it brings along.
const REQUIREMENTS: &str = include_str!("../clients/contract.txt");

/// Installs the programs, and schemathesis below `.cache/contract` unless this very version is there.
pub(crate) fn install() -> anyhow::Result<()> {
    apt::require(&[PROMTOOL, CHROMIUM, CURL, JQ, IP, NFT, UNSHARE, PEBBLE])?;
    let folder = workspace::cache("contract");
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == REQUIREMENTS) {
        return Ok(());
    }
    apt::require(&[PYTHON])?;
    // Environments hold absolute paths, so this one is built in its place; the stamp comes last.
    apt::remove(&folder)?;
    fs::create_dir_all(&folder)?;
    talk::step("installing schemathesis");
    let venv = folder.join("venv");
    run::logged("making a Python environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    run::with_retries("schemathesis", || {
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["install", "--disable-pip-version-check", "--requirement"]).arg(&requirements);
        run::logged("installing schemathesis", &mut pip)
    })
    .context("installing schemathesis")?;
    fs::write(stamp, REQUIREMENTS)?;
    talk::done("what checks the local API is there");
    Ok(())
}
