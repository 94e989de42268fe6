//! The verbs that show and change texts, the real program against a scripted daemon.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// What the scripted daemon knows, and what it was told.
#[derive(Default)]
struct Script {
    config: Value,
    models: Value,
    connections: Value,
    auth: Value,
    /// How the tunnel stands; connected where nothing is said.
    tunnel: Value,
    /// How it stands once a token is stored.
    dialled: Value,
    /// The file that it says it has.
    file: Option<PathBuf>,
    /// What a changed file is refused with.
    refusal: Option<(StatusCode, Value)>,
    /// The bodies of changes, with their methods.
    changes: Vec<(String, String)>,
    events: Vec<Value>,
    /// How a login stands, look by look; empty where none is offered.
    login: Vec<Value>,
}

type Shared = Arc<Mutex<Script>>;

/// A scripted daemon in a runtime of its own; ends when dropped.
struct Daemon {
    _runtime: Runtime,
    address: SocketAddr,
    script: Shared,
}

impl Daemon {
    fn start(mut script: Script) -> Self {
        if script.config.is_null() {
            script.config = Value::Object(tunnel_api::Config::default().to_map());
        }
        if script.connections.is_null() {
            script.connections = json!({});
        }
        if script.auth.is_null() {
            script.auth = json!({ "authenticated": true, "stored_in": "keyring" });
        }
        if script.tunnel.is_null() {
            script.tunnel = json!({ "state": "connected" });
        }
        let script = Arc::new(Mutex::new(script));
        let shown = |pick: fn(&Script) -> Value| {
            get(move |State(script): State<Shared>| async move { ok(pick(&script.lock().unwrap())) })
        };
        let router = Router::new()
            .route("/api/config", shown(|script| script.config.clone()).patch(patched).put(replaced))
            .route("/api/config/origins", shown(origins))
            .route("/api/config/reload", post(reloaded))
            .route("/api/config/validate", post(validated))
            .route(
                "/api/config/backups",
                shown(|_| {
                    json!({ "directory": "/b", "backups": [
                        { "name": "c-1", "created_at": "2026-01-31T12:00:00Z", "size_bytes": 17 } ] })
                }),
            )
            .route("/api/config/backup", post(|| async { ok(json!({ "name": "c-2" })) }))
            .route("/api/config/restore", post(restored))
            .route("/api/models", shown(|script| json!({ "models": script.models })))
            .route(
                "/api/status",
                shown(|script| json!({ "connections": script.connections, "tunnel": script.tunnel })),
            )
            .route("/api/auth", shown(|script| script.auth.clone()))
            .route(
                "/api/auth/login",
                post(login_begun).get(login_status).delete(|| async { ok(json!({ "state": "none" })) }),
            )
            .route(
                "/api/keys",
                get(|| async { ok(json!({ "keys": [] })) }).post(|| async {
                    ok(json!({ "id": "k-1", "token": "canary-key", "expires_at": "2026-01-31T12:00:00Z" }))
                }),
            )
            .route(
                "/api/keys/{id}",
                delete(|| async {
                    refuse(
                        StatusCode::CONFLICT,
                        json!({ "error": "this login may not make keys", "code": "not_allowed" }),
                    )
                }),
            )
            .route("/api/auth/token", put(stored))
            .route(
                "/api/auth/logout",
                post(|| async { ok(json!({ "authenticated": false, "stored_in": "none" })) }),
            )
            .route("/api/events", get(events))
            .route("/api/metrics", shown(|_| json!({ "uptime": 7, "horoscope": "good" })))
            .route(
                "/metrics",
                get(|| async {
                    ([("tunneld-version", env!("CARGO_PKG_VERSION"))], "# TYPE x counter\nx 1\n")
                }),
            )
            .with_state(Arc::clone(&script));
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        drop(runtime.spawn(async move { axum::serve(listener, router).await }));
        Self { _runtime: runtime, address, script }
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        parts(&self.command(arguments).output().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tunnelctl();
        command.arg("--url").arg(format!("http://{}", self.address)).args(arguments);
        command
    }

    /// Runs `config edit` with a script as the editor, which finds the file's name in `$1`.
    fn edit(&self, home: &Path, script: &str) -> (i32, String, String) {
        let mut command = self.command(&["config", "edit"]);
        parts(&edited(&mut command, home, script))
    }

    fn changes(&self) -> Vec<(String, String)> {
        self.script.lock().unwrap().changes.clone()
    }
}

fn tunnelctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnelctl"));
    command.env_clear().env("LANG", "C.UTF-8").stdin(Stdio::null());
    command
}

/// Asks nobody: there is no daemon.
fn alone(home: &Path, arguments: &[&str]) -> Command {
    let mut command = tunnelctl();
    command
        .arg("--url")
        .arg(format!("unix://{}/none.sock", home.display()))
        .env("HOME", home)
        .args(arguments);
    command
}

