//! The admin API: who may, what it shows, what it orders.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_relay::Settings;
use tunnel_transport::CloseCode;

use crate::harness::{Desk, PATIENCE, TestRelay, eventually, now, read, read_and};

/// Sends a request to the admin address with these headers besides `Host`.
async fn send(
    relay: &TestRelay,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (StatusCode, Value) {
    let stream = TcpStream::connect(relay.admin).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", relay.admin.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let (head, body) = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn bearer(relay: &TestRelay) -> String {
    let path = relay.data_dir().join("admin-token");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    format!("Bearer {}", fs::read_to_string(path).unwrap().trim())
}

pub(crate) async fn get(relay: &TestRelay, path: &str) -> Value {
    let (status, answer) = send(relay, Method::GET, path, &[("authorization", &bearer(relay))], "").await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

#[tokio::test]
async fn everything_that_names_somebody_asks_for_the_token() {
    let relay = TestRelay::start().await;
    let token = bearer(&relay);
    for (method, path) in [
        (Method::GET, "/admin/v1/tenants"),
        (Method::GET, "/admin/v1/sessions"),
        (Method::DELETE, "/admin/v1/sessions/00"),
        (Method::GET, "/admin/v1/limits"),
        (Method::GET, "/admin/v1/config"),
        (Method::POST, "/admin/v1/drain"),
        (Method::POST, "/admin/v1/revocations"),
        (Method::GET, "/admin/v1/audit/tail"),
        (Method::GET, "/admin/v1/nothing"),
    ] {
        for (headers, status, code) in [
            (&[][..], 401, "admin_token_missing"),
            (&[("authorization", "Bearer wrong")], 401, "admin_token_invalid"),
            (&[("authorization", token.as_str()), ("origin", "http://127.0.0.1")], 403, "admin_origin"),
            (&[("authorization", token.as_str()), ("host", "rebound.example")], 403, "admin_host"),
        ] {
            let (have, answer) = send(&relay, method.clone(), path, headers, "").await;
            assert_eq!((have.as_u16(), &answer["code"]), (status, &json!(code)), "{method} {path}");
        }
    }
    // A caller's token is no operator's.
    let caller = format!("Bearer {}", relay.token("alice", "inference"));
    let (status, _) = send(&relay, Method::GET, "/admin/v1/tenants", &[("authorization", &caller)], "").await;
    assert_eq!(status, 401);
    for open in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(send(&relay, Method::GET, open, &[], "").await.0, 200, "{open}");
    }
}

#[tokio::test]
async fn tenants_and_sessions_are_shown_page_by_page() {
    let relay = TestRelay::start().await;
    let (_one, _two) = (relay.desk("alice", "desk").await, relay.desk("alice", "laptop").await);
    let _bob = relay.desk("bob", "desk").await;
    eventually("all are there", async || relay.relay().sessions() == 3).await;
    let first = get(&relay, "/admin/v1/tenants?limit=1").await;
    let alice = json!({
        "subject": "alice", "devices": 2, "devices_online": 2, "sessions": 2, "streams": 0, "tier": null,
    });
    assert_eq!((&first["tenants"][0], &first["next"]), (&alice, &json!("alice")));
    let second = get(&relay, "/admin/v1/tenants?limit=1&after=alice").await;
    assert_eq!((&second["tenants"][0]["subject"], &second["next"]), (&json!("bob"), &Value::Null));
    let sessions = get(&relay, "/admin/v1/sessions").await;
    let sessions = sessions["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 3);
    for session in sessions {
        assert_eq!((&session["attached"], &session["agent"]), (&json!(true), &json!("test/1")));
        assert!(session["expires_at"].as_str().unwrap() > session["since"].as_str().unwrap());
    }
}

#[tokio::test]
async fn a_session_is_closed_by_its_id_and_its_streams_break_off() {
    let relay = TestRelay::start().await;
    let mut desk = relay.desk("alice", "desk").await;
    let streaming = relay.call("alice", Request::get("/sse/hang")).await;
    let sessions = get(&relay, "/admin/v1/sessions").await;
    assert_eq!(sessions["sessions"][0]["streams"], 1);
    let id = sessions["sessions"][0]["id"].as_str().unwrap();
    let token = bearer(&relay);
    let close = async |id: &str| {
        let path = format!("/admin/v1/sessions/{id}");
        send(&relay, Method::DELETE, &path, &[("authorization", &token)], "").await
    };
    assert_eq!(close("0123456789abcdef0123456789abcdef").await.0, 404);
    assert_eq!(close("no-id").await.1["code"], "no_such_session");
    assert_eq!(close(id).await.0, 204);
    assert_eq!(desk.closed().await.code, CloseCode::Restarting);
    assert!(read(streaming).await.unwrap_err().contains("tunnel_lost"), "the caller is told");
}

#[tokio::test]
async fn limits_and_configuration_are_those_in_force() {
    let mut settings = Settings::default();
    settings.default_tier.max_streams = 1;
    let relay = TestRelay::with(settings, Duration::from_secs(20)).await;
    let _desk = relay.desk("alice", "desk").await;
    let idle = get(&relay, "/admin/v1/limits").await;
    assert_eq!((&idle["tiers"]["default"]["max_streams"], &idle["n_at_limit"]), (&json!(1), &json!(0)));
    let _streaming = relay.call("alice", Request::get("/sse/hang")).await;
    let busy = get(&relay, "/admin/v1/limits").await;
    let expected = json!([{ "subject": "alice", "tier": null, "limit": "max_streams", "value": 1 }]);
    assert_eq!(busy["at_limit"], expected);
    let config = get(&relay, "/admin/v1/config").await;
    assert_eq!((&config["tls"], &config["tiers"]), (&json!(false), &json!(["default"])));
}

#[tokio::test]
async fn a_drain_ends_the_relay_and_is_in_the_audit_log() {
    let mut relay = TestRelay::start().await;
    let token = bearer(&relay);
    let (status, _) = send(&relay, Method::POST, "/admin/v1/drain", &[("authorization", &token)], "").await;
    assert_eq!(status, 202);
    relay.ended().await;
    let log = fs::read_to_string(relay.data_dir().join("audit.jsonl")).unwrap();
    assert!(log.contains("\"event\":\"admin\",\"action\":\"drain\""), "{log}");
    assert!(log.lines().last().unwrap().contains("\"event\":\"stopped\""), "{log}");
}

#[tokio::test]
async fn an_operator_revokes_a_token_or_all_that_a_subject_has() {
    let relay = TestRelay::start().await;
    let token = bearer(&relay);
    let revoke = async |order: Value| {
        let path = "/admin/v1/revocations";
        send(&relay, Method::POST, path, &[("authorization", &token)], &order.to_string()).await
    };
    let status = async |token: &str| {
        let request = Request::get("/v1/models").header("authorization", format!("Bearer {token}"));
        relay.send(request, Bytes::new()).await.status().as_u16()
    };
    // Issued a moment ago: those of this very second are taken for earlier, too.
    let issued = |ago: u64| relay.token_for("alice", "inference tunnel", None, now() - ago, 3_600);
    let (first, second, bobs) = (issued(60), issued(50), relay.token("bob", "inference"));
    let connector = relay.connector(&second, "desk");
    let mut desk = Desk::new(&relay, connector.dial().await.unwrap()).await;
    let id = relay.issuer.verifier().verify(&first, now()).unwrap().token_id.clone();
    let (done, answer) = revoke(json!({"subject": "alice", "token_id": id})).await;
    let kept_until: jiff::Timestamp = answer["kept_until"].as_str().unwrap().parse().unwrap();
    assert!(done == 200 && (0..=3_600).contains(&(kept_until.as_second() - now() as i64)), "{answer}");
    assert_eq!((status(&first).await, status(&second).await), (401, 200));

    let streaming = read_and(
        relay
            .send(Request::get("/sse/hang").header("authorization", format!("Bearer {second}")), Bytes::new())
            .await,
        || {},
    );
    let (refused, _) = revoke(json!({"subject": "alice", "issued_before": "2999-01-01T00:00:00Z"})).await;
    assert_eq!(refused, 400, "there is no way back");
    let order = revoke(json!({"subject": "alice", "issued_before": "now"}));
    let (cut, (done, _)) = tokio::join!(streaming, order);
    let cutoff = jiff::Timestamp::now();
    assert!(done == 200 && cut.unwrap_err().contains("data: one"), "its stream breaks off");
    assert_eq!(desk.closed().await.code, CloseCode::Token);
    assert_eq!((status(&second).await, status(&bobs).await), (401, 404));
    eventually("the next second's tokens are good", async || now() as i64 > cutoff.as_second() + 1).await;
    assert_ne!(status(&issued(0)).await, 401);

    // One of another kind, which does not say when it ends.
    let (_, answer) =
        revoke(json!({"subject": "idp:ann", "token_id": "x", "expires_at": "2999-01-01T00:00:00Z"})).await;
    assert_eq!(answer["kept_until"], "2999-01-01T00:00:00Z");
    let (done, _) =
        revoke(json!({"subject": "idp:ann", "token_id": "x", "expires_at": "1999-01-01T00:00:00Z"})).await;
    assert_eq!(done, 400);
    let log = fs::read_to_string(relay.data_dir().join("audit.jsonl")).unwrap();
    assert!(log.contains("\"action\":\"revoke_all\"") && !log.contains("alice"), "{log}");
}

#[tokio::test]
async fn bad_orders_are_named() {
    let relay = TestRelay::start().await;
    let token = bearer(&relay);
    let authorized = [("authorization", token.as_str())];
    for body in ["", "{}", "{\"subject\":\"a\"}", "{\"subject\":1,\"token_id\":\"x\"}"] {
        let (status, answer) = send(&relay, Method::POST, "/admin/v1/revocations", &authorized, body).await;
        assert_eq!((status.as_u16(), &answer["code"]), (400, &json!("bad_request")), "{body}");
    }
    assert_eq!(send(&relay, Method::PUT, "/admin/v1/drain", &authorized, "").await.0, 405);
    assert_eq!(send(&relay, Method::GET, "/admin/v1/nothing", &authorized, "").await.0, 404);
}
