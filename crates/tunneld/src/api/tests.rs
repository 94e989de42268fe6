use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::{ALLOW, HOST, ORIGIN};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::task::TaskTracker;
use tunnel_broker::BrokerConfig;
use tunnel_runtime::CriticalTasks;

use super::*;
use crate::config::{ConfigHandle, Loaded, Options, TokenSink};
use crate::diagnosis::{Examiner, Subjects};
use crate::notify::LeftToClients;
use crate::plugins::Backends;
use crate::reload::{Consumers, Reloader};
use crate::secrets::testing::issuer::Issuer;
use crate::secrets::testing::jwt;
use crate::secrets::{self, Places, SessionBus, Vault};
use crate::status::{Sources, StatusHub};
use crate::tunnel;
use crate::warnings::Reports;
use crate::world::Wake;

/// An API without backends and without a token.
pub(super) struct Fixture {
    router: Router,
    stopping: CancellationToken,
    _state_dir: tempfile::TempDir,
}

/// An API of these parts; nobody reads a configuration anew.
pub(super) fn fixture(edit: impl FnOnce(&mut Loaded)) -> Fixture {
    let (fixture, reloader, tracker) = build(Options::default(), TokenSink::none(), edit);
    // The daemon keeps it, and what it holds, for its life.
    tracker.spawn(async move {
        let _reloader = reloader;
        std::future::pending::<()>().await;
    });
    fixture
}

/// An API with the owner of the configuration behind it.
fn fixture_of(options: Options, tokens: TokenSink) -> Fixture {
    let (fixture, reloader, tracker) = build(options, tokens, |_| {});
    let (hangup, hangups) = watch::channel(0);
    tracker.spawn(async move {
        let _hangup = hangup;
        reloader.run(hangups, CancellationToken::new()).await;
    });
    fixture
}

fn build(
    options: Options,
    tokens: TokenSink,
    edit: impl FnOnce(&mut Loaded),
) -> (Fixture, Reloader, TaskTracker) {
    let mut loaded = Loaded::load(&options).unwrap();
    loaded.broker = BrokerConfig::default();
    edit(&mut loaded);
    let (tracker, hard) = (TaskTracker::new(), CancellationToken::new());
    let soft = hard.child_token();
    let broker = Broker::start(loaded.broker.clone(), &tracker, hard.clone());
    let (settings, settings_reader) = watch::channel(Arc::new(loaded.tunnel.clone()));
    let (state, config) = watch::channel(Arc::new(loaded.state(Vec::new())));
    let state_dir = tempfile::tempdir().unwrap();
    let places = Places {
        token_file: None,
        credentials_directory: None,
        state_dir: Some(state_dir.path().to_owned()),
        bus: SessionBus::none(),
    };
    let tasks = CriticalTasks::new(tracker.clone(), soft.clone());
    let vault = Vault::start(places.clone(), soft.clone(), &tasks);
    let token = secrets::start(places, settings.subscribe(), soft.clone(), &tasks);
    // Without a database: numbers are those of the test.
    let opened =
        Store::open(None, Timestamp::now()).now_or_never().expect("without a directory it opens at once");
    let record = opened.handle.clone();
    let login =
        crate::login::start(settings.subscribe(), token.clone(), record.clone(), soft.clone(), &tasks);
    let keys =
        Keys::new(Vec::new(), settings.subscribe(), token.clone(), record, broker.clone(), tracker.clone());
    let deps = tunnel::Deps {
        settings: settings_reader,
        token: token.clone(),
        wanted: true,
        wakes: watch::channel(Wake::default()).1,
        broker: broker.clone(),
        ring: keys.ring(),
        record: opened.handle.clone(),
        soft: soft.clone(),
        hard,
    };
    let tunnel = tunnel::start(deps, &tasks);
    let sources = Sources {
        backends: broker.status(),
        tunnel: tunnel.reports(),
        config,
        places: watch::channel(crate::doors::heartbeat::Places::default()).1,
        said: Reports::new().follow(),
        missing: Vec::new(),
        former: Vec::new(),
        listeners: Vec::new(),
        soft: soft.clone(),
    };
    let (hub, status) = StatusHub::new(sources);
    tracker.spawn(hub.run());
    let guards = Arc::new(Guards::new(8765, 11435, &loaded.config.allowed_origins, &[]));
    let options = Arc::new(options);
    let (config, orders) = ConfigHandle::new(Arc::clone(&options), state.subscribe(), tokens);
    tracker.spawn(opened.recorder.run(soft.clone()));
    let (store, resources) = (opened.store, SharedReading::default());
    let examiner = Examiner::new(Subjects {
        status: status.clone(),
        config: config.follow(),
        settings: settings.subscribe(),
        broker: broker.clone(),
        tunnel: tunnel.clone(),
        token: token.clone(),
        state_dir: Some(state_dir.path().to_owned()),
    });
    let api = Api {
        config,
        tunnel,
        relay: settings.subscribe(),
        token,
        vault,
        login,
        keys,
        guards,
        page: Arc::new(crate::page::registry(&broker, status.clone(), store.clone(), resources.clone())),
        store,
        recorder: opened.handle,
        resources,
        last_answer: Arc::default(),
        clients: Clients::new(LeftToClients::default()),
        // What runs on the machine of the test is none of its business.
        detector: Detector::new([]),
        examiner,
        log_level: None,
        log_place: None,
        status,
        broker: broker.clone(),
        started: Instant::now(),
        started_at: Timestamp::now(),
        tracker: tracker.clone(),
        stopping: soft.clone(),
        hard: CancellationToken::new(),
    };
    let router = router(api);
    let consumers = Consumers {
        doors: None,
        reports: Reports::new(),
        backends: Backends::new(broker, BrokerConfig::default()),
        vault: Vault::of_nothing(),
        settings,
        log_level: None,
    };
    let reloader = Reloader { options, consumers, state, orders };
    (Fixture { router, stopping: soft, _state_dir: state_dir }, reloader, tracker)
}