fn edited(command: &mut Command, home: &Path, script: &str) -> Output {
    let editor = home.join("editor.sh");
    fs::write(&editor, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
    let drafts = home.join("drafts");
    fs::create_dir_all(&drafts).unwrap();
    // An argument of its own: the variable holds a command line.
    let editor = format!("{} first", editor.display());
    command.env("VISUAL", editor).env("PATH", "/usr/bin:/bin").env("TMPDIR", &drafts).output().unwrap()
}

/// Returns the texts of what was typed and is kept.
fn drafts(home: &Path) -> Vec<String> {
    let entries = fs::read_dir(home.join("drafts")).unwrap();
    entries.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
}

fn parts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn json_of(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "{text}");
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(value["schema"], "tunnelctl/v1");
    value
}

fn ok(body: Value) -> Response {
    answer(StatusCode::OK, body)
}

fn refuse(status: StatusCode, body: Value) -> Response {
    answer(status, body)
}

fn answer(status: StatusCode, body: Value) -> Response {
    let headers = [("tunneld-version", env!("CARGO_PKG_VERSION")), ("etag", "\"v1\"")];
    (status, headers, Json(body)).into_response()
}

fn origins(script: &Script) -> Value {
    json!({ "file": script.file, "files": [], "origins": {
        "ollamaPort": { "from": "file", "name": "/c.json" },
        "logLevel": { "from": "environment", "name": "TUNNELD_LOG_LEVEL" },
        "queue.maxWait": { "from": "default", "name": null },
    } })
}

async fn patched(State(script): State<Shared>, body: String) -> Response {
    let mut script = script.lock().unwrap();
    script.changes.push(("PATCH".to_owned(), body.clone()));
    if let Some((status, body)) = script.refusal.clone() {
        return refuse(status, body);
    }
    let patch: Value = serde_json::from_str(&body).unwrap();
    let mut config = script.config.clone();
    for (key, value) in patch.as_object().unwrap() {
        match value.as_object() {
            Some(members) => members.iter().for_each(|(name, value)| config[key][name] = value.clone()),
            None => config[key] = value.clone(),
        }
    }
    ok(json!({
        "message": "the configuration was changed", "changed": true, "config": config, "backup": "c-1",
        "overridden": [{ "key": "logLevel", "by": "TUNNELD_LOG_LEVEL" }], "restart_required": ["gatewayPort"],
    }))
}

async fn replaced(State(script): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let mut script = script.lock().unwrap();
    assert_eq!(headers["if-match"], "\"v1\"");
    script.changes.push(("PUT".to_owned(), body));
    match script.refusal.clone() {
        Some((status, body)) => refuse(status, body),
        None => ok(json!({ "message": "the configuration was replaced", "config": script.config })),
    }
}

async fn stored(State(script): State<Shared>, body: String) -> Response {
    let mut script = script.lock().unwrap();
    script.changes.push(("PUT".to_owned(), body));
    if !script.dialled.is_null() {
        script.tunnel = script.dialled.take();
    }
    ok(json!({ "stored_in": "keyring", "authenticated": true }))
}

async fn restored(State(script): State<Shared>) -> Response {
    let (status, body) = script.lock().unwrap().refusal.clone().unwrap();
    refuse(status, body)
}

async fn reloaded(State(script): State<Shared>) -> Response {
    let script = script.lock().unwrap();
    match &script.refusal {
        Some((status, body)) if body["code"] == "config_invalid" => refuse(*status, body.clone()),
        _ => ok(json!({ "message": "nothing has changed", "config": script.config })),
    }
}

/// Takes anything but the key `bad`.
async fn validated(body: String) -> Response {
    let faults = if body.contains("bad") { json!([fault("bad", "unknown key")]) } else { json!([]) };
    ok(json!({ "valid": faults == json!([]), "faults": faults }))
}

async fn events(
    State(script): State<Shared>,
    Query(asked): Query<std::collections::HashMap<String, u64>>,
) -> Response {
    let script = script.lock().unwrap();
    let limit = usize::try_from(asked["limit"]).unwrap();
    let events: Vec<Value> = match asked.get("since") {
        Some(since) => {
            let after = script.events.iter().filter(|event| event["id"].as_u64().unwrap() > *since);
            after.take(limit).cloned().collect()
        }
        None => script.events[script.events.len().saturating_sub(limit)..].to_vec(),
    };
    ok(json!({ "events": events }))
}

fn fault(key: &str, rule: &str) -> Value {
    json!({ "key": key, "rule": rule })
}

fn event(id: u64) -> Value {
    json!({ "id": id, "at": "2026-01-31T12:00:00Z", "kind": "k", "severity": "info", "message": format!("event {id}") })
}

fn configured(change: impl Fn(&mut Value)) -> Script {
    let mut config = Value::Object(tunnel_api::Config::default().to_map());
    change(&mut config);
    Script { config, ..Script::default() }
}

