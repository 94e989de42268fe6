//! Field names that clients of the original system parse, and messages of other versions.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use tunnel_api::connection::{
    Breaker, Connection, ConnectionHealth, ConnectionKind, ConnectionState, Connections, Quality, quality,
};
use tunnel_api::tunnel::{Target, TunnelState};
use tunnel_api::usage::{NotUsageBy, Since};
use tunnel_api::{
    AuthStatus, ErrorBody, Event, Events, Health, HealthStatus, Severity, Status, StoredIn, TokenRequest,
    TunnelAnswer, Usage, UsageBy, UsageRow, Version, Warning,
};

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn json(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("plain data")
}

fn now() -> Timestamp {
    "2025-06-01T12:00:00Z".parse().expect("a constant")
}

fn connected() -> Connection {
    Connection {
        id: "ollama".to_owned(),
        kind: ConnectionKind::Ollama,
        state: ConnectionState::Connected,
        connected: true,
        models: vec!["a:1".to_owned(), "b:2".to_owned()],
        latency: Some(11.6),
        last_check: Some(now()),
        quality: Quality::Excellent,
        breaker: Breaker::Closed,
        ..Connection::default()
    }
}

#[test]
fn login_has_the_agreed_fields_and_places() {
    let fields = ["authenticated", "subject", "expires_at", "stored_in", "refreshable", "last_error"];
    assert_eq!(names(&json(AuthStatus::default())), BTreeSet::from(fields));
    for (place, name) in [
        (StoredIn::Keyring, "keyring"),
        (StoredIn::Credential, "credential"),
        (StoredIn::File, "file"),
        (StoredIn::TokenFile, "token_file"),
        (StoredIn::None, "none"),
    ] {
        assert_eq!((json(place), place.to_string()), (json!(name), name.to_owned()));
    }
    let later: AuthStatus =
        serde_json::from_value(json!({ "stored_in": "tpm", "new": 1 })).expect("a later one");
    assert_eq!(later.stored_in, StoredIn::Unknown);
}

#[test]
fn token_request_shows_none_of_its_values() {
    let request = TokenRequest {
        token: "canary".to_owned(),
        client_id: Some("canary".to_owned()),
        ..Default::default()
    };
    assert_eq!(format!("{request:?}"), "TokenRequest { .. }");
    assert_eq!(json(&request), json!({ "token": "canary", "client_id": "canary" }));
}

#[test]
fn status_has_the_agreed_fields() {
    let mut status = Status { timestamp: now(), ..Status::default() };
    status.connections.insert("ollama".to_owned(), connected());
    status.warnings.push(Warning::new("no_token", "there is no token", "run: tunnelctl login"));
    let status = json(&status);
    assert_eq!(
        names(&status),
        BTreeSet::from([
            "tunnel_manager",
            "tunnel",
            "connections",
            "best_connection",
            "warnings",
            "config",
            "timestamp"
        ])
    );
    assert_eq!(names(&status["tunnel_manager"]), BTreeSet::from(["running", "connecting", "error"]));
    assert_eq!(
        names(&status["tunnel"]),
        BTreeSet::from([
            "target",
            "state",
            "relay",
            "device",
            "since",
            "rtt_ms",
            "reconnects",
            "resumes",
            "last_error"
        ])
    );
    assert_eq!(
        names(&status["connections"]["ollama"]),
        BTreeSet::from([
            "id",
            "type",
            "speaks",
            "state",
            "connected",
            "endpoint",
            "version",
            "models",
            "latency",
            "last_check",
            "quality",
            "error",
            "in_flight",
            "queued",
            "breaker",
            "health",
        ])
    );
    assert_eq!(
        names(&status["config"]),
        BTreeSet::from(["files", "loaded_at", "last_error", "restart_required"])
    );
    assert_eq!(
        status["warnings"][0],
        json!({
            "code": "no_token", "severity": "warning", "message": "there is no token",
            "next_step": "run: tunnelctl login", "since": null,
        })
    );
    assert_eq!(status["timestamp"], "2025-06-01T12:00:00Z");
}

