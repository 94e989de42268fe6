use std::collections::BTreeSet;
use std::time::Duration;

use http::header::{ALLOW, HOST, ORIGIN};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::task::TaskTracker;
use tunnel_broker::BrokerConfig;

use super::*;
use crate::config::{Loaded, Options};
use crate::status::{Sources, StatusHub};
use crate::tunnel::{self, TokenSource};

/// An API without backends and without a token.
struct Fixture {
    router: Router,
    stopping: CancellationToken,
}

fn fixture(edit: impl FnOnce(&mut Loaded)) -> Fixture {
    let mut loaded = Loaded::load(&Options::default()).unwrap();
    loaded.broker = BrokerConfig::default();
    edit(&mut loaded);
    let (tracker, hard) = (TaskTracker::new(), CancellationToken::new());
    let soft = hard.child_token();
    let broker = Broker::start(loaded.broker.clone(), &tracker, hard.clone());
    let (settings, settings_reader) = watch::channel(Arc::new(loaded.tunnel.clone()));
    let (state, config) = watch::channel(Arc::new(loaded.state(Vec::new())));
    let token = TokenSource::new(None, None);
    let deps =
        tunnel::Deps { settings: settings_reader, token, broker: broker.clone(), soft: soft.clone(), hard };
    let tunnel = tunnel::start(deps, &tracker);
    let sources = Sources {
        backends: broker.status(),
        tunnel: tunnel.reports(),
        config,
        missing: Vec::new(),
        soft: soft.clone(),
    };
    let (hub, status) = StatusHub::new(sources);
    tracker.spawn(hub.run());
    // The daemon keeps these for its life.
    tracker.spawn(async move {
        let _senders = (settings, state);
        std::future::pending::<()>().await;
    });
    let guards = Arc::new(Guards::new(8765, 11435, &loaded.config.allowed_origins));
    let api = Api { status, tunnel, broker, guards, started: Instant::now(), stopping: soft.clone() };
    Fixture { router: router(api), stopping: soft }
}

fn request(method: &str, path: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost:8765")
        .extension(Caller { entrance: Entrance::Port, peer: Peer::SameUser })
        .body(Body::empty())
        .unwrap()
}

impl Fixture {
    async fn send(&self, request: Request<Body>) -> (StatusCode, http::HeaderMap, Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let (status, _, body) = self.send(request("GET", path)).await;
        (status, body)
    }

    async fn post(&self, path: &str) -> (StatusCode, Value) {
        let (status, _, body) = self.send(request("POST", path)).await;
        (status, body)
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn set(words: &str) -> BTreeSet<&str> {
    words.split_whitespace().collect()
}

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"];

#[tokio::test]
async fn no_route_forgets_the_guard() {
    let fixture = fixture(|_| {});
    let paths = routes().into_iter().map(|(path, _)| path).chain(["/", "/nowhere", "/api"]);
    for path in paths {
        for method in METHODS {
            let with = |edit: &dyn Fn(&mut Request<Body>)| {
                let mut request = request(method, path);
                edit(&mut request);
                fixture.send(request)
            };
            let stranger = Caller { entrance: Entrance::Port, peer: Peer::Stranger };
            let cases = [
                (
                    "host",
                    with(&|r| {
                        r.headers_mut().insert(HOST, HeaderValue::from_static("evil.com"));
                    })
                    .await,
                ),
                (
                    "origin",
                    with(&|r| {
                        r.headers_mut().insert(ORIGIN, HeaderValue::from_static("http://evil.com"));
                    })
                    .await,
                ),
                (
                    "stranger",
                    with(&|r| {
                        r.extensions_mut().insert(stranger);
                    })
                    .await,
                ),
                (
                    "no door",
                    with(&|r| {
                        r.extensions_mut().remove::<Caller>();
                    })
                    .await,
                ),
            ];
            for (what, (status, headers, _)) in cases {
                assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} {what}");
                assert!(!headers.contains_key("access-control-allow-origin"), "{method} {path} {what}");
            }
        }
    }
}

#[tokio::test]
async fn wildcard_origin_reads_and_changes_nothing() {
    let fixture = fixture(|_| {});
    let with_origin = |method: &str, path: &str| {
        let mut request = request(method, path);
        request.headers_mut().insert(ORIGIN, HeaderValue::from_static("http://localhost:3000"));
        fixture.send(request)
    };
    let (status, headers, _) = with_origin("GET", "/api/status").await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (StatusCode::OK, &"http://localhost:3000".parse().unwrap())
    );
    let (status, _, body) = with_origin("POST", "/api/tunnel/stop").await;
    assert_eq!((status, &body["code"]), (StatusCode::FORBIDDEN, &"origin_not_allowed".into()));
}

#[tokio::test]
async fn every_answer_carries_version_and_request_id() {
    let fixture = fixture(|_| {});
    for (method, path) in [("GET", "/api/health"), ("GET", "/nowhere"), ("PUT", "/api/status")] {
        let (_, headers, _) = fixture.send(request(method, path)).await;
        assert_eq!(headers[VERSION], env!("CARGO_PKG_VERSION"), "{path}");
        assert_eq!(headers[REQUEST_ID].len(), 32, "{path}");
    }
}

#[tokio::test]
async fn wrong_method_names_the_right_ones() {
    let fixture = fixture(|_| {});
    for (method, path, allow) in [("POST", "/api/status", "GET,HEAD"), ("GET", "/api/tunnel/start", "POST")] {
        let (status, headers, body) = fixture.send(request(method, path)).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers[ALLOW], allow, "{path}");
        assert_eq!(body["status_code"], 405);
    }
}