#[test]
fn value_is_shown_bare_and_unknown_keys_name_near_ones() {
    let daemon = Daemon::start(configured(|config| config["ollamaHost"] = json!("lab\u{1b}[2J")));
    assert_eq!(daemon.run(&["config", "get", "queue.maxWait"]), (0, "60\n".to_owned(), String::new()));
    assert_eq!(daemon.run(&["config", "get", "ollamaHost"]).1, "lab?[2J\n");
    assert_eq!(daemon.run(&["config", "get", "deviceName"]).1, "null\n");
    let (code, stdout, stderr) = daemon.run(&["config", "get", "maxWait"]);
    let error = "error: there is no key maxWait; did you mean queue.maxWait?\n";
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (6, "", error));
    let (_, stdout, _) = daemon.run(&["--json", "config", "get", "queue"]);
    assert_eq!(json_of(&stdout)["value"], json!({ "maxWait": 60, "maxWaiting": 64 }));
}

#[test]
fn configuration_is_shown_as_a_file_would_have_it() {
    let daemon = Daemon::start(configured(|config| config["ollamaPort"] = json!(1)));
    let (code, stdout, _) = daemon.run(&["config", "show"]);
    let keys = tunnel_api::config::parse(&stdout).unwrap();
    assert_eq!((code, tunnel_api::Config::check(&keys).unwrap().ollama_port.get()), (0, 1));
    let (_, stdout, _) = daemon.run(&["config", "show", "--origin"]);
    let row = |key: &str| stdout.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(row("ollamaPort ").ends_with("/c.json"), "{stdout}");
    assert!(row("logLevel ").ends_with("$TUNNELD_LOG_LEVEL"), "{stdout}");
    assert!(row("queue.maxWait ").ends_with("default"), "{stdout}");
    assert_eq!(daemon.run(&["config", "diff"]).1, "ollamaPort: 11434 -> 1\n");
    let (_, stdout, _) = daemon.run(&["config", "diff", "--json"]);
    assert_eq!(json_of(&stdout)["changes"], json!([{ "key": "ollamaPort", "default": 11434, "value": 1 }]));
}

#[test]
fn change_is_sent_as_a_patch_and_told_with_what_keeps_it_from_its_effect() {
    let daemon = Daemon::start(Script::default());
    let (code, stdout, stderr) = daemon.run(&["config", "set", "queue.maxWait", "30"]);
    assert_eq!((code, stdout.as_str()), (0, "queue.maxWait: 60 -> 30\n"));
    for part in ["$TUNNELD_LOG_LEVEL is set", "after a restart: gatewayPort", "config restore c-1"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    daemon.run(&["config", "set", "deviceName", "laptop"]);
    daemon.run(&["config", "set", "ollamaPort", "-1"]);
    daemon.run(&["config", "set", "queue.maxWait", "null"]);
    let bodies: Vec<String> = daemon.changes().into_iter().map(|(_, body)| body).collect();
    assert_eq!(
        bodies,
        [
            r#"{"queue":{"maxWait":30}}"#,
            r#"{"deviceName":"laptop"}"#,
            r#"{"ollamaPort":-1}"#,
            r#"{"queue":{"maxWait":null}}"#,
        ]
    );
    let (_, stdout, stderr) = daemon.run(&["-q", "--json", "config", "set", "queue.maxWait", "30"]);
    let changes = json!([{ "key": "queue.maxWait", "old": 60, "new": 30 }]);
    assert_eq!((&json_of(&stdout)["changes"], stderr.as_str()), (&changes, ""));
    assert_eq!(daemon.run(&["config", "set", "queue.", "1"]).0, 2);
}

#[test]
fn refused_change_shows_each_fault_on_a_line() {
    let faults = [fault("a", "must be a number"), fault("b", "unknown key")];
    let body = json!({ "error": "two faults", "code": "config_invalid", "faults": faults });
    let refusal = Some((StatusCode::UNPROCESSABLE_ENTITY, body));
    let daemon = Daemon::start(Script { refusal, ..Script::default() });
    let expected = "error: a: must be a number\nerror: b: unknown key\n".to_owned();
    assert_eq!(daemon.run(&["config", "set", "a", "x"]), (7, String::new(), expected.clone()));
    assert_eq!(daemon.run(&["config", "reload"]), (7, String::new(), expected));
}

#[test]
fn copies_are_listed_without_a_name() {
    let (code, stdout, stderr) = Daemon::start(Script::default()).run(&["config", "restore"]);
    assert_eq!(
        (code, stdout.as_str()),
        (0, "NAME  MADE                  BYTES\nc-1   2026-01-31 12:00:00Z     17\n")
    );
    assert!(stderr.contains("tunnelctl config restore NAME"), "{stderr}");
}

#[test]
fn file_is_made_where_the_daemon_reads_it_and_never_replaced() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/cloudtolocalllm/tunnel_config.json");
    let path = || parts(&alone(home.path(), &["config", "path"]).output().unwrap());
    assert_eq!(path(), (0, format!("{}\n", file.display()), String::new()));
    let init = || parts(&alone(home.path(), &["config", "init"]).output().unwrap());
    let (code, stdout, _) = init();
    assert_eq!((code, stdout), (0, format!("wrote {}\n", file.display())));
    // All but what only counts when somebody says it.
    let example = include_str!("../../../dist/tunnel_config.example.json");
    let expected = example.replace("  \"autoStartOnBoot\": false,\n", "");
    assert!(expected != example && fs::read_to_string(&file).unwrap() == expected);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&file, "{}").unwrap();
    let (code, _, stderr) = init();
    assert!(code == 9 && stderr.contains("tunnelctl config edit"), "{code} {stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
    let (code, stdout, _) = parts(&alone(home.path(), &["config", "schema"]).output().unwrap());
    assert_eq!((code, stdout.as_str()), (0, include_str!("../../../dist/tunnel_config.schema.json")));
}

