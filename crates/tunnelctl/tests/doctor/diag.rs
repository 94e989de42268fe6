use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::scene::{CONFIG, LOG, Scene, exists, version};

/// What must be in no file of an archive, in whatever case.
const CANARIES: [&str; 13] = [
    "canaryuser",
    "canaryhost",
    "canaryrelay",
    "canarydevice",
    "canarysubject",
    "canarymodel",
    "canarysecret",
    "canarymail",
    "canarypassword",
    "canaryquery",
    "Q0FOQVJZ",
    "c0ffeec0ffee",
    "10.66.6.6",
];
/// A secret that only its form gives away.
const RUN: &str = "Q0FOQVJZQ0FOQVJZQ0FOQVJZ0FOQVJZ9a";
const HEX: &str = "c0ffeec0ffeec0ffeec0ffeec0ffee00";
const JWT: &str = "eyJhbGciOiJub25lIn0.Q0FOQVJZ.c2ln";

/// A text with all of them.
fn leaky(place: &str) -> String {
    format!(
        "{place}: https://canaryuser:canarypassword@canaryhost.example.org/p?k=canaryquery {RUN} {HEX} {JWT} \
         Bearer canarysecret token=canarysecret canarymail@example.org 10.66.6.6:80 \
         wss://canaryrelay.example.org/tunnel model=\"canarymodel:7b\" canarydevice canarysubject /home/canaryuser/x"
    )
}

fn scene() -> Scene {
    let warnings =
        json!([{ "code": "relay_unreachable", "message": leaky("warning"), "next_step": leaky("step") }]);
    let status = json!({
        "tunnel": { "relay": "https://canaryrelay.example.org", "device": "canarydevice",
                    "last_error": leaky("tunnel") },
        "connections": { "ollama": { "id": "ollama", "endpoint": "http://canaryhost.example.org:11434",
                                     "models": ["canarymodel:7b", "x"], "error": leaky("connection") } },
        "warnings": warnings,
    });
    let connection = json!({ "id": "ollama", "models": ["canarymodel:7b"], "error": leaky("report") });
    let page = format!(
        "# HELP tunneld_requests_total {}\ntunneld_requests_total{{connection=\"ollama\",model=\"canarymodel:7b\"}} 7\n",
        leaky("help")
    );
    Scene::with_daemon(vec![
        version(),
        ("GET /livez", json!({})),
        ("GET /api/health", json!({ "status": "healthy", "version": leaky("version") })),
        ("GET /api/status", status),
        ("GET /api/connections", json!({ "connections": [connection] })),
        ("GET /api/models", json!({ "models": [{ "name": "canarymodel:7b", "connections": ["ollama"] }] })),
        ("GET /api/requests", json!({ "requests": [{ "id": HEX, "model": "canarymodel:7b", "path": leaky("path") }] })),
        ("GET /api/warnings", json!({ "warnings": warnings })),
        (
            "GET /api/events",
            json!({ "events": [{ "id": 1, "kind": "model_gone", "message": leaky("event"),
                                 "data": { "model": "canarymodel:7b", "why": leaky("data") } }] }),
        ),
        ("GET /api/metrics", json!({ "tunnel_metrics": { "lastError": leaky("metrics") } })),
        ("GET /metrics", Value::String(page)),
        (
            "GET /api/config",
            json!({ "cloudProxyUrl": "https://canaryrelay.example.org/", "deviceName": "canarydevice",
                    "ollamaHost": "canaryhost.example.org", "logLevel": "INFO",
                    "connections": [{ "id": "b", "url": "http://canaryhost.example.org:1", "credential": "canarysecret" }] }),
        ),
        ("GET /api/config/origins", json!({ "files": [leaky("file"), "/home/canaryuser/c.json"] })),
        ("GET /api/auth", json!({ "authenticated": true, "subject": "canarysubject", "last_error": leaky("auth") })),
        ("POST /api/diagnosis", json!({ "checks": [{ "id": "relay_dns", "detail": leaky("check") }] })),
    ])
    .file(LOG, &format!("2026-01-31T00:00:00Z  WARN tunneld: {}\n", leaky("log")))
    .file(
        CONFIG,
        &json!({ "deviceName": "canarydevice", "ollamaPort": 4321, "unknown": leaky("key"), "logLevel": leaky("x") })
            .to_string(),
    )
    .tool(
        "systemctl",
        &format!(
            "echo '[Service]'; echo 'Environment=X=canarysecret'; echo \"StatusText={}\"",
            leaky("unit").replace('"', "\\\"")
        ),
    )
    .env("USER", "canaryuser")
    .env("MY_API_TOKEN", "canarysecret")
    .env("TUNNELD_TOKEN_FILE", "/nowhere/canaryuser")
    .env("XDG_CURRENT_DESKTOP", "canaryuser")
}