#[tokio::test]
async fn errors_have_the_promised_fields() {
    let fixture = fixture(|_| {});
    let (status, headers, body) = fixture.send(request("GET", "/api/nowhere")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(keys(&body), set("error code status_code request_id timestamp"));
    assert_eq!(
        (&body["code"], &body["request_id"]),
        (&"not_found".into(), &headers[REQUEST_ID].to_str().unwrap().into())
    );
}

#[tokio::test]
async fn status_has_the_promised_shape() {
    let fixture = fixture(|_| {});
    let (status, body) = fixture.get("/api/status").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        keys(&body),
        set("tunnel_manager tunnel connections best_connection warnings config timestamp")
    );
    assert_eq!(keys(&body["tunnel_manager"]), set("running connecting error"));
    assert_eq!(
        keys(&body["tunnel"]),
        set("target state relay device since rtt_ms reconnects resumes last_error")
    );
    assert_eq!(keys(&body["config"]), set("files loaded_at last_error restart_required"));
    let connection = set(
        "id type state connected endpoint version models latency last_check quality error in_flight queued breaker",
    );
    assert_eq!(keys(&body["connections"]["cloud"]), connection);
    assert_eq!(body["connections"]["cloud"]["type"], "cloud");

    let (_, body) = fixture.get("/api/connections").await;
    assert_eq!(keys(&body), set("connections total_connections active_connections timestamp"));
    let expected = &connection | &set("status_description needs_attention");
    assert_eq!(keys(&body["connections"][0]), expected);
}

#[tokio::test]
async fn health_and_version_have_the_promised_shape() {
    let fixture = fixture(|_| {});
    let (status, body) = fixture.get("/api/health").await;
    assert_eq!((status, keys(&body)), (StatusCode::OK, set("status uptime version timestamp")));
    assert_eq!(body["status"], "unhealthy", "there is no backend");
    let (status, body) = fixture.get("/api/version").await;
    let expected = set("tunnel_manager api_version build git protocol timestamp");
    assert_eq!((status, keys(&body)), (StatusCode::OK, expected));
    assert_eq!((&body["api_version"], &body["protocol"]), (&"1.0".into(), &"tunnel.v1".into()));
}

#[tokio::test]
async fn alive_without_backends_and_not_ready() {
    let fixture = fixture(|_| {});
    assert_eq!(fixture.get("/livez").await.0, StatusCode::OK);
    let (status, body) = fixture.get("/readyz").await;
    assert_eq!((status, &body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"not_ready".into()));
    fixture.stopping.cancel();
    let (_, body) = fixture.get("/readyz").await;
    assert!(body["error"].as_str().unwrap().contains("shutting down"), "{body}");
}

#[tokio::test]
async fn orders_are_idempotent_and_answered() {
    let fixture = fixture(|_| {});
    for path in [
        "/api/tunnel/start",
        "/api/tunnel/start",
        "/api/tunnel/stop",
        "/api/tunnel/stop",
        "/api/tunnel/restart",
    ] {
        let (status, body) = fixture.post(path).await;
        assert_eq!((status, &body["status"]), (StatusCode::OK, &"success".into()), "{path}");
        assert_eq!(keys(&body), set("message status timestamp"));
    }
    let (_, body) = fixture.post("/api/tunnel/stop?wait=5").await;
    assert_eq!(body["status"], "success");
    let (_, body) = fixture.get("/api/status").await;
    assert_eq!(
        (&body["tunnel"]["target"], &body["tunnel"]["state"]),
        (&"down".into(), &"disconnected".into())
    );
}

#[tokio::test]
async fn goal_that_is_not_reached_in_time_is_a_timeout_that_says_why() {
    let fixture = fixture(|_| {});
    let (status, body) = fixture.post("/api/tunnel/start?wait=0.2").await;
    assert_eq!((status, &body["code"]), (StatusCode::GATEWAY_TIMEOUT, &"timeout".into()));
    assert!(body["error"].as_str().unwrap().contains("no token"), "{body}");
}

#[tokio::test]
async fn wait_must_be_a_sensible_number() {
    let fixture = fixture(|_| {});
    for wait in ["abc", "-1", "NaN", "inf", "1e9"] {
        let (status, _) = fixture.post(&format!("/api/tunnel/start?wait={wait}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wait}");
    }
}

#[tokio::test]
async fn tunnel_that_is_switched_off_cannot_be_started() {
    let fixture = fixture(|loaded| {
        loaded.tunnel.enabled = false;
        loaded.config.enable_cloud_proxy = false;
    });
    let (status, body) = fixture.post("/api/tunnel/start").await;
    assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &"cloud_proxy_disabled".into()));
    let (_, body) = fixture.get("/api/status").await;
    assert_eq!(body["connections"], serde_json::json!({}));
    assert_eq!(body["tunnel"]["relay"], Value::Null);
}

#[tokio::test]
async fn missing_token_is_a_warning_and_not_an_error() {
    let fixture = fixture(|_| {});
    let shown = async {
        loop {
            let (_, body) = fixture.get("/api/status").await;
            if body["tunnel"]["state"] == "disconnected" && !body["warnings"].as_array().unwrap().is_empty() {
                return body;
            }
            tokio::task::yield_now().await;
        }
    };
    let body = tokio::time::timeout(Duration::from_secs(5), shown).await.unwrap();
    assert_eq!(body["warnings"][0]["code"], "no_token");
    assert_eq!(body["tunnel_manager"]["error"], Value::Null);
    assert_eq!(body["connections"]["cloud"]["error"], "no token");
}
