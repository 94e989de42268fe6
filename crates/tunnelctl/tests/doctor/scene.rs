//! A home of its own for the program, a daemon that says what it is told to, and tools that do.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What the program sees of the world: nothing but this.
pub(super) struct Scene {
    directory: TempDir,
    daemon: Option<Daemon>,
    url: Option<String>,
    env: Vec<(String, String)>,
}

struct Daemon {
    _runtime: Runtime,
    address: SocketAddr,
}

impl Scene {
    /// A home without anything, and no daemon.
    pub(super) fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for folder in ["home", "run", "tools"] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        Self { directory, daemon: None, url: None, env: Vec::new() }
    }

    /// The same with a daemon that answers these: method and path, and the body. All others are 404.
    pub(super) fn with_daemon(answers: Vec<(&'static str, Value)>) -> Self {
        Self::serving(Router::new().fallback(move |request: Request| {
            let asked = format!("{} {}", request.method(), request.uri().path());
            let body = answers.iter().find(|(known, _)| *known == asked).map(|(_, body)| body.clone());
            async move { answer(body) }
        }))
    }

    /// The same with a web server in the daemon's place that is none.
    pub(super) fn with_stranger() -> Self {
        Self::serving(Router::new().fallback(|| async { "hi" }))
    }

    fn serving(router: Router) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        drop(runtime.spawn(async move { axum::serve(listener, router).await }));
        Self { daemon: Some(Daemon { _runtime: runtime, address }), ..Self::bare() }
    }

    /// Returns where the program asks.
    pub(super) fn url(&self) -> String {
        match (&self.url, &self.daemon) {
            (Some(url), _) => url.clone(),
            (None, Some(daemon)) => format!("http://{}", daemon.address),
            (None, None) => format!("unix://{}", self.path("run/none.sock").display()),
        }
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Writes a file, with the folders above it.
    pub(super) fn file(self, below: &str, text: &str) -> Self {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Makes a program of a shell's script.
    pub(super) fn tool(self, name: &str, script: &str) -> Self {
        let scene = self.file(&format!("tools/{name}"), &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(scene.path(&format!("tools/{name}")), fs::Permissions::from_mode(0o700)).unwrap();
        scene
    }

    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the program ask at another place.
    pub(super) fn at(self, url: String) -> Self {
        Self { url: Some(url), ..self }
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunnelctl"));
        command.env_clear().env("LANG", "C.UTF-8").current_dir(self.directory.path());
        command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("run"));
        // Only what the scene has: the real systemctl knows of the real session.
        command.env("PATH", self.path("tools")).envs(self.env.iter().cloned());
        command.arg("--url").arg(self.url()).args(arguments);
        command
    }

    /// Returns the exit code, standard output and standard error.
    pub(super) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        parts(&self.command(arguments).output().unwrap())
    }
}

pub(super) fn parts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn answer(body: Option<Value>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert("tunneld-version", env!("CARGO_PKG_VERSION").parse().unwrap());
    match body {
        // A page rather than an object.
        Some(Value::String(page)) => (headers, page).into_response(),
        Some(body) => (headers, Json(body)).into_response(),
        None => {
            let refusal =
                json!({ "error": "there is no such path", "code": "not_found", "status_code": 404 });
            (StatusCode::NOT_FOUND, headers, Json(refusal)).into_response()
        }
    }
}

/// The answers that each daemon has.
pub(super) fn version() -> (&'static str, Value) {
    let version = json!({ "tunnel_manager": env!("CARGO_PKG_VERSION"), "api_version": "1.0" });
    ("GET /api/version", version)
}

/// A port that nobody listens on.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Writes a configuration whose ports belong to nobody, but for what `more` says.
pub(super) fn config(more: &Value) -> String {
    let mut config = json!({
        "apiServerPort": free_port(), "gatewayPort": free_port(), "ollamaPort": free_port(),
        "ollamaHost": "127.0.0.1",
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config.to_string()
}

/// Where the configuration file is in a scene.
pub(super) const CONFIG: &str = "home/.config/cloudtolocalllm/tunnel_config.json";
/// Where the log file is in a scene.
pub(super) const LOG: &str = "home/.local/state/cloudtolocalllm/tunneld.log";

pub(super) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
