use bytes::Bytes;
use http::{Method, Request};
use tunnel_relay::{Settings, Tier};

use crate::harness::{TestRelay, eventually, json_of, now, read};

#[tokio::test]
async fn who_is_not_let_in_is_told_why_in_its_own_shape() {
    let relay = TestRelay::start().await;
    let _desk = relay.desk("alice", "desk").await;
    let expired = relay.token_for("alice", "inference", None, now() - 100, 50);
    let tunnel_only = relay.token("alice", "tunnel");
    let cases = [
        (None, 401, "token_missing"),
        (Some("garbage".to_owned()), 401, "token_invalid"),
        (Some(expired), 401, "token_expired"),
        (Some(tunnel_only), 403, "not_allowed"),
    ];
    for (token, status, code) in cases {
        let with = |request: http::request::Builder| match &token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        let response = relay.send(with(Request::get("/v1/models")), Bytes::new()).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
        assert_eq!(json_of(response).await["error"]["code"], code);

        let response = relay.send(with(Request::get("/d/desk/api/tags")), Bytes::new()).await;
        assert_eq!(response.headers()["tunnel-error"], code);
        assert!(json_of(response).await["error"].is_string());

        let response = relay.send(with(Request::get("/else")), Bytes::new()).await;
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(json_of(response).await["code"], code);
    }
}

#[tokio::test]
async fn a_device_that_was_seen_is_offline_and_one_that_was_not_is_unknown() {
    let settings = Settings { session_grace: std::time::Duration::from_secs(1), ..Settings::default() };
    let relay = TestRelay::with(settings, std::time::Duration::from_secs(5)).await;
    let response = relay.call("alice", Request::get("/v1/models")).await;
    assert_eq!(response.status(), 404);
    assert_eq!(json_of(response).await["error"]["code"], "unknown_device");

    let mut desk = relay.desk("alice", "desk").await;
    desk.session.drain();
    desk.closed().await;
    eventually("the session is gone", async || relay.relay().sessions() == 0).await;
    for path in ["/v1/models", "/d/desk/v1/models"] {
        let response = relay.call("alice", Request::get(path)).await;
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(json_of(response).await["error"]["code"], "device_offline");
    }
    let response = relay.call("alice", Request::get("/d/lap/v1/models")).await;
    assert_eq!(response.status(), 404);

    // The issuer named the device, so it is known before it has ever called.
    let bound = relay.token_for("carol", "inference", Some("lap"), now(), 60);
    let request = Request::get("/v1/models").header("authorization", format!("Bearer {bound}"));
    assert_eq!(relay.send(request, Bytes::new()).await.status(), 503);
}

#[tokio::test]
async fn too_many_requests_at_once_are_refused_until_one_has_ended() {
    let settings =
        Settings { default_tier: Tier { max_streams: 2, ..Tier::default() }, ..Settings::default() };
    let relay = TestRelay::with(settings, std::time::Duration::from_secs(5)).await;
    let _desk = relay.desk("alice", "desk").await;
    let _lap = relay.desk("alice", "lap").await;
    let first = relay.call("alice", Request::get("/d/desk/sse/hang")).await;
    let second = relay.call("alice", Request::get("/d/lap/sse/hang")).await;
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    let response = relay.call("alice", Request::get("/d/desk/v1/models")).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(json_of(response).await["error"]["code"], "too_many_streams");
    drop(first);
    eventually("a place is free", async || {
        relay.call("alice", Request::get("/d/desk/v1/models")).await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn the_tunnels_own_paths_are_never_forwarded() {
    let relay = TestRelay::start().await;
    let desk = relay.desk("alice", "desk").await;
    let paths = [
        "/_tunnel/v1/migrate",
        "/_tunnel",
        "/d/desk/_tunnel/v1/migrate",
        "/d/desk/_tunnel/v1/connect",
        "/d/desk/x/..%2f_tunnel/v1/migrate",
        "//_tunnel/v1/migrate",
        "/%5ftunnel/v1/migrate",
    ];
    for path in paths {
        let response = relay.call("alice", Request::post(path)).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(json_of(response).await["code"], "not_found");
    }
    assert!(desk.seen.paths.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_forwarded_gets_a_plain_word() {
    let relay = TestRelay::start().await;
    let _desk = relay.desk("alice", "desk").await;
    let websocket =
        Request::get("/v1/realtime").header("connection", "upgrade").header("upgrade", "websocket");
    let response = relay.call("alice", websocket).await;
    assert_eq!(response.status(), 501);
    assert_eq!(json_of(response).await["error"]["code"], "upgrade_unsupported");

    let h2c =
        Request::get("/v1/models").header("connection", "upgrade, http2-settings").header("upgrade", "h2c");
    assert_eq!(relay.call("alice", h2c.header("http2-settings", "AAMAAABk")).await.status(), 200);

    let preflight = Request::builder().method(Method::OPTIONS).uri("/v1/chat/completions");
    let preflight =
        preflight.header("origin", "https://a.example").header("access-control-request-method", "POST");
    let response = relay.send(preflight, Bytes::new()).await;
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["tunnel-error"], "origin_not_allowed");
}

#[tokio::test]
async fn health_is_public_and_judges_a_token() {
    let relay = TestRelay::start().await;
    let get = || Request::get("/health");
    let body = json_of(relay.send(get(), Bytes::new()).await).await;
    assert_eq!(body["status"], "ok");
    assert_eq!(body["token"], serde_json::Value::Null);
    assert_eq!(json_of(relay.call("alice", get()).await).await["token"], "valid");
    let bad = get().header("authorization", "Bearer x");
    let response = relay.send(bad, Bytes::new()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(json_of(response).await["token"], "invalid");
    assert_eq!(relay.send(Request::post("/health"), Bytes::new()).await.status(), 405);
    let head = relay.send(Request::builder().method(Method::HEAD).uri("/health"), Bytes::new()).await;
    assert_eq!(head.status(), 200);
    assert_eq!(read(head).await.unwrap(), "");
}

#[tokio::test]
async fn the_admin_address_tells_its_state_in_both_formats() {
    let relay = TestRelay::start().await;
    let _desk = relay.desk("alice", "desk").await;
    assert_eq!(relay.admin_get("/livez", "*/*").await.0, 200);
    assert_eq!(relay.admin_get("/readyz", "*/*").await.0, 200);
    let (_, headers, page) = relay.admin_get("/metrics", "*/*").await;
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(page.contains("\ntunnel_relay_sessions 1\n") && !page.contains("EOF"), "{page}");
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1";
    let (_, headers, page) = relay.admin_get("/metrics", accept).await;
    assert!(headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(page.ends_with("# EOF\n"));
    // The public address has none of it.
    let response = relay.send(Request::get("/metrics"), Bytes::new()).await;
    assert_eq!(response.status(), 401);
}
