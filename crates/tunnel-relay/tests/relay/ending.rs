use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
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
    // The session is still there, so callers are served, and sent away afterwards.
    eventually("connections end with their response", async || {
        let response = relay.call("alice", Request::get("/v1/models")).await;
        assert_eq!(response.status(), 200);
        response.headers().get("connection").is_some_and(|connection| connection == "close")
    })
    .await;

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
    moved.seen.moved.store(true, Ordering::SeqCst);
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
async fn callers_are_served_until_their_desktop_has_moved_and_the_balancer_knows() {
    let notice = Duration::from_millis(300);
    let mut relay = TestRelay::behind_balancer(Settings::default(), Duration::from_secs(20), notice).await;
    let desk = relay.desk("alice", "desk").await;
    desk.seen.moves.store(true, Ordering::SeqCst);
    let ready = async |path: &str| relay.admin_get(path, "*/*").await.0;
    assert_eq!((ready("/readyz").await, ready("/readyz/callers").await), (StatusCode::OK, StatusCode::OK));
    let ordered = Instant::now();
    relay.relay().shutdown();
    assert_eq!(ready("/readyz").await, 503);
    desk.asked_to_move().await;
    assert!(ordered.elapsed() >= notice, "asked before the balancer could know");

    // It is on its way: nobody is sent away, and a caller's connection is kept.
    let response = relay.call("alice", Request::get("/v1/models")).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers().get("connection").is_none(), "{:?}", response.headers());
    assert_eq!(ready("/readyz/callers").await, 200);

    desk.seen.moved.store(true, Ordering::SeqCst);
    eventually("callers are sent away", async || ready("/readyz/callers").await == 503).await;
    // Who has not heard of it yet is served still: the desktop serves both sessions.
    assert_eq!(relay.call("alice", Request::get("/v1/models")).await.status(), 200);
    relay.ended().await;
}

#[tokio::test]
async fn a_desktop_that_is_not_there_yet_is_waited_for() {
    let relay = TestRelay::start().await;
    let asked = Instant::now();
    let calling = relay.call("alice", Request::get("/v1/models"));
    let dialling = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        relay.desk("alice", "desk").await
    };
    let (response, desk) = tokio::join!(calling, dialling);
    assert_eq!(response.status(), 200);
    assert!(asked.elapsed() < Duration::from_secs(4), "as soon as it is there: {:?}", asked.elapsed());

    // It is gone for a moment: a fresh dial, as after a crash of the relay.
    desk.kill();
    eventually("the session is gone", async || relay.relay().sessions() == 0).await;
    let calling = relay.call("alice", Request::get("/v1/models"));
    let (response, _desk) = tokio::join!(calling, relay.desk("alice", "desk"));
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn nobody_waits_for_a_desktop_that_is_not_expected() {
    let settings = Settings { session_grace: Duration::from_millis(50), ..Settings::default() };
    let relay = TestRelay::with(settings, Duration::from_secs(5)).await;
    let _desk = relay.desk("alice", "desk").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let asked = Instant::now();
    assert_eq!(relay.call("bob", Request::get("/v1/models")).await.status(), 404);
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
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
