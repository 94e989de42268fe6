//! What the scripted daemon answers.

use std::sync::{Arc, Mutex};

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Where the built-in Ollama is.
pub(crate) const OLLAMA: &str = "http://localhost:11434";

/// How things stand with the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) config: Value,
    /// Version of the configuration file.
    pub(crate) version: u64,
    /// Entries that somebody else puts in right after the configuration was read, one each time.
    pub(crate) rivals: Vec<Value>,
    /// Addresses at which a model server answers.
    pub(crate) up: Vec<String>,
    /// Addresses at which one answers that the daemon notices when it is asked to test it.
    pub(crate) started: Vec<String>,
    pub(crate) detected: Value,
    pub(crate) tunnel: Value,
    pub(crate) stored_in: &'static str,
    pub(crate) requests: Value,
    pub(crate) usage: Value,
    pub(crate) models: Value,
    /// Whether the file has faults, so that no change is taken.
    pub(crate) has_faults: bool,
    /// Keys that the file sets.
    pub(crate) in_file: Vec<&'static str>,
    /// Keys that a variable sets, so that a change of the file has no effect.
    pub(crate) overridden: Vec<&'static str>,
    /// How often the status was asked for.
    pub(crate) looks: usize,
    /// What was asked that changes something, with its body; and each question for usage.
    pub(crate) heard: Vec<String>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            config: json!({
                "enableLocalOllama": true, "ollamaHost": "localhost", "ollamaPort": 11434,
                "enableCloudProxy": true, "cloudProxyUrl": "https://relay.example.org",
                "gatewayPort": 11435, "enableGateway": true, "connections": [],
            }),
            version: 1,
            rivals: Vec::new(),
            up: vec![OLLAMA.to_owned()],
            started: Vec::new(),
            detected: json!([]),
            tunnel: json!({ "target": "up", "state": "disconnected", "relay": "https://relay.example.org" }),
            stored_in: "none",
            requests: json!([]),
            usage: json!([]),
            models: json!([]),
            has_faults: false,
            in_file: Vec::new(),
            overridden: Vec::new(),
            looks: 0,
            heard: Vec::new(),
        }
    }
}

impl Script {
    pub(crate) fn with_connections(connections: Value) -> Self {
        let mut script = Self::default();
        script.config["connections"] = connections;
        script
    }

    pub(crate) fn detects(mut self, kind: &str, url: &str, connection: Option<&str>) -> Self {
        let product = if kind == "ollama" { "ollama" } else { "llama_cpp" };
        self.detected.as_array_mut().unwrap().push(json!({
            "product": product, "kind": kind, "url": url, "version": "1.2", "models": ["m"],
            "connection": connection, "suggested_id": if kind == "ollama" { "ollama-2" } else { "llama-cpp" },
        }));
        self.up.push(url.to_owned());
        self
    }

    pub(crate) fn status(&self) -> Value {
        let connections: serde_json::Map<String, Value> = self
            .reports()
            .into_iter()
            .map(|report| (report["id"].as_str().unwrap().to_owned(), report))
            .collect();
        let warnings = if self.stored_in == "none" {
            json!([{ "code": "no_token", "severity": "info", "message": "there is no token" }])
        } else {
            json!([])
        };
        json!({
            "tunnel_manager": { "running": true }, "tunnel": self.tunnel, "connections": connections,
            "warnings": warnings,
        })
    }

    /// The connections that are used.
    fn reports(&self) -> Vec<Value> {
        let mut reports = Vec::new();
        if self.config["enableLocalOllama"] == true {
            reports.push(self.report("ollama", "ollama", OLLAMA));
        }
        for entry in self.config["connections"].as_array().unwrap() {
            if entry["enabled"] != false {
                let text = |key: &str| entry[key].as_str().unwrap();
                reports.push(self.report(text("id"), text("type"), text("url")));
            }
        }
        if self.config["enableCloudProxy"] == true {
            reports.push(self.report("cloud", "cloud", "https://relay.example.org"));
        }
        reports
    }

    fn report(&self, id: &str, kind: &str, url: &str) -> Value {
        let up = self.up.iter().any(|other| other == url);
        json!({
            "id": id, "type": kind, "endpoint": url, "connected": up,
            "state": if up { "connected" } else { "disconnected" },
            "quality": if up { "Excellent" } else { "Critical" },
            "models": if up { json!(["llama3.2:3b"]) } else { json!([]) },
            "latency": up.then_some(1.5), "error": (!up).then_some("connection refused"),
            "status_description": if up { "Connected, 1 model" } else { "Disconnected: connection refused" },
            "needs_attention": !up,
        })
    }

