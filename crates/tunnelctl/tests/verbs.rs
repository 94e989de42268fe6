//! The real program against a scripted daemon.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A scripted daemon in a runtime of its own; ends when dropped.
struct Daemon {
    _runtime: Runtime,
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Daemon {
    /// `statuses` are answered one after the other, the last one for ever.
    fn start(statuses: Vec<Value>) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let next_status = move |State(asked): State<Arc<AtomicUsize>>| async move {
            let turn = asked.fetch_add(1, Ordering::SeqCst);
            answer(StatusCode::OK, statuses[turn.min(statuses.len() - 1)].clone())
        };
        let router = Router::new()
            .route("/api/status", get(next_status))
            .route("/api/version", get(|| async { answer(StatusCode::OK, version()) }))
            .route(
                "/readyz",
                get(|| async { answer(StatusCode::SERVICE_UNAVAILABLE, refusal(503, "not_ready")) }),
            )
            .route("/api/tunnel/stop", post(|| async { answer(StatusCode::OK, done()) }))
            .route("/api/tunnel/restart", post(restarted))
            .route("/api/config/import", post(imported))
            .with_state(Arc::clone(&asked));
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        drop(runtime.spawn(async move { axum::serve(listener, router).await }));
        Self { _runtime: runtime, address, asked }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tunnelctl();
        command.arg("--url").arg(format!("http://{}", self.address)).args(arguments);
        command
    }
}

fn tunnelctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnelctl"));
    command.env_clear().env("LANG", "C.UTF-8");
    command
}

fn answer(status: StatusCode, body: Value) -> impl IntoResponse + use<> {
    let mut headers = HeaderMap::new();
    headers.insert("tunneld-version", env!("CARGO_PKG_VERSION").parse().unwrap());
    (status, headers, Json(body))
}

async fn restarted(RawQuery(query): RawQuery) -> impl IntoResponse {
    match query {
        Some(_wait) => answer(StatusCode::GATEWAY_TIMEOUT, refusal(504, "timeout")),
        None => answer(StatusCode::CONFLICT, refusal(409, "off")),
    }
}

async fn imported(Json(file): Json<Value>) -> impl IntoResponse {
    if file["local_ollama"]["port"] == 0 {
        return answer(StatusCode::UNPROCESSABLE_ENTITY, refusal(422, "config_invalid"));
    }
    let token_stored = file["cloud_proxy"]["auth_token"].is_string();
    answer(
        StatusCode::OK,
        json!({ "imported": ["ollamaPort"], "token_stored": token_stored, "file": "/c.json" }),
    )
}

fn refusal(status: u16, code: &str) -> Value {
    json!({ "error": "it cannot be done", "code": code, "status_code": status })
}

fn done() -> Value {
    json!({ "message": "the tunnel is being opened", "status": "success" })
}

fn version() -> Value {
    json!({ "tunnel_manager": "9.9.9", "api_version": "1.0", "build": "b", "git": "g", "protocol": "p" })
}

fn status(state: &str) -> Value {
    json!({
        "tunnel_manager": { "running": true, "error": "the token has expired" },
        "tunnel": { "target": "up", "state": state, "relay": "https://relay.example.org",
                    "last_error": "the token has expired" },
        "warnings": [{ "code": "token_expired", "severity": "error", "message": "the token has expired",
                       "next_step": "make a new token" }],
    })
}

