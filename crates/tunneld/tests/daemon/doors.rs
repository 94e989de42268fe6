//! The daemon in this process: what its doors let through.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tunnel_runtime::Lifecycle;
use tunneld::{DRAIN, Daemon, Deps, Loaded, Options, StartError};

use crate::backend::{Backend, CHUNKS, MODEL};
use crate::http::{Answer, ask, ask_socket};
use crate::program::Home;

/// A daemon that runs until it is dropped.
struct Running {
    daemon: Daemon,
    lifecycle: Lifecycle,
}

impl Running {
    async fn start(home: &Home) -> Self {
        let running = Self::try_start(home).await.unwrap();
        let mut status = running.daemon.status();
        let up = |status: &std::sync::Arc<tunnel_api::Status>| status.best_connection.is_some();
        tokio::time::timeout(DRAIN, status.wait_for(up)).await.unwrap().unwrap();
        running
    }

    async fn try_start(home: &Home) -> Result<Self, StartError> {
        let options = Options {
            config: Some(home.config()),
            state_dir: Some(home.path().join("state")),
            token_file: None,
            log_file: None,
            env: vec![("XDG_RUNTIME_DIR".into(), home.path().join("run").into())],
        };
        let loaded = Loaded::load(&options).unwrap();
        let lifecycle = Lifecycle::new(DRAIN).unwrap();
        let daemon = Daemon::start(options, loaded, &lifecycle, Deps::default()).await?;
        Ok(Self { daemon, lifecycle })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lifecycle.hard().cancel();
    }
}

/// Runs what blocks beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

const CHAT: &str = r#"{"model":"tiny","messages":[{"role":"user","content":"hi"}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn gateway_streams_a_chat_and_the_control_port_shows_who_answered() {
    let backend = Backend::start().await;
    backend.let_all_go();
    let home = Home::new(backend.address);
    let _running = Running::start(&home).await;
    let (gateway, control) = (home.gateway, home.control);
    let chat = blocking(move || ask(gateway, "POST", "/api/chat", &[], CHAT)).await;
    assert_eq!((chat.status, chat.body.lines().count()), (200, CHUNKS), "{chat:?}");
    assert_eq!(chat.header("x-tunnel-connection"), Some("ollama"));

    let status = blocking(move || ask(control, "GET", "/api/status", &[], "")).await.json();
    assert_eq!(status["best_connection"], "ollama");
    let ollama = &status["connections"]["ollama"];
    assert_eq!((&ollama["state"], &ollama["version"]), (&json!("connected"), &json!("0.9.9")));
    assert_eq!(ollama["models"], json!([MODEL]));
    let ready = blocking(move || ask(control, "GET", "/readyz", &[], "")).await;
    assert_eq!(ready.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn both_ports_refuse_foreign_hosts_and_pages() {
    let backend = Backend::start().await;
    let home = Home::new(backend.address);
    let _running = Running::start(&home).await;
    for (door, path) in
        [(home.gateway, "/api/tags"), (home.gateway, "/v1/models"), (home.control, "/api/status")]
    {
        for line in ["Host: evil.example", "Origin: https://evil.example"] {
            let answer = blocking(move || ask(door, "GET", path, &[line], "")).await;
            assert_eq!(answer.status, 403, "{path} {line}");
            assert!(answer.json()["error"].is_string() || path.starts_with("/v1"), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn page_of_an_allowed_origin_may_chat_and_not_manage_models() {
    let backend = Backend::start().await;
    backend.let_all_go();
    let home = Home::new(backend.address);
    let _running = Running::start(&home).await;
    let gateway = home.gateway;
    let page = "Origin: http://localhost:3000";
    let preflight = move |path: &'static str| -> Answer {
        ask(gateway, "OPTIONS", path, &[page, "Access-Control-Request-Method: POST"], "")
    };
    let granted = blocking(move || preflight("/api/chat")).await;
    assert_eq!(granted.status, 204);
    assert_eq!(granted.header("access-control-allow-origin"), Some("http://localhost:3000"));
    assert_eq!(blocking(move || preflight("/api/pull")).await.status, 403);
    let chat = blocking(move || ask(gateway, "POST", "/api/chat", &[page], CHAT)).await;
    assert_eq!(chat.status, 200);
    assert_eq!(chat.header("access-control-allow-origin"), Some("http://localhost:3000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn control_socket_serves_the_same_api_to_this_user_alone() {
    let backend = Backend::start().await;
    let home = Home::new(backend.address);
    let running = Running::start(&home).await;
    let path = running.daemon.socket().unwrap();
    assert_eq!(path, home.socket());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let version = blocking(move || ask_socket(&path, "GET", "/api/version")).await;
    assert_eq!((version.status, &version.json()["protocol"]), (200, &json!("tunnel.v1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn second_daemon_of_the_same_user_is_refused() {
    let backend = Backend::start().await;
    let home = Home::new(backend.address);
    let _running = Running::start(&home).await;
    let Err(error) = Running::try_start(&home).await else { panic!("two daemons on one socket") };
    assert_eq!(error.exit_code(), 9);
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn local_caller_cannot_claim_to_come_through_the_tunnel() {
    let backend = Backend::start().await;
    let home = Home::new(backend.address);
    let _running = Running::start(&home).await;
    let gateway = home.gateway;
    let answer = blocking(move || ask(gateway, "GET", "/api/version", &["tunnel-caller: someone"], "")).await;
    assert_eq!(answer.status, 200);
}