#[test]
fn connections_add_description_and_attention() {
    let down =
        Connection { id: "lab".to_owned(), error: Some("refused".to_owned()), ..Connection::default() };
    let answer = json(Connections::new([connected(), down], now()));
    assert_eq!(answer["total_connections"], 2);
    assert_eq!(answer["active_connections"], 1);
    assert_eq!(answer["connections"][0]["status_description"], "Connected, 2 models, 12 ms");
    assert_eq!(answer["connections"][0]["needs_attention"], false);
    assert_eq!(answer["connections"][0]["type"], "ollama");
    assert_eq!(answer["connections"][1]["needs_attention"], true);
    let back: Connections = serde_json::from_value(answer).expect("reads its own");
    assert_eq!(back.connections[0].connection, connected());
}

#[test]
fn the_other_answers_have_the_agreed_fields() {
    assert_eq!(names(&json(Health::default())), BTreeSet::from(["status", "uptime", "version", "timestamp"]));
    assert_eq!(
        names(&json(Version::default())),
        BTreeSet::from([
            "tunnel_manager",
            "api_version",
            "build",
            "git",
            "protocol",
            "log",
            "log_file",
            "timestamp"
        ])
    );
    assert_eq!(
        json(TunnelAnswer::success("tunnel started", now())),
        json!({ "message": "tunnel started", "status": "success", "timestamp": "2025-06-01T12:00:00Z" })
    );
    assert_eq!(
        names(&json(ErrorBody::default())),
        BTreeSet::from(["error", "code", "status_code", "request_id", "timestamp"])
    );
    for (state, name) in [
        (TunnelState::Disconnected, "disconnected"),
        (TunnelState::Connecting, "connecting"),
        (TunnelState::Connected, "connected"),
        (TunnelState::Backoff, "backoff"),
        (TunnelState::Refused, "refused"),
    ] {
        assert_eq!(json(state), name);
        assert_eq!(state.to_string(), name);
    }
    assert_eq!(json([Target::Up, Target::Down]), json!(["up", "down"]));
    assert_eq!(
        json([HealthStatus::Healthy, HealthStatus::Degraded, HealthStatus::Unhealthy]),
        json!(["healthy", "degraded", "unhealthy"])
    );
    assert_eq!(
        json([Breaker::Closed, Breaker::Open, Breaker::HalfOpen]),
        json!(["closed", "open", "half_open"])
    );
    for health in [
        ConnectionHealth::Unknown,
        ConnectionHealth::Up,
        ConnectionHealth::Busy,
        ConnectionHealth::Warming,
        ConnectionHealth::Degraded,
        ConnectionHealth::Down,
        ConnectionHealth::Unauthorised,
    ] {
        assert_eq!(json(health), json!(health.as_str()));
    }
    assert_eq!(
        json([Quality::Excellent, Quality::Good, Quality::Poor, Quality::Critical]),
        json!(["Excellent", "Good", "Poor", "Critical"])
    );
}

#[test]
fn newer_daemon_degrades_to_unknown() {
    let status: Status = serde_json::from_value(json!({
        "tunnel": { "state": "hibernating", "target": "sideways", "colour": "red" },
        "connections": { "x": { "id": "x", "type": "quantum", "state": "entangled", "quality": "Superb",
                                "breaker": "melted", "health": "feverish" } },
        "warnings": [{ "code": "new", "severity": "purple", "message": "m", "next_step": "n", "more": 1 }],
        "horoscope": {},
    }))
    .expect("unknown values and fields are no error");
    assert_eq!(status.tunnel.state, TunnelState::Unknown);
    assert_eq!(status.tunnel.target, Target::Unknown);
    let connection = &status.connections["x"];
    assert_eq!(connection.kind, ConnectionKind::Unknown);
    assert_eq!(connection.state, ConnectionState::Unknown);
    assert_eq!(connection.quality, Quality::Unknown);
    assert_eq!(connection.breaker, Breaker::Unknown);
    assert_eq!(connection.health, ConnectionHealth::Unknown);
    assert_eq!(status.warnings[0].severity, Severity::Unknown);
}

