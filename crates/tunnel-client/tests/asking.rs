//! A scripted daemon on both doors.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which fail by panicking")]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::RawQuery;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tunnel_api::TunnelState;
use tunnel_client::{Client, Door, Error, Update, exit};

/// A running scripted daemon; ends when dropped.
struct Daemon {
    _serving: JoinSet<()>,
    address: SocketAddr,
}

impl Daemon {
    async fn start(router: Router) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { _serving: serving, address }
    }

    fn client(&self) -> Client {
        Client::new(format!("http://{}", self.address).parse().unwrap()).unwrap()
    }
}

fn answer(status: StatusCode, version: &str, body: serde_json::Value) -> impl IntoResponse + use<> {
    let mut headers = HeaderMap::new();
    headers.insert("tunneld-version", version.parse().unwrap());
    (status, headers, Json(body))
}

fn refusal(status: StatusCode, code: &str) -> impl IntoResponse + use<> {
    let body = json!({ "error": "it cannot be done", "code": code, "status_code": status.as_u16() });
    answer(status, env!("CARGO_PKG_VERSION"), body)
}

fn connected() -> Router {
    Router::new().route(
        "/api/status",
        get(|| async {
            answer(
                StatusCode::OK,
                env!("CARGO_PKG_VERSION"),
                json!({ "tunnel": { "state": "connected" }, "new": 1 }),
            )
        }),
    )
}

#[tokio::test]
async fn asks_over_the_port() {
    let daemon = Daemon::start(connected()).await;
    let client = daemon.client();
    assert_eq!(client.status().await.unwrap().tunnel.state, TunnelState::Connected);
    assert_eq!(client.status_json().await.unwrap()["new"], 1);
    assert_eq!(client.version_mismatch(), None);
}

#[tokio::test]
async fn asks_over_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, connected()).await.unwrap() });
    let client = Client::new(Door::Socket(path)).unwrap();
    assert_eq!(client.status().await.unwrap().tunnel.state, TunnelState::Connected);
}

#[tokio::test]
async fn missing_daemon_is_told_with_the_next_step() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let missing = Client::new(Door::Socket(path.clone())).unwrap().status().await.unwrap_err();
    assert_eq!(missing.exit_code(), exit::NOT_RUNNING);
    assert_eq!(
        missing.to_string(),
        format!("cannot reach tunneld at {}; start it with: tunnelctl start", path.display())
    );

    // A socket that a killed daemon left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = Client::new(Door::Socket(path)).unwrap().status().await.unwrap_err();
    assert_eq!(stale.exit_code(), exit::NOT_RUNNING);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let closed = Client::new(url.parse().unwrap()).unwrap().status().await.unwrap_err();
    assert_eq!(closed.exit_code(), exit::NOT_RUNNING);
    assert!(closed.to_string().contains(&url), "{closed}");
}

#[tokio::test]
async fn somebody_elses_socket_is_not_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("api.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return; // The administrator may connect to anything.
    }
    let error = Client::new(Door::Socket(path)).unwrap().status().await.unwrap_err();
    assert_eq!(error.exit_code(), exit::NOT_ALLOWED);
}

