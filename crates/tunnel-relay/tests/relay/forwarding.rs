use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tunnel_relay::Settings;

use crate::harness::{PATIENCE, TestRelay, eventually, json_of, raw, read, read_and};

#[tokio::test]
async fn a_request_reaches_the_device_as_it_was_sent_and_nothing_of_the_caller_leaks() {
    let relay = TestRelay::start().await;
    let _desk = relay.desk("alice", "desk").await;
    let token = relay.token("alice", "inference");
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/chat/completions?a=%20b&c")
        .header("authorization", format!("Bearer {token}"))
        .header("cookie", "session=1")
        .header("x-request-id", "forged")
        .header("tunnel-caller", "sub=\"root\"")
        .header("forwarded", "for=10.9.8.7")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-custom", "kept");
    let response = relay.send(request, Bytes::from_static(b"{\"model\":\"m\"}")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-kept"], "1");
    assert!(!response.headers().contains_key("x-hop"));
    let request_id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(request_id.len(), 32);

    let echo = json_of(response).await;
    assert_eq!(echo["method"], "POST");
    assert_eq!(echo["path"], "/v1/chat/completions?a=%20b&c");
    assert_eq!(echo["body"], 13);
    let headers = &echo["headers"];
    assert_eq!(headers["x-custom"], "kept");
    assert_eq!(headers["content-length"], "13");
    assert_eq!(headers["x-request-id"], request_id.as_str());
    assert_eq!(headers["forwarded"], "for=127.0.0.1;proto=http");
    let caller = headers["tunnel-caller"].as_str().unwrap();
    assert!(
        caller.starts_with("sub=\"alice\", token=\"") && caller.ends_with("scope=\"inference\""),
        "{caller}"
    );
    for gone in ["authorization", "cookie", "connection", "x-hop", "host"] {
        assert!(headers.get(gone).is_none(), "{gone} reached the device");
    }
    assert!(!echo.to_string().contains(&token));
}

#[tokio::test]
async fn the_device_is_named_by_prefix_header_token_or_by_being_the_only_one() {
    let relay = TestRelay::start().await;
    let desk = relay.desk("alice", "desk").await;
    let only = relay.call("alice", Request::get("/v1/models")).await;
    assert_eq!(only.status(), 200);
    let lap = relay.desk("alice", "lap").await;
    let other = relay.desk("bob", "bobs").await;
    eventually("three sessions", async || relay.relay().sessions() == 3).await;

    // What may change something and names no model could be meant for either.
    let response = relay.call("alice", Request::post("/v1/models")).await;
    assert_eq!(response.status(), 400);
    let body = json_of(response).await;
    assert_eq!(body["error"]["code"], "device_required");
    let text = body["error"]["message"].as_str().unwrap();
    assert!(text.contains("desk, lap") && text.contains("/d/<device>") && !text.contains("bobs"), "{text}");

    assert_eq!(relay.call("alice", Request::get("/d/lap/api/tags?x")).await.status(), 200);
    assert_eq!(lap.seen.paths.lock().unwrap().as_slice(), ["/api/tags?x"]);
    let named = Request::get("/api/ps").header("tunnel-device", "lap");
    assert_eq!(relay.call("alice", named).await.status(), 200);
    let both = Request::get("/d/desk/prefix-wins").header("tunnel-device", "lap");
    assert_eq!(relay.call("alice", both).await.status(), 200);
    assert_eq!(desk.seen.paths.lock().unwrap().as_slice(), ["/v1/models", "/prefix-wins"]);

    let bound = relay.token_for("alice", "inference", Some("lap"), crate::harness::now(), 60);
    let bound = |request: http::request::Builder| request.header("authorization", format!("Bearer {bound}"));
    assert_eq!(relay.send(bound(Request::get("/by-token")), Bytes::new()).await.status(), 200);
    assert_eq!(relay.send(bound(Request::get("/d/lap/by-token")), Bytes::new()).await.status(), 200);
    let response = relay.send(bound(Request::get("/d/desk/api/x")), Bytes::new()).await;
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["tunnel-error"], "not_allowed");
    assert_eq!(lap.seen.paths.lock().unwrap().len(), 4);

    // Another subject's device is unknown, whatever it is called.
    let response = relay.call("alice", Request::get("/d/bobs/v1/models")).await;
    assert_eq!(response.status(), 404);
    assert_eq!(json_of(response).await["error"]["code"], "unknown_device");
    assert!(other.seen.paths.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_so_and_is_cut() {
    let relay = TestRelay::start().await;
    let desk = relay.desk("alice", "desk").await;
    let broken = async |path| {
        let response = relay.call("alice", Request::get(path)).await;
        assert_eq!(response.status(), 200);
        read_and(response, || desk.seen.release.notify_one()).await.unwrap_err()
    };

    let text = broken("/sse/broken").await;
    let error = text.strip_prefix("data: one\n\ndata: ").unwrap();
    let error: serde_json::Value = serde_json::from_str(error.trim_end()).unwrap();
    assert_eq!(error["error"]["code"], "backend_unreachable");
    assert!(!text.contains("[DONE]"));

    let text = broken("/ndjson/broken").await;
    let (half, error) = text.split_once('\n').unwrap();
    assert_eq!(half, "{\"half\":");
    assert!(serde_json::from_str::<serde_json::Value>(error).unwrap()["error"].is_string());

    assert_eq!(broken("/plain/broken").await, "some");
    assert_eq!(relay.metric("tunnel_relay_requests_total{outcome=\"broken_off\"}").await, 3);
}

#[tokio::test]
async fn a_daemon_that_dies_in_mid_stream_is_a_lost_tunnel() {
    let settings = Settings { session_grace: Duration::from_secs(1), ..Settings::default() };
    let relay = TestRelay::with(settings, Duration::from_secs(5)).await;
    let desk = relay.desk("alice", "desk").await;
    let response = relay.call("alice", Request::get("/sse/hang")).await;
    desk.kill();
    let text = read(response).await.unwrap_err();
    assert!(text.starts_with("data: one\n\ndata: ") && text.contains("tunnel_lost"), "{text}");
}

#[tokio::test]
async fn a_caller_that_hangs_up_ends_the_work_in_every_phase() {
    let relay = TestRelay::start().await;
    let desk = relay.desk("alice", "desk").await;
    let dropped = async |n| {
        let seen = &desk.seen;
        eventually("the handler is dropped", async || {
            seen.dropped.load(std::sync::atomic::Ordering::SeqCst) == n
        })
        .await;
    };
    let token = relay.token("alice", "inference");
    let open = async |request: String| {
        let mut stream = TcpStream::connect(relay.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let head = |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    let arrived = async |n| {
        eventually("the request arrives", async || desk.seen.paths.lock().unwrap().len() == n).await;
    };

    // Uploading.
    let stream = open(head("POST /upload") + "content-length: 100000\r\n\r\nsome").await;
    arrived(1).await;
    drop(stream);
    // Waiting for the first byte.
    let stream = open(head("GET /never") + "\r\n").await;
    arrived(2).await;
    drop(stream);
    dropped(1).await;
    // Streaming.
    let mut stream = open(head("GET /sse/hang") + "\r\n").await;
    let mut piece = [0; 16];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut piece)).await.unwrap().unwrap();
    drop(stream);
    dropped(2).await;
    eventually("all three are counted", async || {
        relay.metric("tunnel_relay_requests_total{outcome=\"caller_gone\"}").await == 3
    })
    .await;
    assert_eq!(relay.metric("tunnel_relay_streams").await, 0);
}

#[tokio::test]
async fn a_device_that_is_silent_too_long_is_a_timeout() {
    let settings = Settings {
        first_byte_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        ..Settings::default()
    };
    let relay = TestRelay::with(settings, Duration::from_secs(5)).await;
    let _desk = relay.desk("alice", "desk").await;
    let response = relay.call("alice", Request::get("/never")).await;
    assert_eq!(response.status(), 504);
    assert_eq!(json_of(response).await["code"], "first_byte_timeout");
    let text = read(relay.call("alice", Request::get("/sse/hang")).await).await.unwrap_err();
    assert!(text.contains("idle_timeout"), "{text}");
}

#[tokio::test]
async fn the_first_bytes_of_a_body_may_take_as_long_as_its_head() {
    let settings = Settings {
        first_byte_timeout: PATIENCE * 3,
        idle_timeout: Duration::from_millis(200),
        ..Settings::default()
    };
    let relay = TestRelay::with(settings, Duration::from_secs(5)).await;
    let desk = relay.desk("alice", "desk").await;
    let response = relay.call("alice", Request::get("/sse/late")).await;
    assert_eq!(response.status(), 200);
    tokio::time::sleep(Duration::from_millis(600)).await;
    desk.seen.release.notify_one();
    // From then on silence is as short as ever.
    let text = read(response).await.unwrap_err();
    assert!(text.starts_with("data: last\n\ndata: ") && text.contains("idle_timeout"), "{text}");
}

#[tokio::test]
async fn bodiless_answers_and_large_uploads_pass() {
    let relay = TestRelay::start().await;
    let _desk = relay.desk("alice", "desk").await;
    let response = relay.call("alice", Request::get("/empty")).await;
    assert_eq!(response.status(), 204);
    assert_eq!(read(response).await.unwrap(), "");

    let head = relay.call("alice", Request::builder().method(Method::HEAD).uri("/v1/models")).await;
    assert_eq!(head.status(), 200);
    assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());

    let token = relay.token("alice", "inference");
    let upload = Request::post("/api/blobs/x").header("authorization", format!("Bearer {token}"));
    let response = relay.send(upload, Bytes::from(vec![7; 3 << 20])).await;
    assert_eq!(json_of(response).await["body"], 3 << 20);
    assert_eq!(relay.metric("tunnel_relay_body_bytes_total{direction=\"in\"}").await, 3 << 20);
    assert_eq!(relay.metric("tunnel_relay_requests_total{outcome=\"ok\"}").await, 3);
}

#[tokio::test]
async fn an_old_caller_is_reset_when_its_response_breaks_off() {
    let relay = TestRelay::start().await;
    let desk = relay.desk("alice", "desk").await;
    let token = relay.token("alice", "inference");
    let request = |path| format!("GET {path} HTTP/1.0\r\nauthorization: Bearer {token}\r\n\r\n");
    let text = raw(relay.addr, &request("/v1/models"), |_| {}).await.unwrap();
    assert!(text.starts_with("HTTP/1.0 200") && text.contains("\"path\":\"/v1/models\""), "{text}");
    // Without chunks or a length, the end of the connection is the end of the body: it must not look like one.
    let release = |text: &str| {
        if text.contains("some") {
            desk.seen.release.notify_one();
        }
    };
    let text = raw(relay.addr, &request("/plain/broken"), release).await.unwrap_err();
    assert!(text.starts_with("HTTP/1.0 200"), "{text}");
}

#[tokio::test]
async fn an_absolute_target_is_a_path_here() {
    let relay = TestRelay::start().await;
    let _desk = relay.desk("alice", "desk").await;
    let token = relay.token("alice", "inference");
    let head = |line: &str| {
        format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n")
    };
    let text = raw(relay.addr, &head("GET http://evil.example/api/tags?q"), |_| {}).await.unwrap();
    assert!(text.contains("\"path\":\"/api/tags?q\""), "{text}");
    for line in ["OPTIONS *", "CONNECT evil.example:443"] {
        let text = raw(relay.addr, &head(line), |_| {}).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 400"), "{line}: {text}");
    }
}