/// A home with a configuration file, and a daemon that says it has it.
fn with_file(text: &str, refusal: Option<(StatusCode, Value)>) -> (tempfile::TempDir, PathBuf, Daemon) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("c.json");
    fs::write(&file, text).unwrap();
    let daemon = Daemon::start(Script { file: Some(file.clone()), refusal, ..Script::default() });
    (home, file, daemon)
}

const VALID: &str = r#"printf '{\n  "maxRetries": 2\n}\n' > "$2""#;

#[test]
fn edited_text_is_handed_to_the_daemon_as_it_was_typed() {
    let (home, file, daemon) = with_file("{}\n", None);
    let (code, _, stderr) = daemon.edit(home.path(), &format!("test \"$1\" = first || exit 1\n{VALID}"));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(daemon.changes(), [("PUT".to_owned(), "{\n  \"maxRetries\": 2\n}\n".to_owned())]);
    assert_eq!(fs::read_to_string(file).unwrap(), "{}\n", "that is the daemon's to write");
    assert!(drafts(home.path()).is_empty());
}

#[test]
fn text_that_is_as_it_was_or_empty_changes_nothing() {
    let (home, _, daemon) = with_file("{}\n", None);
    for script in ["true", ": > \"$2\""] {
        assert_eq!(daemon.edit(home.path(), script), (0, "nothing was changed\n".to_owned(), String::new()));
    }
    assert_eq!(daemon.edit(home.path(), "exit 1").0, 1);
    assert!(daemon.changes().is_empty() && drafts(home.path()).is_empty());
    // An editor that dies leaves what was typed.
    assert_eq!(daemon.edit(home.path(), &format!("{VALID}; exit 1")).0, 1);
    assert_eq!(drafts(home.path()), ["{\n  \"maxRetries\": 2\n}\n"]);
}

#[test]
fn text_with_faults_is_kept_and_not_written() {
    for (script, fault) in [
        ("echo '{ \"bad\": 1 }' > \"$2\"", "error: bad: unknown key\n"),
        ("echo '{ \"bad\" }' > \"$2\"", "line 1, column 9: expected `:`"),
    ] {
        let (home, file, daemon) = with_file("{}\n", None);
        let (code, _, stderr) = daemon.edit(home.path(), script);
        assert!(code == 7 && stderr.contains(fault), "{code} {stderr}");
        assert!(stderr.contains("is kept in") && drafts(home.path()).len() == 1, "{stderr}");
        assert_eq!((fs::read_to_string(file).unwrap().as_str(), daemon.changes().len()), ("{}\n", 0));
    }
}

#[test]
fn text_that_somebody_else_has_overtaken_is_kept() {
    let body = json!({ "error": "it is another version by now", "code": "config_changed" });
    let (home, _, daemon) = with_file("{}\n", Some((StatusCode::PRECONDITION_FAILED, body)));
    let (code, _, stderr) = daemon.edit(home.path(), VALID);
    assert!(code == 9 && stderr.contains("by somebody else"), "{code} {stderr}");
    assert_eq!(drafts(home.path()), ["{\n  \"maxRetries\": 2\n}\n"]);
}

#[test]
fn file_with_faults_can_be_mended_though_the_daemon_takes_no_changes() {
    let body = json!({ "error": "it has faults", "code": "config_invalid", "faults": [fault("x", "y")] });
    let (home, file, daemon) = with_file("{ broken", Some((StatusCode::UNPROCESSABLE_ENTITY, body)));
    let mends = format!("grep -q broken \"$2\" || exit 1\n{VALID}");
    let (_, stdout, _) = daemon.edit(home.path(), &mends);
    assert_eq!(stdout, format!("wrote {}\n", file.display()));
    assert_eq!(fs::read_to_string(file).unwrap(), "{\n  \"maxRetries\": 2\n}\n");
    assert!(daemon.changes().is_empty() && drafts(home.path()).is_empty());
}

