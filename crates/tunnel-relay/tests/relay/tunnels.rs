use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::task::JoinSet;
use tunnel_transport::{CloseCode, DialError};

use crate::harness::{Desk, TestRelay, eventually, is_replaced, json_of, now};

#[tokio::test]
async fn a_dial_without_the_right_token_is_told_why() {
    let relay = TestRelay::start().await;
    let dial = async |token: &str, device: &str| relay.connector(token, device).dial().await.map(drop);

    let error = dial("garbage", "desk").await.unwrap_err();
    assert!(matches!(error, DialError::TokenInvalid { .. }), "{error:?}");
    let expired = relay.token_for("alice", "tunnel", None, now() - 100, 50);
    let error = dial(&expired, "desk").await.unwrap_err();
    assert!(matches!(error, DialError::TokenExpired { clock_off_s: Some(-2..=2), .. }), "{error:?}");
    let error = dial(&relay.token("alice", "inference"), "desk").await.unwrap_err();
    let DialError::NotAllowed { detail, .. } = &error else { panic!("{error:?}") };
    assert!(detail.contains("scope inference") && detail.contains("--scope tunnel"), "{detail}");
    let bound = relay.token_for("alice", "tunnel", Some("lap"), now(), 60);
    let error = dial(&bound, "desk").await.unwrap_err();
    assert!(matches!(error, DialError::NotAllowed { .. }), "{error:?}");
    dial(&bound, "lap").await.unwrap();
}

#[tokio::test]
async fn what_is_no_dial_gets_426() {
    let relay = TestRelay::start().await;
    let token = relay.token("alice", "tunnel");
    let request =
        Request::get(tunnel_transport::CONNECT_PATH).header("authorization", format!("Bearer {token}"));
    let response = relay.send(request, Bytes::new()).await;
    assert_eq!(response.status(), 426);
    let body = json_of(response).await;
    assert_eq!((body["code"].as_str(), body["status"].as_u64()), (Some("version_unsupported"), Some(426)));
}

