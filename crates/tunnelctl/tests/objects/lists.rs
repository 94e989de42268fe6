//! `tunnelctl models`, `requests` and `usage`.

use serde_json::json;

use crate::support::{Daemon, Script};

#[test]
fn models_are_listed() {
    let daemon = Daemon::start(Script::default());
    let told = daemon.run("models list");
    assert!(told.code == 0 && told.stdout.is_empty() && told.stderr.contains("ollama pull"), "{told:?}");
    daemon.script().models = json!([{ "name": "llama3.2:3b", "connections": ["ollama"], "loaded": true, "size_bytes": 2_000_000_000 }]);
    let told = daemon.run("models list");
    assert_eq!(
        told.stdout,
        "NAME         CONNECTIONS  LOADED    SIZE\nllama3.2:3b  ollama       yes     2.0 GB\n"
    );
    assert_eq!(daemon.run("models list --json").json()["models"][0]["loaded"], true);
}

#[test]
fn requests_are_listed_cancelled_and_explained() {
    let daemon = Daemon::start(Script::default());
    assert!(daemon.run("requests list").stderr.contains("no request runs"));
    daemon.script().requests = json!([{
        "id": "0123456789abcdef", "ingress": "local", "connection": "ollama", "model": "llama3.2:3b",
        "path": "/api/chat", "state": "streaming", "duration_ms": 2000, "tokens": 30,
    }]);
    let told = daemon.run("requests list");
    // Whole in a pipe, for whoever reads it there.
    assert!(
        told.stdout
            .contains("0123456789abcdef  llama3.2:3b  ollama      gateway  answering  2 s      30      15.0")
    );
    assert_eq!(daemon.run("requests list --json").json()["requests"][0]["tokens_per_s"], 15.0);
    let told = daemon.run("requests explain 0123");
    assert!(told.code == 0 && told.stdout.contains("connection ollama\n"), "{told:?}");
    assert!(told.stderr.contains("not recorded"), "{told:?}");
    assert_eq!(daemon.run("requests cancel 0123").code, 0);
    assert_eq!(daemon.script().heard, ["cancel 0123456789abcdef"]);
    for verb in ["cancel", "explain"] {
        assert_eq!(daemon.run(&format!("requests {verb} nope")).code, 6);
    }
}

#[test]
fn usage_is_a_table_json_or_csv() {
    let daemon = Daemon::start(Script::default());
    assert!(daemon.run("usage").stderr.contains("nothing was asked"));
    daemon.script().usage = json!([{ "model": "a,b", "requests": 2, "failed": 1 }]);
    assert!(daemon.run("usage").stdout.starts_with("MODEL  REQUESTS  FAILED"));
    assert_eq!(daemon.run("usage --json").json()["usage"][0]["failed"], 1);
    let told = daemon.run("usage --by connection --csv --since 2026-01-31");
    assert_eq!(told.stdout.split("\r\n").next().unwrap().split(',').next(), Some("connection"));
    assert_eq!(daemon.script().heard.last().unwrap(), "/api/usage?by=connection&since=2026-01-31");
    let asked = daemon.script().heard.len();
    assert_eq!(daemon.run("usage --since yesterday").code, 2);
    assert_eq!(daemon.script().heard.len(), asked);
}