#[test]
fn file_is_edited_without_a_daemon() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".config/cloudtolocalllm/tunnel_config.json");
    let edit =
        |script: &str| parts(&edited(&mut alone(home.path(), &["config", "edit"]), home.path(), script));
    let (code, stdout, _) = edit(VALID);
    assert_eq!((code, stdout), (0, format!("wrote {}\n", file.display())));
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\n  \"maxRetries\": 2\n}\n");
    let (code, _, stderr) = edit("echo '{ \"maxRetries\": 0 }' > \"$2\"");
    assert!(code == 7 && stderr.contains("error: maxRetries: "), "{code} {stderr}");
    // Somebody else writes while the editor is open.
    let overtaken = format!("echo '{{}}' > {}; echo '{{ \"maxRetries\": 3 }}' > \"$2\"", file.display());
    assert_eq!(edit(&overtaken).0, 9);
    assert_eq!(fs::read_to_string(&file).unwrap(), "{}\n");
    assert_eq!(drafts(home.path()).len(), 2);
}

fn with_models() -> Script {
    Script {
        models: json!([
            { "name": "cold", "connections": ["ollama"], "loaded": false },
            { "name": "it's warm", "connections": ["lab"], "loaded": true },
        ]),
        connections: json!({
            "ollama": { "id": "ollama", "type": "ollama", "connected": true },
            "lab": { "id": "lab", "type": "openai", "connected": false, "state": "error", "error": "no route" },
        }),
        ..configured(|config| config["gatewayPort"] = json!(4711))
    }
}

