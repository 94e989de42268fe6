//! A scripted daemon that keeps a configuration, and the real program that asks it.

mod script;
mod ws;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use serde_json::Value;
use tokio::runtime::Runtime;

pub(crate) use script::{OLLAMA, Script};

/// A daemon in a runtime of its own; ends when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    runtime: Runtime,
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Daemon {
    pub(crate) fn start(script: Script) -> Self {
        let script = Arc::new(Mutex::new(script));
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = router(&script);
        drop(runtime.spawn(async move { axum::serve(listener, router).await }));
        Self { runtime, address, script }
    }

    /// Also listens on a control socket, in the place of what is there.
    pub(crate) fn listen_at(&self, path: &Path) {
        // What was left there by a daemon that has ended.
        drop(std::fs::remove_file(path));
        let _guard = self.runtime.enter();
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let router = router(&self.script);
        drop(self.runtime.spawn(async move { axum::serve(listener, router).await }));
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = tunnelctl();
        command.arg("--url").arg(format!("http://{}", self.address)).args(line.split_whitespace());
        command
    }

    pub(crate) fn run(&self, line: &str) -> Told {
        Told::from(self.command(line).output().unwrap())
    }
}

fn router(script: &Arc<Mutex<Script>>) -> Router {
    Router::new()
        .route("/ws", axum::routing::get(ws::serve))
        .fallback(script::answer)
        .with_state(Arc::clone(script))
}

pub(crate) fn tunnelctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnelctl"));
    command.env_clear().env("LANG", "C.UTF-8");
    command
}

/// How the program has ended, and what it said.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Told {
    pub(crate) fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(value["schema"], "tunnelctl/v1", "{value}");
        value
    }
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}