pub(super) fn request(method: &str, path: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost:8765")
        .extension(Caller { entrance: Entrance::Port, peer: Peer::SameUser })
        .body(Body::empty())
        .unwrap()
}

impl Fixture {
    pub(super) async fn send(&self, request: Request<Body>) -> (StatusCode, http::HeaderMap, Value) {
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

impl Fixture {
    async fn put_token(&self, body: &str) -> (StatusCode, Value) {
        let mut request = request("PUT", "/api/auth/token");
        *request.body_mut() = Body::from(body.to_owned());
        let (status, _, body) = self.send(request).await;
        (status, body)
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn set(words: &str) -> BTreeSet<&str> {
    words.split_whitespace().collect()
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

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

/// What a page with an exact origin cannot order, and what it can: a new route is added to one of them. Ask yourself
/// what it could leave behind for somebody who has taken over the page.
const FOR_PROGRAMS: [&str; 7] = [
    "DELETE /api/credentials/{name}",
    "DELETE /api/keys/{id}",
    "POST /api/auth/login",
    "POST /api/config/import",
    "POST /api/keys",
    "PUT /api/auth/token",
    "PUT /api/credentials/{name}",
];
const FOR_PAGES_TOO: [&str; 24] = [
    "DELETE /api/auth/login",
    "DELETE /api/auth/token",
    "DELETE /api/models/aliases/{name}",
    "DELETE /api/models/warm/{model}",
    "DELETE /api/requests/{id}",
    // Within what the configuration says of pages.
    "PATCH /api/config",
    "POST /api/auth/logout",
    "POST /api/config/backup",
    "POST /api/config/reload",
    "POST /api/config/restore",
    "POST /api/config/validate",
    "POST /api/connections/detect",
    "POST /api/connections/{id}/test",
    "POST /api/diagnosis",
    "POST /api/explain",
    "POST /api/models/load",
    "POST /api/models/unload",
    "POST /api/tunnel/restart",
    "POST /api/tunnel/start",
    "POST /api/tunnel/stop",
    "PUT /api/config",
    "PUT /api/log-level",
    "PUT /api/models/aliases/{name}",
    "PUT /api/models/warm/{model}",
];

/// Paused: some orders wait for what this daemon does not have.
#[tokio::test(start_paused = true)]
async fn each_order_is_one_for_web_pages_too_or_for_programs_only() {
    let fixture = fixture_of(Options::default(), TokenSink::none());
    let send = async |method: &str, path: &str, headers: &[(&'static str, &'static str)]| {
        let mut request = request(method, path);
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        fixture.send(request).await
    };
    let is_refused = |(status, _, body): &(StatusCode, http::HeaderMap, Value)| {
        *status == StatusCode::FORBIDDEN && body["code"] == "page_change_refused"
    };
    let (mut refused, mut served) = (BTreeSet::new(), BTreeSet::new());
    for (path, _) in routes() {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let answer = send(method, path, &[("origin", "https://app.cloudtolocalllm.online")]).await;
            if answer.0 == StatusCode::METHOD_NOT_ALLOWED {
                continue;
            }
            let order = format!("{method} {path}");
            if is_refused(&answer) {
                assert!(answer.2["error"].as_str().unwrap().contains("tunnelctl"));
                assert!(answer.1.contains_key("access-control-allow-origin"), "the page is told why");
                let own = send(method, path, &[("origin", "http://localhost:8765")]).await;
                let silent = send(method, path, &[("sec-fetch-site", "same-origin")]).await;
                assert!(is_refused(&own) && is_refused(&silent), "{order}");
                assert!(!is_refused(&send(method, path, &[]).await), "{order} by a program");
                refused.insert(order);
            } else {
                served.insert(order);
            }
        }
    }
    let list =
        |orders: &[&str]| -> BTreeSet<String> { orders.iter().map(|&order| order.to_owned()).collect() };
    assert_eq!(refused, list(&FOR_PROGRAMS));
    assert_eq!(served, list(&FOR_PAGES_TOO));
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
async fn errors_of_libraries_have_the_promised_fields_too() {
    let fixture = fixture(|_| {});
    let mut large = request("PUT", "/api/auth/token");
    *large.body_mut() = Body::from(vec![b' '; MAX_BODY_BYTES + 1]);
    let cases = [
        (large, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
        (request("POST", "/api/connections/%ff/test"), StatusCode::BAD_REQUEST, "bad_request"),
        (request("DELETE", "/api/requests/%ff"), StatusCode::BAD_REQUEST, "bad_request"),
    ];
    for (request, expected, code) in cases {
        let path = request.uri().clone();
        let (status, headers, body) = fixture.send(request).await;
        assert_eq!((status, &body["code"]), (expected, &code.into()), "{path}: {body}");
        assert_eq!(headers["content-type"], "application/json", "{path}");
        assert_eq!(keys(&body), set("error code status_code request_id timestamp"), "{path}");
    }
}

#[tokio::test]
async fn status_has_the_promised_shape() {
    let fixture = fixture(|_| {});
    let (status, body) = fixture.get("/api/status").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        keys(&body),
        set("tunnel_manager tunnel connections best_connection warnings config gateway timestamp")
    );
    assert_eq!(keys(&body["tunnel_manager"]), set("running connecting error"));
    assert_eq!(
        keys(&body["tunnel"]),
        set("target state relay device since rtt_ms reconnects resumes last_error")
    );
    assert_eq!(keys(&body["config"]), set("files loaded_at last_error restart_required"));
    let connection = set(
        "id type speaks state health connected endpoint version models latency last_check quality error in_flight queued breaker",
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
    let expected = set("tunnel_manager api_version build git protocol log log_file timestamp");
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

#[tokio::test]
async fn login_is_shown_stored_and_removed() {
    let fixture = fixture(|_| {});
    let fields = set("authenticated subject expires_at stored_in refreshable last_error");
    let (status, body) = fixture.get("/api/auth").await;
    assert_eq!((status, keys(&body)), (StatusCode::OK, fields.clone()));
    assert_eq!((&body["authenticated"], &body["stored_in"]), (&false.into(), &"none".into()));

    let token = jwt("alice", 0, 600);
    let login = serde_json::json!({ "token": token, "refresh_token": "canary-refresh", "client_id": "desk",
                                      "token_endpoint": "https://login.example/token" });
    let (status, body) = fixture.put_token(&login.to_string()).await;
    assert_eq!((status, keys(&body)), (StatusCode::OK, fields));
    assert_eq!((&body["authenticated"], &body["stored_in"]), (&true.into(), &"file".into()));
    assert_eq!((&body["subject"], &body["refreshable"]), (&"alice".into(), &true.into()));
    assert!(body["expires_at"].is_string());
    for path in ["/api/auth", "/api/status"] {
        let (_, body) = fixture.get(path).await;
        assert!(!body.to_string().contains("canary"), "{path}: {body}");
    }
    let (status, _, body) = fixture.send(request("DELETE", "/api/auth/token")).await;
    assert_eq!((status, &body["stored_in"]), (StatusCode::OK, &"none".into()));
    let (status, body) = fixture.post("/api/auth/logout").await;
    assert_eq!(
        (status, &body["authenticated"], &body["last_error"]),
        (StatusCode::OK, &false.into(), &Value::Null)
    );
}

#[tokio::test]
async fn login_that_cannot_be_used_is_refused_and_not_repeated() {
    let fixture = fixture(|_| {});
    let cases = [
        ("canary", "not JSON"),
        (r#"["canary"]"#, "takes an object"),
        (r#"{"tokn":"canary"}"#, "takes an object"),
        (r#"{"token":1234567}"#, "takes an object"),
        (r#"{"token":"a","canary":"b"}"#, "takes an object"),
        (r#"{"token":""}"#, "DELETE"),
        (r#"{"token":"canary two"}"#, "token must be"),
        (r#"{"token":"a","refresh_token":"canary"}"#, "needs token_endpoint"),
        (
            r#"{"token":"a","refresh_token":"canary\n","token_endpoint":"https://x.example"}"#,
            "refresh_token must",
        ),
        (r#"{"token":"a","refresh_token":"b","token_endpoint":"http://canary.example"}"#, "https://"),
        (r#"{"token":"a","token_endpoint":"https://me:canary@x.example"}"#, "token_endpoint must not hold"),
        (r#"{"token":"a","revocation_endpoint":"canary"}"#, "revocation_endpoint is not"),
        (r#"{"token":"a","client_id":"canary\u0007"}"#, "client_id"),
    ];
    for (body, why) in cases {
        let (status, answer) = fixture.put_token(body).await;
        assert_eq!((status, &answer["code"]), (StatusCode::BAD_REQUEST, &"bad_request".into()), "{body}");
        let sentence = answer["error"].as_str().unwrap();
        assert!(sentence.contains(why) && !sentence.contains("canary"), "{body}: {sentence}");
    }
    let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(33 * 1024));
    assert_eq!(fixture.put_token(&long).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(fixture.get("/api/auth").await.1["stored_in"], "none");
}

/// An API whose relay is this server.
fn fixture_at(server: &Issuer) -> Fixture {
    let relay = tunnel_transport::RelayUrl::parse(&server.url("")).unwrap();
    fixture(|loaded| (loaded.tunnel.enabled, loaded.tunnel.relay) = (true, relay))
}

#[tokio::test]
async fn login_that_the_relay_does_not_offer_says_what_to_do_without_it() {
    let server = Issuer::start();
    let fixture = fixture_at(&server);
    server.will_answer(404, &Value::Null);
    let (status, body) = fixture.post("/api/auth/login").await;
    assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &"login_unavailable".into()));
    assert!(body["error"].as_str().unwrap().contains("tunnelctl login --token-stdin"), "{body}");
    let (status, body) = fixture.get("/api/auth/login").await;
    let fields = set("state flow error code expires_at");
    assert_eq!((status, keys(&body), &body["state"]), (StatusCode::OK, fields, &"none".into()));
    let (status, _, body) = fixture.send(request("DELETE", "/api/auth/login")).await;
    assert_eq!((status, &body["state"]), (StatusCode::OK, &"none".into()));
    for bad in ["[]", "{\"flow\":\"magic\"}", "{\"canary\":1}"] {
        let mut request = request("POST", "/api/auth/login");
        *request.body_mut() = Body::from(bad);
        let (status, _, body) = fixture.send(request).await;
        assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &"bad_request".into()), "{bad}");
    }
}

#[tokio::test]
async fn logout_ends_a_login_that_is_under_way() {
    let server = Issuer::start();
    let fixture = fixture_at(&server);
    let at = |path: &str| server.url(path);
    server.will_answer(200, &serde_json::json!({ "issuer": at(""), "client_id": "desk", "scope": "openid" }));
    let metadata = serde_json::json!({ "issuer": at(""), "token_endpoint": at("/token"),
                                       "authorization_endpoint": at("/auth") });
    server.will_answer(200, &metadata);
    let mut begin = request("POST", "/api/auth/login");
    *begin.body_mut() = Body::from(r#"{"flow":"browser"}"#);
    assert_eq!(fixture.send(begin).await.0, StatusCode::ACCEPTED);
    assert_eq!(fixture.get("/api/auth/login").await.1["state"], "pending");
    assert_eq!(fixture.post("/api/auth/logout").await.0, StatusCode::OK);
    assert_eq!(fixture.get("/api/auth/login").await.1["state"], "none");
}

#[tokio::test]
async fn key_is_shown_once_listed_without_itself_and_revoked() {
    let server = Issuer::start();
    let fixture = fixture_at(&server);
    let ask = async |method, path: &str, body: &str| {
        let mut request = request(method, path);
        *request.body_mut() = Body::from(body.to_owned());
        let (status, _, body) = fixture.send(request).await;
        (status, body)
    };
    let (status, body) = ask("POST", "/api/keys", "").await;
    assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &"no_token".into()));
    assert!(body["error"].as_str().unwrap().contains("tunnelctl login"), "{body}");

    // Nobody dials with it: the first answers are for what the test asks.
    let fixture_token = serde_json::json!({ "token": "canary-login" }).to_string();
    fixture.post("/api/tunnel/stop").await;
    assert_eq!(fixture.put_token(&fixture_token).await.0, StatusCode::OK);
    let made = serde_json::json!({ "id": "k-1", "token": "canary-key", "scopes": ["inference"], "device": null,
                                   "models": ["m"], "expires_at": "2999-01-01T00:00:00Z", "subject": "alice" });
    server.will_answer(201, &made);
    let (status, body) = ask("POST", "/api/keys", r#"{"name":"editor","models":["m"]}"#).await;
    assert_eq!(
        (status, &body["token"], &body["id"]),
        (StatusCode::CREATED, &"canary-key".into(), &"k-1".into())
    );
    let (_, body) = ask("GET", "/api/keys", "").await;
    let listed = &body["keys"][0];
    assert_eq!((&listed["name"], &listed["models"][0]), (&"editor".into(), &"m".into()));
    assert!(!body.to_string().contains("canary") && listed["revoked_at"].is_null(), "{body}");

    server.will_answer(403, &Value::Null);
    let (status, body) = ask("POST", "/api/keys", "{}").await;
    assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &"not_allowed".into()));
    assert!(body["error"].as_str().unwrap().contains("--scope account"), "{body}");
    server.will_answer(422, &serde_json::json!({ "detail": "no such \u{1b}scope" }));
    let (status, body) = ask("POST", "/api/keys", "{}").await;
    assert_eq!((status, &body["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &"key_refused".into()));
    assert!(body["error"].as_str().unwrap().ends_with("no such scope"), "{body}");

    server.will_answer(404, &Value::Null);
    let (status, body) = ask("DELETE", "/api/keys/k-1", "").await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &"unknown_key".into()));
    assert!(body["error"].as_str().unwrap().contains("made with another login"), "{body}");
    server.will_say("HTTP/1.1 204 No Content\r\n", "");
    let (status, body) = ask("DELETE", "/api/keys/k-1", "").await;
    assert!(status == StatusCode::OK && body["revoked_at"].is_string(), "{body}");
    assert!(ask("GET", "/api/keys", "").await.1["keys"][0]["revoked_at"].is_string());
    let path = &server.forms().pop().unwrap()["path"];
    assert_eq!(path, "/_tunnel/v1/tokens/k-1");
    server.will_answer(404, &Value::Null);
    assert_eq!(ask("DELETE", "/api/keys/k-2", "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask("DELETE", "/api/keys/a%2Fb", "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.forms().pop().unwrap()["path"], "/_tunnel/v1/tokens/k-2", "that is no id");
}

#[tokio::test]
async fn local_key_needs_no_relay_and_is_listed_without_its_secret() {
    let fixture = fixture(|_| {});
    let ask = async |method, path: &str, body: &str| {
        let mut request = request(method, path);
        *request.body_mut() = Body::from(body.to_owned());
        let (status, _, body) = fixture.send(request).await;
        (status, body)
    };
    let wanted = r#"{"reach":"local","name":"phone","models":["m"],"paths":["POST /api/chat"],
                     "limits":{"requests_per_minute":6,"concurrent":2},"expires_in":60}"#;
    let (status, made) = ask("POST", "/api/keys", wanted).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(token.starts_with(&format!("{id}_")) && token.len() > 64);
    let (_, listed) = ask("GET", "/api/keys", "").await;
    let key = &listed["keys"][0];
    assert_eq!((&key["reach"], &key["name"], &key["relay"]), (&"local".into(), &"phone".into(), &"".into()));
    assert_eq!(
        key["limits"],
        serde_json::json!({ "requests_per_minute": 6, "tokens_per_minute": null, "concurrent": 2 })
    );
    assert_eq!(key["paths"], serde_json::json!(["POST /api/chat"]));
    assert!(key["expires_at"].is_string() && key["last_used_at"].is_null());
    assert!(!listed.to_string().contains(&token[id.len() + 1..]), "the secret is shown once");
    for (bad, field) in [
        (r#"{"reach":"elsewhere"}"#, "reach"),
        (r#"{"reach":"local","device":"desk"}"#, "device"),
        (r#"{"reach":"local","scopes":["account"]}"#, "scopes"),
        (r#"{"reach":"local","paths":[]}"#, "paths"),
        (r#"{"paths":"all"}"#, "paths"),
        (r#"{"reach":"local","limits":{"requestsPerMinute":1}}"#, "limits"),
        (r#"{"reach":"local","limits":{"concurrent":0}}"#, "limits"),
    ] {
        let (status, body) = ask("POST", "/api/keys", bad).await;
        assert_eq!(
            (status, &body["code"]),
            (StatusCode::BAD_REQUEST, &"bad_request".into()),
            "{bad}: {body}"
        );
        assert!(body["error"].as_str().unwrap().contains(field), "{bad}: {body}");
    }
    // Who asked for it and went away has not got it.
    let mut abandoned = Box::pin(ask("POST", "/api/keys", r#"{"reach":"local"}"#));
    assert!(futures_util::poll!(&mut abandoned).is_pending());
    assert_eq!(ask("GET", "/api/keys", "").await.1["keys"].as_array().unwrap().len(), 2);
    drop(abandoned);
    assert_eq!(ask("GET", "/api/keys", "").await.1["keys"].as_array().unwrap().len(), 1);
    // What looks like a local key does not go to the relay, to which nobody is logged in here.
    for unknown in ["tk_0000000000".to_owned(), format!("tk_0000000000_{}", "0".repeat(64))] {
        let (status, body) = ask("DELETE", &format!("/api/keys/{unknown}"), "").await;
        assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &"unknown_key".into()), "{body}");
    }
    let (status, revoked) = ask("DELETE", &format!("/api/keys/{token}"), "").await;
    assert!(status == StatusCode::OK && revoked["revoked_at"].is_string(), "{revoked}");
    assert_eq!(revoked["id"], id, "of the whole key its id is taken");
}

mod config;

#[tokio::test]
async fn probes_are_no_traffic() {
    let fixture = fixture(|_| {});
    fixture.get("/livez").await;
    fixture.get("/readyz").await;
    let (_, before) = fixture.get("/api/metrics").await;
    assert_eq!(before["api_server"]["last_request"], Value::Null);
    let (_, after) = fixture.get("/api/metrics").await;
    assert!(after["api_server"]["last_request"].is_string(), "{after}");
}

async fn diagnosis(edit: impl FnOnce(&mut Loaded)) -> Vec<(String, String)> {
    let (status, body) = fixture(edit).post("/api/diagnosis").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let text = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
    for check in body["checks"].as_array().unwrap() {
        assert!(!text(check, "title").is_empty() && !text(check, "detail").is_empty(), "{check}");
        let good = ["pass", "skip"].contains(&check["verdict"].as_str().unwrap());
        assert_eq!(text(check, "next_step").is_empty(), good, "{check}");
    }
    body["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (text(check, "id"), text(check, "verdict")))
        .collect()
}

#[tokio::test]
async fn diagnosis_reads_from_the_inside_out_and_leaves_the_relay_alone_without_a_token() {
    // Nobody listens there; a relay has no business on port 1.
    let dead = |loaded: &mut Loaded| {
        loaded.tunnel.relay = tunnel_transport::RelayUrl::parse("http://127.0.0.1:1").unwrap();
    };
    let found = diagnosis(dead).await;
    let found: Vec<(&str, &str)> =
        found.iter().map(|(id, verdict)| (id.as_str(), verdict.as_str())).collect();
    let expected = [
        ("config", "pass"),
        ("ports", "pass"),
        ("disk", "pass"),
        ("keyring", "skip"),
        ("connections", "fail"),
        ("token", "warn"),
        // Without a token nothing is dialled, so nothing is asked either.
        ("relay_dns", "skip"),
        ("relay_tcp", "skip"),
        ("relay_tls", "skip"),
        ("relay_http", "skip"),
        ("clock", "skip"),
        ("relay_websocket", "skip"),
    ];
    assert_eq!(found, expected);
    let off = diagnosis(|loaded| loaded.tunnel.enabled = false).await;
    let ids: Vec<&str> = off.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, expected.map(|(id, _)| id));
    assert!(off[5..].iter().all(|(_, verdict)| verdict == "skip"), "{off:?}");
}
