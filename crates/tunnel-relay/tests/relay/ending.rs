use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;
use tunnel_relay::{EdgeSettings, Settings};
use tunnel_transport::{CloseCode, DialError};

use crate::harness::{Desk, PATIENCE, TestRelay, eventually, raw, read};

#[tokio::test]
async fn a_relay_that_drains_finishes_what_runs_and_takes_nothing_new() {
    let mut relay = TestRelay::start().await;
    let mut desk = relay.desk("alice", "desk").await;
    let streaming = relay.call("alice", Request::get("/sse/held")).await;
    relay.relay().shutdown();

    assert_eq!(relay.admin_get("/readyz", "*/*").await.0, 503);
    assert_eq!(relay.admin_get("/livez", "*/*").await.0, 200);
    let token = relay.token("alice", "tunnel");
    let error = relay.connector(&token, "lap").dial().await.unwrap_err();
    assert!(matches!(error, DialError::Busy { .. }), "{error:?}");
    desk.asked_to_move().await;
    // The session is still there, so callers are served.
    let response = relay.call("alice", Request::get("/v1/models")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["connection"], "close");

    desk.seen.release.notify_one();
    assert_eq!(read(streaming).await.unwrap(), "data: one\n\ndata: last\n\n");
    let closed = desk.closed().await;
    assert_eq!(closed.code, CloseCode::Restarting);
    assert!(closed.reason.parse::<u64>().unwrap() <= 2_000, "{closed}");
    relay.ended().await;
    assert!(TcpStream::connect(relay.addr).await.is_err(), "the address is closed");
}

#[tokio::test]
async fn a_desktop_that_has_nowhere_else_to_go_serves_until_the_end() {
    let mut relay = TestRelay::with(Settings::default(), Duration::from_secs(600)).await;
    let connector = relay.connector(&relay.token("alice", "tunnel"), "desk");
    let mut desk = Desk::new(&relay, connector.dial().await.unwrap()).await;
    desk.seen.moves.store(true, Ordering::SeqCst);
    let streaming = relay.call("alice", Request::get("/sse/held")).await;
    relay.relay().shutdown();
    desk.asked_to_move().await;
    let error = connector.migrate(desk.session.id()).await.unwrap_err();
    assert!(matches!(error, DialError::Busy { .. }), "{error:?}");
    // Its socket may still be replaced.
    connector.resume(&desk.session).await.unwrap();
    desk.seen.release.notify_one();
    assert_eq!(read(streaming).await.unwrap(), "data: one\n\ndata: last\n\n");
    assert_eq!(desk.closed().await.code, CloseCode::Restarting);
    relay.ended().await;
}

#[tokio::test]
async fn a_desktop_that_has_moved_is_let_go_while_others_finish() {
    let mut relay = TestRelay::with(Settings::default(), Duration::from_secs(10)).await;
    let mut moved = relay.desk("alice", "desk").await;
    moved.seen.moves.store(true, Ordering::SeqCst);
    let stays = relay.desk("bob", "desk").await;
    eventually("both are known", async || relay.relay().sessions() == 2).await;
    let streaming = relay.call("bob", Request::get("/sse/held")).await;
    relay.relay().shutdown();
    assert_eq!(moved.closed().await.code, CloseCode::Restarting);
    assert_eq!(relay.call("alice", Request::get("/v1/models")).await.status(), 503);
    stays.seen.release.notify_one();
    assert_eq!(read(streaming).await.unwrap(), "data: one\n\ndata: last\n\n");
    relay.ended().await;
}

#[tokio::test]
async fn an_idle_relay_ends_soon() {
    let mut relay = TestRelay::with(Settings::default(), Duration::from_secs(600)).await;
    let mut desk = relay.desk("alice", "desk").await;
    // A caller that keeps its connection for later does not hold the relay up.
    let idle = TcpStream::connect(relay.addr).await.unwrap();
    relay.relay().shutdown();
    assert_eq!(desk.closed().await.code, CloseCode::Restarting);
    relay.ended().await;
    drop(idle);
}

#[tokio::test]
async fn streams_that_outlast_the_grace_time_are_told_and_cut() {
    let mut relay = TestRelay::with(Settings::default(), Duration::from_millis(300)).await;
    let _desk = relay.desk("alice", "desk").await;
    let streaming = relay.call("alice", Request::get("/sse/hang")).await;
    relay.relay().shutdown();
    let text = read(streaming).await.unwrap_err();
    assert!(text.starts_with("data: one\n\ndata: ") && text.contains("tunnel_lost"), "{text}");
    relay.ended().await;
}

#[tokio::test]
async fn a_second_order_ends_at_once() {
    let mut relay = TestRelay::with(Settings::default(), Duration::from_secs(600)).await;
    let _desk = relay.desk("alice", "desk").await;
    let streaming = relay.call("alice", Request::get("/sse/hang")).await;
    relay.relay().shutdown();
    let started = Instant::now();
    relay.relay().abort();
    relay.ended().await;
    assert!(started.elapsed() < PATIENCE / 2);
    assert!(read(streaming).await.is_err());
}

#[tokio::test]
async fn a_caller_without_a_complete_head_is_let_go() {
    let settings = Settings {
        edge: EdgeSettings { header_read_timeout: Duration::from_millis(200), ..EdgeSettings::default() },
        ..Settings::default()
    };
    let relay = TestRelay::with(settings, Duration::from_secs(5)).await;
    let begun = "GET / HTTP/1.1\r\nhost: x\r\nx-slow";
    let text = raw(relay.addr, begun, |_| {}).await.unwrap_or_else(|text| text);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    assert_eq!(relay.send(Request::get("/health"), Bytes::new()).await.status(), 200);
}
