//! The official clients of Ollama and OpenAI, and an OpenID provider: the end-to-end tests run them as they are.

use std::fs;
use std::process::Command;

use anyhow::Context;

use crate::apt::{self, Need};
use crate::{run, talk, workspace};

/// Python, with what makes environments.
pub(crate) const PYTHON: Need =
    Need { program: "python3", check: &["-c", "import venv, ensurepip"], package: "python3-venv" };
const NODE: Need = Need { program: "node", check: &["--version"], package: "nodejs" };
const NPM: Need = Need { program: "npm", check: &["--version"], package: "npm" };

/// Their versions; the lock file pins what they bring along.
const REQUIREMENTS: &str = include_str!("../clients/requirements.txt");
const PACKAGE: &str = include_str!("../clients/package.json");
const PACKAGE_LOCK: &str = include_str!("../clients/package-lock.json");

/// Installs them below `.cache/clients`, unless these very versions are there.
pub(crate) fn install() -> anyhow::Result<()> {
    let folder = workspace::cache("clients");
    let stamp = folder.join("installed");
    let wanted = [REQUIREMENTS, PACKAGE, PACKAGE_LOCK].concat();
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    apt::require(&[PYTHON, NODE, NPM])?;
    run::require_room(&workspace::cache(""), 1024)?;
    // Environments hold absolute paths, so this one is built in its place; the stamp comes last.
    apt::remove(&folder)?;
    fs::create_dir_all(&folder)?;
    talk::step("installing the official Python clients: ollama, openai, langchain-ollama");
    let venv = folder.join("venv");
    run::logged("making a Python environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    run::with_retries("the Python clients", || {
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["install", "--disable-pip-version-check", "--requirement"]).arg(&requirements);
        run::logged("installing the Python clients", &mut pip)
    })
    .context("installing the Python clients")?;
    talk::step(
        "installing the official JavaScript clients and an OpenID provider: ollama, openai, oidc-provider",
    );
    fs::write(folder.join("package.json"), PACKAGE)?;
    fs::write(folder.join("package-lock.json"), PACKAGE_LOCK)?;
    run::with_retries("the JavaScript clients", || {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-fund", "--no-audit"]).current_dir(&folder);
        run::logged("installing the JavaScript clients", &mut npm)
    })
    .context("installing the JavaScript clients")?;
    fs::write(stamp, wanted)?;
    talk::done("the official clients are there");
    Ok(())
}