    fn reply(
        &mut self,
        method: &str,
        path: &str,
        if_match: Option<&str>,
        body: &Value,
    ) -> (StatusCode, Value) {
        let ok = |value| (StatusCode::OK, value);
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, segments.as_slice()) {
            ("GET", ["livez"]) => ok(json!({ "status": "ok" })),
            ("GET", ["api", "status"]) => {
                self.looks += 1;
                ok(self.status())
            }
            ("GET", ["api", "auth"]) => ok(json!({ "stored_in": self.stored_in })),
            ("GET", ["api", "models"]) => ok(json!({ "models": self.models })),
            ("GET", ["api", "requests"]) => ok(json!({ "requests": self.requests })),
            ("GET", ["api", usage]) if usage.starts_with("usage?") => {
                self.heard.push(path.to_owned());
                ok(json!({ "usage": self.usage }))
            }
            ("GET", ["api", "connections"]) => {
                let reports = self.reports();
                let active = reports.iter().filter(|report| report["connected"] == true).count();
                ok(json!({
                    "total_connections": reports.len(), "active_connections": active, "connections": reports,
                }))
            }
            ("GET", ["api", "config", "origins"]) => {
                let origins: serde_json::Map<String, Value> =
                    self.in_file.iter().map(|key| ((*key).to_owned(), json!({ "from": "file" }))).collect();
                ok(json!({ "origins": origins }))
            }
            ("GET", ["api", "config"]) => ok(self.config.clone()),
            ("PATCH", ["api", "config"]) => self.patch(if_match, body),
            ("POST", ["api", "connections", "detect"]) => ok(json!({ "servers": self.detected })),
            ("POST", ["api", "connections", id, "test"]) => {
                self.up.append(&mut self.started);
                match self.reports().into_iter().find(|report| report["id"] == **id) {
                    Some(report) => ok(json!({
                        "ok": report["connected"], "message": report["status_description"], "connection": report,
                    })),
                    None => {
                        refused(StatusCode::NOT_FOUND, "unknown_connection", "there is no such connection")
                    }
                }
            }
            ("DELETE", ["api", "requests", id]) => {
                self.heard.push(format!("cancel {id}"));
                ok(json!({ "message": "cancelled", "status": "success" }))
            }
            ("POST", ["api", "tunnel", order]) if self.config["enableCloudProxy"] == true => {
                self.heard.push((*order).to_owned());
                ok(json!({ "message": "the tunnel is being opened", "status": "success" }))
            }
            ("POST", ["api", "tunnel", _]) => refused(
                StatusCode::CONFLICT,
                "cloud_proxy_disabled",
                "the tunnel is switched off in the configuration",
            ),
            _ => refused(StatusCode::NOT_FOUND, "not_found", "there is no such endpoint"),
        }
    }

    fn patch(&mut self, if_match: Option<&str>, body: &Value) -> (StatusCode, Value) {
        if self.has_faults {
            return refused(StatusCode::CONFLICT, "config_file_invalid", "c.json has faults");
        }
        if if_match.is_some_and(|if_match| if_match != self.etag()) {
            return refused(
                StatusCode::PRECONDITION_FAILED,
                "config_changed",
                "it is another version by now",
            );
        }
        self.heard.push(format!("patch {body}"));
        let mut overridden = Vec::new();
        for (key, value) in body.as_object().unwrap() {
            if self.overridden.contains(&key.as_str()) {
                overridden.push(json!({ "key": key, "by": "TUNNELD_X" }));
            } else {
                self.config[key] = value.clone();
            }
        }
        self.version += 1;
        let answer = json!({
            "changed": true, "status": "success", "config": self.config, "overridden": overridden,
        });
        (StatusCode::OK, answer)
    }

    fn etag(&self) -> String {
        format!("\"v{}\"", self.version)
    }
}

fn refused(status: StatusCode, code: &str, sentence: &str) -> (StatusCode, Value) {
    (status, json!({ "error": sentence, "code": code, "status_code": status.as_u16() }))
}

pub(crate) async fn answer(State(script): State<Arc<Mutex<Script>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1024 * 1024).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let if_match = head.headers.get(IF_MATCH).map(|value| value.to_str().unwrap());
    let target = head.uri.path_and_query().unwrap().as_str();
    // Orders are told apart by their path; what is counted has its query in it.
    let path = if target.starts_with("/api/usage") { target } else { head.uri.path() };

    let mut script = script.lock().unwrap();
    let etag = script.etag();
    let (status, value) = script.reply(head.method.as_str(), path, if_match, &body);
    if path == "/api/config"
        && head.method == "GET"
        && let Some(rival) = script.rivals.pop()
    {
        script.config["connections"].as_array_mut().unwrap().push(rival);
        script.version += 1;
    }
    let mut headers = HeaderMap::new();
    headers.insert("tunneld-version", env!("CARGO_PKG_VERSION").parse().unwrap());
    headers.insert(ETAG, etag.parse().unwrap());
    (status, headers, Json(value)).into_response()
}