fn unpack(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(path).unwrap()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o600);
        let name = entry.path().unwrap().into_owned();
        assert!(name.parent().unwrap().to_str().unwrap().starts_with("tunneld-diag-"), "{name:?}");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name.file_name().unwrap().to_str().unwrap().to_owned(), text);
    }
    files
}

#[test]
fn nothing_private_is_in_the_archive() {
    let scene = scene();
    let (code, stdout, stderr) = scene.run(&["diag", "-o", "a.tar.gz"]);
    assert_eq!((code, stdout.as_str()), (0, "a.tar.gz\n"), "{stderr}");
    assert!(stderr.contains("ok    status.json\n") && stderr.contains("tar tzf a.tar.gz"), "{stderr}");
    let path = scene.path("a.tar.gz");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let files = unpack(&path);
    for (name, text) in &files {
        for canary in CANARIES {
            let found = text.to_lowercase().find(&canary.to_lowercase());
            let around = found.map(|at| text.get(at.saturating_sub(40)..at + 40));
            assert!(found.is_none(), "{canary} is in {name}: {around:?}");
        }
    }

    // What helps is still there, and every source was really looked at.
    let json = |name: &str| serde_json::from_str::<Value>(&files[name]).unwrap();
    assert_eq!(
        json("status.json")["connections"]["ollama"]["models"][0],
        json("models.json")["models"][0]["name"]
    );
    assert_eq!(json("config.json")["logLevel"], "INFO");
    assert_eq!(json("config-file.json")["keys"]["ollamaPort"], 4321);
    assert_eq!(json("config-file.json")["unknown_keys"], json!(["unknown"]));
    assert!(files["metrics.txt"].contains("tunneld_requests_total{connection=\"ollama\",model=\"<model-"));
    assert!(
        files["log.txt"].contains("WARN tunneld: log: https://<credentials>@<host-"),
        "{}",
        files["log.txt"]
    );
    assert!(files["units.txt"].contains("StatusText=unit: "), "{}", files["units.txt"]);
    assert!(files["unit-files.txt"].contains("Environment=<left out>"), "{}", files["unit-files.txt"]);
    for (name, place) in [
        ("health.json", "version: "),
        ("connections.json", "report: "),
        ("requests.json", "path: "),
        ("warnings.json", "step: "),
        ("events.json", "data: "),
        ("metrics.json", "metrics: "),
        ("config-origins.json", "file: "),
        ("auth.json", "auth: "),
        ("doctor.json", "check: "),
    ] {
        assert!(files[name].contains(place), "{name}: {}", files[name]);
    }
    for name in ["version.json", "session.json", "kernel.txt", "README.txt"] {
        assert!(files.contains_key(name), "{name}: {:?}", files.keys());
    }
    let result = json("result.json");
    assert!(result["taken_out"]["credentials"].as_u64().unwrap() > 10, "{result:#}");
}

#[test]
fn archive_is_made_without_a_daemon_and_says_what_is_missing() {
    let scene = Scene::bare();
    let (code, stdout, stderr) = scene.run(&["diag", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    let file = answer["file"].as_str().unwrap();
    assert!(file.starts_with("tunneld-diag-") && file.ends_with("Z.tar.gz"), "{file}");
    let files = unpack(&scene.path(file));
    let result: Value = serde_json::from_str(&files["result.json"]).unwrap();
    let job = |name: &str| {
        result["jobs"].as_array().unwrap().iter().find(|job| job["file"] == name).unwrap().clone()
    };
    assert_eq!(job("status.json")["result"], "skip");
    assert_eq!(job("log.txt")["result"], "skip");
    assert_eq!(job("units.txt")["reason"], "there is no systemctl here");
    assert_eq!(job("doctor.json")["result"], "ok");
    assert!(
        files["README.txt"].contains("  err   version.json: cannot reach tunneld"),
        "{}",
        files["README.txt"]
    );
    assert!(!files.contains_key("status.json"));
}

#[test]
fn file_that_is_there_is_not_overwritten() {
    let scene = Scene::bare().file("a.tar.gz", "mine");
    let (code, stdout, stderr) = scene.run(&["diag", "-o", "a.tar.gz"]);
    assert_eq!((code, stdout.as_str()), (9, ""));
    assert!(stderr.contains("is there already"), "{stderr}");
    assert_eq!(fs::read_to_string(scene.path("a.tar.gz")).unwrap(), "mine");
    // Nor is a place that leads elsewhere.
    std::os::unix::fs::symlink("elsewhere", scene.path("link")).unwrap();
    assert_eq!(scene.run(&["diag", "-o", "link"]).0, 9);
    assert!(!exists(&scene.path("elsewhere")));
}