#[test]
fn older_daemon_may_leave_fields_out() {
    assert_eq!(serde_json::from_str::<Status>("{}").expect("all fields have defaults"), Status::default());
    assert_eq!(serde_json::from_str::<Health>("{}").expect("likewise").status, HealthStatus::Unknown);
}

#[test]
fn quality_has_the_documented_thresholds() {
    use std::time::Duration;
    let ms = |ms| Some(Duration::from_millis(ms));
    assert_eq!(quality(false, ms(1), 0.0), Quality::Critical);
    assert_eq!(quality(true, ms(1), 0.101), Quality::Critical);
    assert_eq!(quality(true, ms(5001), 0.10), Quality::Poor);
    assert_eq!(quality(true, ms(5000), 0.0), Quality::Good);
    assert_eq!(quality(true, ms(1001), 0.0), Quality::Good);
    assert_eq!(quality(true, ms(1000), 0.051), Quality::Good);
    assert_eq!(quality(true, ms(1000), 0.05), Quality::Excellent);
    assert_eq!(quality(true, None, 0.0), Quality::Excellent);
}

#[test]
fn attention_is_needed_when_down_bad_or_long_unchecked() {
    let at = |seconds: i64| now() + jiff::SignedDuration::from_secs(seconds);
    assert!(!connected().needs_attention(at(300)));
    assert!(connected().needs_attention(at(301)));
    assert!(!connected().needs_attention(at(-3600)), "a clock that was set back is no reason");
    for quality in [Quality::Critical, Quality::Poor] {
        assert!(Connection { quality, ..connected() }.needs_attention(now()));
    }
    assert!(Connection { connected: false, ..connected() }.needs_attention(now()));
}

#[test]
fn usage_row_has_the_name_that_was_asked_for_and_no_other() {
    let row = UsageRow { model: Some(String::new()), requests: 1, ..UsageRow::default() };
    let answer = Usage { usage: vec![row], since: Some("2025-06-01".parse().unwrap()), timestamp: now() };
    let counts = [
        "requests",
        "failed",
        "prompt_tokens",
        "completion_tokens",
        "bytes_in",
        "bytes_out",
        "duration_ms",
        "cached_tokens",
        "streamed",
        "first_token_ms",
        "load_ms",
        "prompt_ms",
        "generation_ms",
    ];
    assert_eq!(
        json(&answer)["usage"].as_array().map(|rows| names(&rows[0])),
        Some(counts.into_iter().chain(["model"]).collect())
    );
    assert_eq!(json(&answer)["since"], json!("2025-06-01"));
    assert_eq!(serde_json::from_value::<Usage>(json(&answer)).unwrap(), answer);
}

#[test]
fn usage_is_asked_for_by_name_and_by_day_or_time() {
    assert_eq!(UsageBy::ALL.map(|by| by.to_string().parse()), UsageBy::ALL.map(Ok));
    assert_eq!("colour".parse::<UsageBy>(), Err(NotUsageBy));
    let day = |text: &str| text.parse::<Since>().ok().map(|since| since.0.to_string());
    assert_eq!(day("2025-06-01").as_deref(), Some("2025-06-01"));
    assert_eq!(day("2025-06-01T23:59:59Z").as_deref(), Some("2025-06-01"));
    assert_eq!(day("2025-06-01T23:59:59-02:00").as_deref(), Some("2025-06-02"), "days are UTC");
    assert_eq!(day("yesterday"), None);
}

#[test]
fn events_of_a_newer_daemon_can_be_read() {
    let events: Events = serde_json::from_value(json!({
        "events": [{ "id": 7, "kind": "levitated", "severity": "purple", "data": { "by_m": 2 }, "mood": "high" }],
    }))
    .unwrap();
    assert_eq!(events.events[0].severity, Severity::Unknown);
    assert_eq!(
        names(&json(Event::default())),
        BTreeSet::from(["id", "at", "kind", "severity", "message", "data"])
    );
}
