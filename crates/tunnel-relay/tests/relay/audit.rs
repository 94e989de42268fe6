//! What the audit log says of a relay's day, and that it names nobody.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::Value;
use tunnel_relay::Settings;

use crate::harness::{TestRelay, eventually, now};

fn lines(relay: &TestRelay) -> Vec<Value> {
    let text = fs::read_to_string(relay.data_dir().join("audit.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

#[tokio::test]
async fn a_relays_day_is_in_the_log() {
    let mut settings = Settings::default();
    settings.default_tier.max_streams = 1;
    settings.default_tier.max_devices = 1;
    let mut relay = TestRelay::with(settings, Duration::from_secs(20)).await;
    let desk = relay.desk("alice", "desk").await;
    let mut old = desk;
    let _new = relay.desk("alice", "desk").await;
    old.closed().await;
    let streaming = relay.call("alice", Request::get("/sse/hang")).await;
    assert_eq!(relay.call("alice", Request::get("/echo")).await.status(), 429);
    assert_eq!(relay.call("alice", Request::get("/echo")).await.status(), 429);
    relay.connector(&relay.token("alice", "tunnel"), "laptop").dial().await.unwrap_err();
    let expired = relay.token_for("alice", "inference", None, now() - 100, 50);
    let refused = Request::get("/echo").header("authorization", format!("Bearer {expired}"));
    assert_eq!(relay.send(refused, Bytes::new()).await.status(), 401);
    drop(streaming);
    relay.relay().shutdown();
    relay.ended().await;

    let lines = lines(&relay);
    assert_eq!(of(&lines, "tunnel_up").len(), 2);
    assert_eq!(of(&lines, "takeover").len(), 1);
    let down: Vec<&Value> = of(&lines, "tunnel_down").iter().map(|line| &line["code"]).collect();
    assert!(down.contains(&&Value::from(4409)), "{down:?}");
    let limits: Vec<&str> =
        of(&lines, "limit_hit").iter().map(|line| line["code"].as_str().unwrap()).collect();
    let once_a_minute_and_the_rest_at_the_end = ["too_many_streams", "too_many_devices", "too_many_streams"];
    assert_eq!(limits, once_a_minute_and_the_rest_at_the_end);
    assert_eq!(of(&lines, "token_refused")[0]["code"], "token_expired");
    let subject = &of(&lines, "takeover")[0]["subject"];
    assert!(
        of(&lines, "limit_hit").iter().all(|line| line["subject"] == *subject),
        "one hash for one subject"
    );
    let text = fs::read_to_string(relay.data_dir().join("audit.jsonl")).unwrap();
    for name in ["alice", "\"desk\"", "127.0.0.1", &expired] {
        assert!(!text.contains(name), "{name}");
    }
}

#[tokio::test]
async fn the_log_is_counted_in_the_metrics() {
    let relay = TestRelay::start().await;
    let refused = Request::get("/echo").header("authorization", "Bearer no.real.token");
    assert_eq!(relay.send(refused, Bytes::new()).await.status(), 401);
    eventually("the line is counted", async || relay.metric("tunnel_relay_audit_lines_total").await >= 2)
        .await;
    assert_eq!(relay.metric("tunnel_relay_refused_tokens_total{code=\"token_invalid\"}").await, 1);
    assert_eq!(relay.metric("tunnel_relay_audit_lost_total").await, 0);
    eventually("it is on the disk", async || !of(&lines(&relay), "token_refused").is_empty()).await;
}