#[test]
fn snippet_alone_is_on_standard_output() {
    let daemon = Daemon::start(with_models());
    let (code, stdout, stderr) = daemon.run(&["connect", "curl"]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("curl -sSN http://127.0.0.1:4711/v1/chat/completions"), "{stdout}");
    assert!(stdout.contains(r#"{"model": "it'\''s warm", "stream": true"#), "{stdout}");
    assert!(stderr.starts_with("paste it into a shell\n") && stderr.contains("need no key"), "{stderr}");
    assert_eq!(daemon.run(&["-q", "connect", "curl"]).2, "");
    let (code, stdout, _) = daemon.run(&["connect", "ollama"]);
    assert!(code == 0 && stdout.contains("ollama run 'cold'"), "{stdout}");
    let (code, stdout, stderr) = daemon.run(&["connect", "ollama", "--model", "it's warm"]);
    assert!(code == 4 && stdout.is_empty() && stderr.contains("Ollama's API does not reach"), "{stderr}");
    let (_, stdout, _) = daemon.run(&["connect", "zed", "--json"]);
    let told = json_of(&stdout);
    assert_eq!((&told["app"], &told["model"]), (&json!("zed"), &json!("it's warm")));
    assert_eq!(told["ollama_base_url"], "http://127.0.0.1:4711");
    let settings: Value = serde_json::from_str(told["snippet"].as_str().unwrap()).unwrap();
    assert!(settings["language_models"]["openai_compatible"].is_object());
}

#[test]
fn apps_are_listed_without_a_daemon_and_a_dashboard_is_not_promised() {
    let home = tempfile::tempdir().unwrap();
    let (code, stdout, _) = parts(&alone(home.path(), &["connect"]).output().unwrap());
    assert_eq!((code, stdout.lines().count()), (0, 10), "{stdout}");
    assert!(stdout.contains("\nopen-webui  Open WebUI\n"), "{stdout}");
    assert_eq!(alone(home.path(), &["connect", "curl"]).output().unwrap().status.code(), Some(3));
    let (code, stdout, stderr) = parts(&alone(home.path(), &["dashboard"]).output().unwrap());
    assert!(code == 4 && stdout.is_empty() && stderr.contains("tunnelctl status --watch"), "{stderr}");
}

#[test]
fn connections_and_models_are_waited_for() {
    let daemon = Daemon::start(with_models());
    let wait = |goal: &str| daemon.run(&["wait", "--timeout", "0", "--for", goal]);
    assert_eq!(wait("connection=ollama"), (0, "the connection ollama is up\n".to_owned(), String::new()));
    assert_eq!(wait("model=cold").0, 0);
    let (code, _, stderr) = wait("connection=lab");
    assert!(code == 4 && stderr.contains("the connection lab is error: no route"), "{stderr}");
    let (code, _, stderr) = daemon.run(&["wait", "--for", "connection=x"]);
    assert!(code == 6 && stderr.contains("there are: lab, ollama"), "{stderr}");
    let (code, stdout, _) = daemon.run(&["wait", "--timeout", "300ms", "--json", "--for", "model=x"]);
    assert_eq!((code, &json_of(&stdout)["for"]), (8, &json!("model=x")));
}

#[test]
fn events_are_one_object_or_a_line_each() {
    let daemon = Daemon::start(Script { events: (1..=3).map(event).collect(), ..Script::default() });
    let (code, stdout, _) = daemon.run(&["events", "-n", "2"]);
    let expected = "2026-01-31 12:00:00Z  INFO   event 2\n2026-01-31 12:00:00Z  INFO   event 3\n";
    assert_eq!((code, stdout.as_str()), (0, expected));
    let (_, stdout, _) = daemon.run(&["events", "--json", "-n", "2"]);
    assert_eq!(json_of(&stdout)["events"][0]["id"], 2);
    assert_eq!(daemon.run(&["events", "-n", "0"]).1, "");
    daemon.script.lock().unwrap().events = (1..=2500).map(event).collect();
    let (_, stdout, _) = daemon.run(&["events", "-n", "2200"]);
    assert_eq!(stdout.lines().count(), 2200);
    assert!(stdout.starts_with("2026-01-31 12:00:00Z  INFO   event 301\n"), "{:.60}", stdout);
}

#[test]
fn followed_events_come_once_each_and_what_is_missing_is_said() {
    let daemon = Daemon::start(Script { events: (1..=3).map(event).collect(), ..Script::default() });
    let mut command = daemon.command(&["events", "-f", "-n", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || json_of(&lines.next().unwrap().unwrap())["id"].as_u64().unwrap();
    assert_eq!(next(), 3);
    daemon.script.lock().unwrap().events.extend([event(4), event(7)]);
    assert_eq!((next(), next()), (4, 7));
    let mut talk = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut talk).unwrap();
    assert!(talk.starts_with("2 events are missing"), "{talk}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn metrics_are_a_page_or_json() {
    let daemon = Daemon::start(Script::default());
    assert_eq!(daemon.run(&["metrics"]), (0, "# TYPE x counter\nx 1\n".to_owned(), String::new()));
    let (_, stdout, _) = daemon.run(&["metrics", "--json"]);
    assert_eq!(json_of(&stdout)["horoscope"], "good");
}

#[test]
fn nobody_is_told_how_to_become_somebody() {
    let auth = json!({ "authenticated": false, "stored_in": "none" });
    let daemon = Daemon::start(Script { auth, ..Script::default() });
    let (code, stdout, stderr) = daemon.run(&["whoami"]);
    assert_eq!((code, stdout.as_str()), (4, ""));
    assert!(stderr.contains("tunnelctl login --token-stdin"), "{stderr}");
    let (code, stdout, _) = daemon.run(&["whoami", "--json"]);
    assert_eq!((code, &json_of(&stdout)["authenticated"]), (4, &json!(false)));
    daemon.script.lock().unwrap().auth =
        json!({ "authenticated": true, "subject": "alice", "stored_in": "keyring", "expires_at": null });
    let (code, stdout, stderr) = daemon.run(&["whoami"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("subject  alice\n") && stdout.contains("desktop's keyring"), "{stdout}");
}

/// What a daemon answers that has begun a login; without a script for its end there is none to begin.
/// When the login that it begins runs out.
const LOGIN_ENDS: &str = "2026-01-31T12:00:00Z";

async fn login_begun(State(script): State<Shared>, body: String) -> Response {
    if script.lock().unwrap().login.is_empty() {
        return refuse(
            StatusCode::CONFLICT,
            json!({ "error": "no browser here", "code": "login_unavailable" }),
        );
    }
    let mut begun = json!({ "flow": "device_code", "expires_at": LOGIN_ENDS, "interval_s": 5,
                            "verification_uri": "https://login.example/device", "user_code": "ABCD-\u{1b}EFGH" });
    if body.contains("browser") {
        begun = json!({ "flow": "browser", "expires_at": LOGIN_ENDS,
                        "authorization_url": "https://login.example/auth?state=x" });
    }
    ok(begun)
}

/// Each look is one step further; the last one stays.
async fn login_status(State(script): State<Shared>) -> Response {
    let mut script = script.lock().unwrap();
    let next = if script.login.len() > 1 { script.login.remove(0) } else { script.login[0].clone() };
    ok(next)
}

#[test]
fn login_that_is_not_offered_says_what_the_daemon_says() {
    let daemon = Daemon::start(Script::default());
    let refused = (9, String::new(), "error: no browser here\n".to_owned());
    assert_eq!(daemon.run(&["login", "--device-code"]), refused);
    let (code, stdout, stderr) = daemon.run(&["login"]);
    assert!((code, stdout.as_str()) == (2, "") && stderr.contains("--device-code"), "{stderr}");
}

#[test]
fn login_by_device_code_shows_the_code_and_waits_for_the_end() {
    let login = |end: Value, more: &[&str]| {
        let pending = json!({ "state": "pending", "flow": "device_code", "expires_at": LOGIN_ENDS });
        let daemon = Daemon::start(Script { login: vec![pending, end], ..Script::default() });
        daemon.run(&[&["login", "--device-code"], more].concat())
    };
    let done = || json!({ "state": "done", "flow": "device_code" });
    let (code, stdout, stderr) = login(done(), &[]);
    let shown = "Open  https://login.example/device\nCode  ABCD-?EFGH\n";
    assert_eq!(
        (code, stdout),
        (0, format!("{shown}logged in; the token is kept in the desktop's keyring\n")),
        "{stderr}"
    );
    let (code, stdout, _) = login(done(), &["--no-wait"]);
    assert_eq!((code, stdout.as_str()), (0, shown));
    let (code, stdout, _) = login(done(), &["--json"]);
    let lines: Vec<Value> = stdout.lines().map(json_of).collect();
    assert_eq!((code, lines.len(), &lines[0]["flow"]), (0, 2, &json!("device_code")), "{stdout}");
    assert_eq!(
        (&lines[1]["authenticated"], &lines[1]["tunnel"]["outcome"]),
        (&json!(true), &json!("switched_off"))
    );
    for (word, expected) in [("access_denied", 5), ("login_timeout", 8), ("login_refused", 1)] {
        let failed = json!({ "state": "failed", "error": "it was denied", "code": word });
        let (code, _, stderr) = login(failed, &[]);
        assert_eq!(code, expected, "{word}");
        assert!(stderr.contains("error: nobody is logged in: it was denied\n"), "{stderr}");
    }
    let other = json!({ "state": "pending", "flow": "browser", "expires_at": "2026-12-31T00:00:00Z" });
    let (code, _, stderr) = login(other, &[]);
    assert!(code == 9 && stderr.contains("another login was begun"), "{stderr}");
    let (code, _, stderr) = login(json!({ "state": "none" }), &[]);
    assert!(code == 1 && stderr.contains("cancelled"), "{stderr}");
}

#[test]
fn login_in_a_browser_shows_the_address_where_there_is_no_display() {
    let login = vec![json!({ "state": "done", "flow": "browser" })];
    let daemon = Daemon::start(Script { login, ..Script::default() });
    let (code, stdout, stderr) = daemon.run(&["login", "--browser"]);
    assert!(
        code == 0 && stdout.starts_with("Open  https://login.example/auth?state=x\nlogged in"),
        "{stdout}"
    );
    assert!(stderr.contains("tunnelctl login --device-code"), "{stderr}");
}

#[test]
fn key_is_all_that_standard_output_has() {
    let daemon = Daemon::start(Script::default());
    let (code, stdout, stderr) = daemon.run(&["keys", "create", "--name", "editor", "--expires", "90d"]);
    assert_eq!((code, stdout.as_str()), (0, "canary-key\n"));
    assert!(stderr.contains("until 2026-01-31") && stderr.contains("tunnelctl keys revoke k-1"), "{stderr}");
    let (_, stdout, _) = daemon.run(&["keys", "create", "--json"]);
    assert_eq!(json_of(&stdout)["token"], "canary-key");
    let (code, stdout, stderr) = daemon.run(&["keys", "list"]);
    assert!((code, stdout.as_str()) == (0, "") && stderr.contains("tunnelctl keys create"), "{stderr}");
    let (code, _, stderr) = daemon.run(&["keys", "revoke", "k-1"]);
    assert_eq!((code, stderr.as_str()), (5, "error: this login may not make keys\n"));
}

#[test]
fn token_is_read_from_a_file_or_standard_input_and_an_empty_one_is_no_token() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    fs::write(&file, "canary-7f3a\n").unwrap();
    let daemon = Daemon::start(Script::default());
    let (code, stdout, stderr) = daemon.run(&["login", "--token-file", file.to_str().unwrap()]);
    let kept = "the token is kept in the desktop's keyring\n";
    assert_eq!((code, stdout.as_str()), (0, kept));
    assert!(stderr.contains("the tunnel is switched off"), "{stderr}");
    let mut command = daemon.command(&["login", "--token-stdin"]);
    let typed = command.stdin(fs::File::open(&file).unwrap()).output().unwrap();
    assert_eq!(parts(&typed).0, 0);
    let sent = ("PUT".to_owned(), r#"{"token":"canary-7f3a"}"#.to_owned());
    assert_eq!(daemon.changes(), [sent.clone(), sent]);
    let (code, _, stderr) = daemon.run(&["login", "--token-stdin"]);
    assert!(code == 2 && stderr.contains("there is no token in it"), "{stderr}");
    assert_eq!(daemon.changes().len(), 2);
}

/// A tunnel that somebody wants, in this state.
fn tunnel(state: &str, since: &str) -> Value {
    let error = (state != "connected").then_some("the relay does not know this token");
    json!({ "target": "up", "state": state, "relay": "https://relay.example", "since": since, "last_error": error })
}

#[test]
fn outcome_of_the_dial_with_a_new_token_is_told() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    fs::write(&file, "garbage\n").unwrap();
    let login = |state: &str, more: &[&str]| {
        let before = tunnel("refused", "2026-01-31T12:00:00Z");
        let dialled = tunnel(state, "2026-01-31T12:00:01Z");
        let daemon = Daemon::start(Script { tunnel: before, dialled, ..Script::default() });
        daemon.run(&[&["login", "--token-file", file.to_str().unwrap()], more].concat())
    };
    let (code, stdout, _) = login("connected", &[]);
    assert!(code == 0 && stdout.ends_with("the tunnel is connected\n"), "{stdout}");
    let (code, stdout, stderr) = login("refused", &[]);
    assert!(code == 4 && stdout.contains("is kept in"), "{stdout}");
    assert_eq!(stderr, "error: the relay refuses it: the relay does not know this token\n");
    let (code, _, stderr) = login("backoff", &[]);
    assert!(code == 0 && stderr.contains("is not known yet: the relay does not know"), "{stderr}");
    let (code, stdout, _) = login("refused", &["--json"]);
    assert_eq!((code, &json_of(&stdout)["tunnel"]["outcome"]), (4, &json!("refused")));
}

#[test]
fn logout_tells_a_token_that_is_forgotten_from_none() {
    let daemon = Daemon::start(Script::default());
    assert_eq!(daemon.run(&["logout"]), (0, "the token is forgotten\n".to_owned(), String::new()));
    daemon.script.lock().unwrap().auth = json!({ "authenticated": false, "stored_in": "none" });
    assert_eq!(daemon.run(&["logout"]), (0, "there was no token\n".to_owned(), String::new()));
}

#[test]
fn name_of_a_copy_is_an_answer_and_a_refused_one_names_the_verb() {
    let body = |code: &str| json!({ "error": "it has faults (x)", "code": code });
    let restore = |status, code| {
        let script = Script { refusal: Some((status, body(code))), ..Script::default() };
        Daemon::start(script).run(&["config", "restore", "c-9"])
    };
    assert_eq!(Daemon::start(Script::default()).run(&["-q", "config", "backup"]).1, "c-2\n");
    let (code, _, stderr) = restore(StatusCode::NOT_FOUND, "not_found");
    assert_eq!(code, 6);
    assert_eq!(stderr, "error: there is no copy c-9; those that there are: tunnelctl config restore\n");
    let (code, _, stderr) = restore(StatusCode::CONFLICT, "config_file_invalid");
    assert!(code == 9 && stderr.contains("tunnelctl config restore c-9 --force"), "{stderr}");
}

#[test]
fn failure_is_an_object_for_programs_wherever_it_comes_from() {
    let home = tempfile::tempdir().unwrap();
    let error = |arguments: &[&str]| {
        let (code, stdout, stderr) = parts(&alone(home.path(), arguments).output().unwrap());
        let told = json_of(&stdout);
        assert_eq!(told["exit"], code, "{told}");
        assert!(
            !told["error"]["message"].as_str().unwrap().is_empty() && stderr.starts_with("error: "),
            "{stderr}"
        );
        (code, told["error"]["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(error(&["--json", "status"]), (3, "not_running".to_owned()));
    assert_eq!(error(&["--json", "config", "import", "/nowhere"]), (6, "not_found".to_owned()));
    assert_eq!(error(&["--json", "login", "--token-file", "/nowhere"]), (6, "not_found".to_owned()));
    assert_eq!(error(&["--json", "stop", "--wait", "2h"]), (2, "usage".to_owned()));
    for wrong in [["--id", "b/ad"], ["--weight", "0"], ["--max-concurrent", "0"]] {
        let add = [&["--json", "connections", "add", "http://h"][..], &wrong].concat();
        assert_eq!(error(&add), (2, "usage".to_owned()), "{wrong:?}");
    }
}

#[test]
fn completions_and_manual_need_no_daemon() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| parts(&alone(home.path(), arguments).output().unwrap());
    assert_eq!(run(&["completion", "bash"]).1, include_str!("../../../dist/completions/tunnelctl.bash"));
    assert_eq!(run(&["man"]).1, include_str!("../../../dist/man/tunnelctl.1"));
    let pages = home.path().join("a/man");
    let (code, stdout, _) = run(&["man", "--directory", pages.to_str().unwrap()]);
    assert!(code == 0 && stdout.ends_with(&format!("into {}\n", pages.display())), "{stdout}");
    assert!(pages.join("tunnelctl-config-set.1").exists());
    // The script is one that the shell reads without a complaint.
    let script = home.path().join("completion");
    fs::write(&script, run(&["completion", "bash"]).1).unwrap();
    let checked = Command::new("bash").arg("-n").arg(&script).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