/// Returns the exit code, standard output and standard error.
fn parts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn status_is_for_people_and_plain_when_piped() {
    let (code, stdout, stderr) = parts(&Daemon::start(vec![status("refused")]).run(&["status"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("FAIL Tunnel refused\n"), "{stdout}");
    assert!(
        stdout.contains("  error      the token has expired\n  next step  make a new token\n"),
        "{stdout}"
    );
    assert!(stdout.is_ascii(), "{stdout}");
}

#[test]
fn colour_can_be_forced() {
    let (_, stdout, _) = parts(&Daemon::start(vec![status("refused")]).run(&["--color", "always", "status"]));
    assert!(stdout.contains("\x1b[31mFAIL\x1b[0m"), "{stdout}");
}

#[test]
fn status_as_json_keeps_what_a_newer_daemon_adds() {
    let mut newer = status("hibernating");
    newer["horoscope"] = json!("good");
    let (code, stdout, _) = parts(&Daemon::start(vec![newer]).run(&["status", "--json"]));
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, 0);
    assert_eq!(json["schema"], "tunnelctl/v1");
    assert_eq!(json["tunnel"]["state"], "hibernating");
    assert_eq!(json["horoscope"], "good");
    assert_eq!(stdout.lines().count(), 1);
}

#[test]
fn orders_tell_what_was_done_and_refusals_have_their_code() {
    let daemon = Daemon::start(vec![status("connected")]);
    assert_eq!(parts(&daemon.run(&["stop"])), (0, "the tunnel is being opened\n".to_owned(), String::new()));
    assert_eq!(parts(&daemon.run(&["stop", "-q"])), (0, String::new(), String::new()));
    let (_, stdout, _) = parts(&daemon.run(&["stop", "--wait", "5", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["status"], "success");
    let refused = "error: it cannot be done\n".to_owned();
    assert_eq!(parts(&daemon.run(&["restart", "--wait", "5"])), (8, String::new(), refused.clone()));
    assert_eq!(parts(&daemon.run(&["restart"])), (9, String::new(), refused));
}

#[test]
fn wait_ends_when_the_tunnel_is_up() {
    let daemon = Daemon::start(["connecting", "backoff", "connected"].map(status).to_vec());
    let (code, stdout, stderr) = parts(&daemon.run(&["wait", "--for", "tunnel", "--timeout", "60s"]));
    assert_eq!((code, stdout.as_str()), (0, "the tunnel is up\n"));
    assert!(stderr.starts_with("waiting: the tunnel is connecting"), "{stderr}");
    assert_eq!(daemon.asked.load(Ordering::SeqCst), 3);
}

#[test]
fn wait_does_not_wait_for_what_cannot_come() {
    let daemon = Daemon::start(vec![status("refused")]);
    let (code, stdout, stderr) = parts(&daemon.run(&["wait", "--for", "tunnel"]));
    assert_eq!((code, stdout.as_str()), (4, ""));
    assert_eq!(stderr, "error: the tunnel is refused: the token has expired; make a new token\n");
}

#[test]
fn wait_gives_up_after_its_time() {
    let daemon = Daemon::start(vec![status("backoff")]);
    let (code, _, stderr) = parts(&daemon.run(&["-q", "wait", "--for", "tunnel", "--timeout", "300ms"]));
    assert_eq!(code, 8);
    assert!(stderr.starts_with("error: not reached within 0.3 s: the tunnel is backoff"), "{stderr}");
    let (code, stdout, _) = parts(&daemon.run(&["wait", "--for", "ready", "--timeout", "0", "--json"]));
    assert_eq!(code, 4);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["reached"], false);
}

#[test]
fn missing_daemon_has_its_own_code_and_next_step() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("unix://{}/api.sock", directory.path().display());
    for verb in [&["status"][..], &["status", "-w"], &["start"], &["wait", "--timeout", "0"], &["version"]] {
        let output = tunnelctl().arg("--url").arg(&url).args(verb).output().unwrap();
        let (code, _, stderr) = parts(&output);
        assert_eq!(code, 3, "{verb:?}");
        assert!(stderr.contains("start it with: tunnelctl start"), "{stderr}");
    }
}

#[test]
fn version_shows_both() {
    let (code, stdout, _) = parts(&Daemon::start(vec![status("connected")]).run(&["version"]));
    assert_eq!(code, 0);
    assert!(stdout.contains(concat!("tunnelctl ", env!("CARGO_PKG_VERSION"))), "{stdout}");
    assert!(stdout.contains("tunneld   9.9.9"), "{stdout}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for line in
        ["", "fly", "status --url https://x", "wait --for rain", "wait --timeout soon", "start --wait -1"]
    {
        let output = tunnelctl().args(line.split_whitespace()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
    }
}

/// The socket is looked for where the daemon puts it.
#[test]
fn daemon_is_found_by_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("tunneld")).unwrap();
    let path = directory.path().join("tunneld/api.sock");
    let runtime = Runtime::new().unwrap();
    let _guard = runtime.enter();
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    let router =
        Router::new().route("/api/status", get(|| async { answer(StatusCode::OK, status("connected")) }));
    drop(runtime.spawn(async move { axum::serve(listener, router).await }));
    let output = tunnelctl().env("XDG_RUNTIME_DIR", directory.path()).arg("status").output().unwrap();
    let (code, stdout, stderr) = parts(&output);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    runtime.shutdown_timeout(Duration::from_secs(1));
}

#[test]
fn file_is_checked_without_a_daemon() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("c.json");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        parts(&tunnelctl().args(["config", "check"]).arg(&path).output().unwrap())
    };
    let (code, stdout, _) = check("{ \"ollamaPort\": 1 }");
    assert_eq!((code, stdout), (0, format!("{} is fine\n", path.display())));
    let (code, stdout, _) = check("{ \"ollamaPort\": 0, \"logLevel\": \"LOUD\" }");
    assert_eq!((code, stdout.lines().count()), (7, 2), "{stdout}");
    assert!(stdout.starts_with("ollamaPort: Ollama port must be between 1 and 65535"), "{stdout}");
    let (code, stdout, _) = check("{ \"ollamaPort\": ");
    assert!(code == 7 && stdout.contains("line 1"), "{code} {stdout}");
    let missing = tunnelctl().args(["config", "check", "/nonexistent"]).output().unwrap();
    assert_eq!(parts(&missing).0, 6);
    // Without a name it is the file that the daemon would read.
    let mut usual = tunnelctl();
    usual.args(["config", "check", "--json"]).env("TUNNELD_CONFIG", &path);
    let (code, stdout, _) = parts(&usual.output().unwrap());
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &told["valid"], &told["faults"][0]["key"]), (7, &json!(false), &json!(path)));
}