#[tokio::test]
async fn each_refusal_has_its_exit_code() {
    let router = Router::new()
        .route("/api/health", get(|| async { refusal(StatusCode::FORBIDDEN, "not_allowed") }))
        .route("/api/status", get(|| async { refusal(StatusCode::NOT_FOUND, "not_found") }))
        .route("/api/version", get(|| async { refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal") }))
        .route("/readyz", get(|| async { refusal(StatusCode::SERVICE_UNAVAILABLE, "not_ready") }))
        .route("/livez", get(|| async { refusal(StatusCode::SERVICE_UNAVAILABLE, "shutting_down") }))
        .route("/api/tunnel/start", post(|| async { refusal(StatusCode::GATEWAY_TIMEOUT, "timeout") }))
        .route("/api/tunnel/stop", post(|| async { refusal(StatusCode::CONFLICT, "cloud_proxy_disabled") }));
    let daemon = Daemon::start(router).await;
    let client = daemon.client();
    let code = |error: Error| error.exit_code();
    assert_eq!(client.health().await.map_err(code), Err(exit::NOT_ALLOWED));
    assert_eq!(client.status().await.map_err(code), Err(exit::NOT_FOUND));
    assert_eq!(client.version().await.map_err(code), Err(exit::FAILED));
    assert_eq!(client.readyz().await.map_err(code), Err(exit::NOT_READY));
    assert_eq!(client.livez().await.map_err(code), Err(exit::FAILED));
    assert_eq!(client.start(None).await.map_err(code), Err(exit::TIMEOUT));
    let conflict = client.stop(None).await.unwrap_err();
    assert_eq!((conflict.exit_code(), conflict.to_string().as_str()), (exit::CONFLICT, "it cannot be done"));
}

#[tokio::test]
async fn wait_is_passed_on() {
    let echo = |RawQuery(query): RawQuery| async move {
        answer(StatusCode::OK, env!("CARGO_PKG_VERSION"), json!({ "message": query.unwrap_or_default() }))
    };
    let daemon = Daemon::start(Router::new().route("/api/tunnel/restart", post(echo))).await;
    let client = daemon.client();
    let asked = async |wait| client.restart(wait).await.unwrap().message;
    assert_eq!(asked(None).await, "");
    assert_eq!(asked(Some(Duration::from_secs(7))).await, "wait=7");
    assert_eq!(asked(Some(Duration::from_millis(1500))).await, "wait=1.5");
}

#[tokio::test]
async fn another_version_is_told_once() {
    let old = || async { answer(StatusCode::OK, "0.0.1", json!({})) };
    let daemon = Daemon::start(Router::new().route("/api/status", get(old))).await;
    let client = daemon.client();
    assert_eq!(client.version_mismatch(), None);
    client.status().await.unwrap();
    let mismatch = client.version_mismatch().unwrap();
    assert_eq!((mismatch.client.as_str(), mismatch.daemon.as_str()), (Client::version_of_client(), "0.0.1"));
    client.status().await.unwrap();
    assert_eq!(client.version_mismatch(), None);
}

#[tokio::test]
async fn other_servers_are_not_taken_for_the_daemon() {
    let daemon = Daemon::start(Router::new().route("/api/status", get(|| async { "hello" }))).await;
    let error = daemon.client().status().await.unwrap_err();
    assert!(matches!(error, Error::NotTunneld { .. }), "{error}");
    assert_eq!(error.exit_code(), exit::FAILED);

    let text = || async { ([("tunneld-version", "1")], "hello") };
    let daemon = Daemon::start(Router::new().route("/api/status", get(text))).await;
    let error = daemon.client().status().await.unwrap_err();
    assert!(matches!(error, Error::NotTunneld { .. }), "{error}");
}

#[tokio::test]
async fn connection_that_breaks_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move { while listener.accept().await.is_ok() {} });
    let error = Client::new(url.parse().unwrap()).unwrap().status().await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
}

#[tokio::test]
async fn answer_that_trickles_instead_of_an_upgrade_has_an_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _n_bytes = stream.read(&mut [0; 4096]).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ntunneld-version: 1\r\ncontent-length: 1000\r\n\r\n";
        let mut sent = stream.write_all(head).await;
        while sent.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            sent = stream.write_all(b"x").await;
        }
    });
    let client = Client::new(url.parse().unwrap()).unwrap().with_limit(Duration::from_millis(200));
    let mut watch = client.watch();
    let told = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    let Update::Lost(error) = told else { panic!("{told:?}") };
    assert_eq!((error.code(), error.exit_code()), ("timeout", exit::TIMEOUT));
}

#[tokio::test]
async fn programs_know_an_error_by_the_daemons_word_or_by_ours() {
    let refuses = || async { refusal(StatusCode::CONFLICT, "config_read_only") };
    let daemon = Daemon::start(Router::new().route("/api/status", get(refuses))).await;
    assert_eq!(daemon.client().status().await.unwrap_err().code(), "config_read_only");
    let nobody = Client::new("unix:///nowhere/api.sock".parse().unwrap()).unwrap();
    assert_eq!(nobody.status().await.unwrap_err().code(), "not_running");
    assert_eq!(exit::name(exit::NOT_RUNNING), "not_running");
}