#[tokio::test]
async fn a_newer_dial_takes_over_and_the_old_one_stays_down() {
    let relay = TestRelay::start().await;
    let token = relay.token("alice", "tunnel");
    let old_connector = relay.connector(&token, "desk");
    let mut old = Desk::new(&relay, old_connector.dial().await.unwrap()).await;
    let new = relay.desk("alice", "desk").await;
    assert_eq!(old.closed().await.code, CloseCode::Replaced);
    eventually("one session is left", async || relay.relay().sessions() == 1).await;

    let error = old_connector.resume(&old.session).await.unwrap_err();
    assert!(is_replaced(&error), "{error:?}");
    assert_eq!(relay.call("alice", Request::get("/v1/models")).await.status(), 200);
    assert_eq!(new.seen.paths.lock().unwrap().len(), 1);
    assert_eq!(relay.metric("tunnel_relay_takeovers_total").await, 1);

    // The same name of another subject is another device.
    let other = relay.desk("bob", "desk").await;
    eventually("two sessions", async || relay.relay().sessions() == 2).await;
    assert_eq!(relay.call("bob", Request::get("/v1/models")).await.status(), 200);
    assert_eq!(other.seen.paths.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_session_of_another_subject_or_of_an_earlier_relay_cannot_be_resumed() {
    let relay = TestRelay::start().await;
    let desk = relay.desk("alice", "desk").await;
    let thief = relay.connector(&relay.token("mallory", "tunnel"), "desk");
    assert!(matches!(thief.resume(&desk.session).await, Err(DialError::SessionGone)));
    let elsewhere = TestRelay::start().await;
    let connector = elsewhere.connector(&elsewhere.token("alice", "tunnel"), "desk");
    assert!(matches!(connector.resume(&desk.session).await, Err(DialError::SessionGone)));
    assert_eq!(relay.call("alice", Request::get("/v1/models")).await.status(), 200);
}

#[tokio::test]
async fn a_resumed_session_goes_on_with_its_streams() {
    let relay = TestRelay::start().await;
    let token = relay.token("alice", "tunnel");
    let connector = relay.connector(&token, "desk");
    let desk = Desk::new(&relay, connector.dial().await.unwrap()).await;
    let response = relay.call("alice", Request::get("/sse/held")).await;
    // The socket that is still attached is displaced.
    connector.resume(&desk.session).await.unwrap();
    eventually("the resume is counted", async || relay.metric("tunnel_relay_resumes_total").await == 1).await;
    desk.seen.release.notify_one();
    assert_eq!(crate::harness::read(response).await.unwrap(), "data: one\n\ndata: last\n\n");
    assert_eq!(relay.call("alice", Request::get("/v1/models")).await.status(), 200);
}

#[tokio::test]
async fn a_resume_from_an_offset_that_is_not_kept_leaves_the_session_alone() {
    let relay = TestRelay::start().await;
    let desk = relay.desk("alice", "desk").await;
    let streaming = relay.call("alice", Request::get("/sse/held")).await;
    let stale = Request::get(tunnel_transport::CONNECT_PATH)
        .header("authorization", format!("Bearer {}", relay.token("alice", "tunnel")))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "tunnel.v1")
        .header("tunnel-device", "desk")
        .header("tunnel-resume", format!("{} {}", desk.session.id(), u64::MAX));
    let response = relay.send(stale, Bytes::new()).await;
    assert_eq!(response.status(), 410);
    assert_eq!(json_of(response).await["code"], "session_gone");
    desk.seen.release.notify_one();
    assert_eq!(crate::harness::read(streaming).await.unwrap(), "data: one\n\ndata: last\n\n");
    assert_eq!(relay.call("alice", Request::get("/v1/models")).await.status(), 200);
}

#[tokio::test]
async fn a_migrated_desktop_gets_new_requests_on_the_new_session() {
    let relay = TestRelay::start().await;
    let connector = relay.connector(&relay.token("alice", "tunnel"), "desk");
    let mut old = Desk::new(&relay, connector.dial().await.unwrap()).await;
    let streaming = relay.call("alice", Request::get("/sse/held")).await;
    let new = Desk::new(&relay, connector.migrate(old.session.id()).await.unwrap()).await;
    eventually("the new session serves", async || {
        relay.call("alice", Request::get("/v1/models")).await;
        !new.seen.paths.lock().unwrap().is_empty()
    })
    .await;
    assert_eq!(relay.relay().sessions(), 2, "the old one still has a stream");
    old.seen.release.notify_one();
    assert_eq!(crate::harness::read(streaming).await.unwrap(), "data: one\n\ndata: last\n\n");
    assert_eq!(old.closed().await.code, CloseCode::Restarting);
    eventually("the old one is gone", async || relay.relay().sessions() == 1).await;
    assert_eq!(relay.call("alice", Request::get("/v1/models")).await.status(), 200);
}

#[tokio::test]
async fn desktops_that_hang_up_after_the_answer_leave_few_sessions() {
    let relay = TestRelay::start().await;
    let serving = relay.desk("alice", "desk").await;
    let connector = relay.connector(&relay.token("alice", "tunnel"), "desk");
    let mut dials = JoinSet::new();
    for _ in 0..50 {
        let connector = relay.connector(&relay.token("alice", "tunnel"), "desk");
        dials.spawn(async move { drop(connector.dial().await.unwrap()) });
    }
    let mut most = 0;
    while let Some(hung_up) = dials.join_next().await {
        hung_up.unwrap();
        most = most.max(relay.relay().sessions());
    }
    assert!(most <= 3, "{most} sessions");
    // And those of one that comes up each time.
    for _ in 0..10 {
        drop(connector.migrate(serving.session.id()).await.unwrap());
        assert!(relay.relay().sessions() <= 3);
    }
    let new = relay.desk("alice", "desk").await;
    eventually("the newest serves", async || {
        relay.call("alice", Request::get("/v1/models")).await;
        !new.seen.paths.lock().unwrap().is_empty()
    })
    .await;
    relay.relay().shutdown();
}

#[tokio::test]
async fn a_session_lives_as_long_as_its_token() {
    let relay = TestRelay::start().await;
    let short = relay.token_for("alice", "tunnel", None, now(), 3);
    let mut expiring = Desk::new(&relay, relay.connector(&short, "old").dial().await.unwrap()).await;
    let refreshing = Desk::new(&relay, relay.connector(&short, "new").dial().await.unwrap()).await;
    refreshing.session.refresh_token(&relay.token("alice", "tunnel").into());
    let resuming = Desk::new(&relay, relay.connector(&short, "again").dial().await.unwrap()).await;
    let renewed = relay.connector(&relay.token("alice", "tunnel"), "again");
    renewed.resume(&resuming.session).await.unwrap();
    let closed = expiring.closed().await;
    assert_eq!(closed.code, CloseCode::Token);
    assert!(now() > 0 && closed.reason.contains("expired"), "{closed}");
    // All three had the same token: the others would end now, too.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(relay.call("alice", Request::get("/d/new/v1/models")).await.status(), 200);
    assert_eq!(relay.call("alice", Request::get("/d/again/v1/models")).await.status(), 200);
}

#[tokio::test]
async fn a_refreshed_token_must_be_as_good_as_the_first() {
    let relay = TestRelay::start().await;
    let bad = [
        relay.token("mallory", "tunnel"),
        relay.token("alice", "inference"),
        relay.token_for("alice", "tunnel", Some("lap"), now(), 60),
        "garbage".to_owned(),
    ];
    for token in bad {
        let mut desk = relay.desk("alice", "desk").await;
        desk.session.refresh_token(&token.into());
        let closed = desk.closed().await;
        assert_eq!(closed.code, CloseCode::Token, "{closed}");
        eventually("the session is gone", async || relay.relay().sessions() == 0).await;
    }
}