#[test]
fn original_file_is_handed_to_the_daemon_and_its_token_is_not_shown() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("connection_config.json");
    let daemon = Daemon::start(vec![status("connected")]);
    let import = |text: &str| {
        std::fs::write(&path, text).unwrap();
        parts(&daemon.command(&["config", "import"]).arg(&path).output().unwrap())
    };
    let (code, stdout, stderr) = import("{ \"cloud_proxy\": { \"auth_token\": \"canary-7f3a\" } }");
    assert_eq!((code, stdout.lines().count()), (0, 2), "{stdout}{stderr}");
    assert!(
        stdout.contains("ollamaPort") && stdout.contains("delete") && !stdout.contains("canary"),
        "{stdout}"
    );
    assert_eq!(import("{ \"local_ollama\": { \"port\": 0 } }").0, 7);
    let (code, _, stderr) = import("{ \"auth_token\": canary-7f3a }");
    assert!(code == 1 && !stderr.contains("canary"), "{stderr}");
}

/// Runs `tunnelctl service VERB` with nothing but `programs` (name and script) to be found.
fn service(verb: &str, programs: &[(&str, &str)]) -> (i32, String, String) {
    use std::os::unix::fs::PermissionsExt;

    let home = tempfile::tempdir().unwrap();
    for (name, script) in programs {
        let path = home.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = tunnelctl();
    command.env("PATH", home.path()).env("HOME", home.path()).args(["service", verb]);
    let parts = parts(&command.output().unwrap());
    assert!(!home.path().join(".config").exists(), "something was written");
    parts
}

#[test]
fn service_without_systemd_says_so_and_changes_nothing() {
    for verb in ["install", "uninstall", "status"] {
        let (code, _, stderr) = service(verb, &[]);
        assert_eq!(code, 1, "{verb}: {stderr}");
        assert!(stderr.contains("there is no systemctl here"), "{verb}: {stderr}");
    }
}

#[test]
fn service_without_a_user_manager_repeats_why_and_says_what_to_do() {
    let systemctl = ("systemctl", "echo 'Failed to connect to bus: No medium found' >&2; exit 1");
    for verb in ["install", "uninstall", "status"] {
        let (code, _, stderr) = service(verb, &[systemctl]);
        assert_eq!(code, 1, "{verb}: {stderr}");
        for part in ["No medium found", "loginctl enable-linger"] {
            assert!(stderr.contains(part), "{verb}: {part}: {stderr}");
        }
    }
}
