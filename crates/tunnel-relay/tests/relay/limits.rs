//! What a tenant and an address may use, and settings that change meanwhile.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tunnel_relay::{AddressLimits, EdgeSettings, Settings, Tier};
use tunnel_transport::DialError;

use crate::harness::{BIG_FRAMES, PATIENCE, TestRelay, eventually, json_of, raw, read};

const GRACE: Duration = Duration::from_secs(5);

fn tiers(tier: Tier) -> Settings {
    Settings { tiers: [("free".to_owned(), tier)].into(), ..Settings::default() }
}

fn get(token: &str, path: &str) -> http::request::Builder {
    Request::get(path).header("authorization", format!("Bearer {token}"))
}

#[tokio::test]
async fn a_tier_lets_its_burst_in_and_tells_what_is_left() {
    let tier = Tier { requests_per_minute: NonZeroU32::new(6), burst: NonZeroU32::new(2), ..Tier::default() };
    let relay = TestRelay::with(tiers(tier), GRACE).await;
    let _desk = relay.desk("alice", "desk").await;
    let (free, other) = (relay.token_of_tier("alice", "free"), relay.token_of_tier("alice", "premium"));
    for left in [1, 0] {
        let response = relay.send(get(&free, "/v1/models"), Bytes::new()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["ratelimit-policy"], "\"tenant\";q=6;w=60");
        let state = response.headers()["ratelimit"].to_str().unwrap();
        assert!(state.starts_with(&format!("\"tenant\";r={left};t=")), "{state}");
    }
    let response = relay.send(get(&free, "/v1/models"), Bytes::new()).await;
    assert_eq!(response.status(), 429);
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    assert!(response.headers()["ratelimit"].to_str().unwrap().starts_with("\"tenant\";r=0;t="));
    assert_eq!(json_of(response).await["error"]["code"], "rate_limited");
    for _ in 0..5 {
        let response = relay.send(get(&other, "/v1/models"), Bytes::new()).await;
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("ratelimit"));
    }
}

#[tokio::test]
async fn an_address_that_guesses_tokens_is_not_listened_to() {
    let address = AddressLimits { refused_tokens_per_minute: NonZeroU32::new(5), ..AddressLimits::default() };
    let relay = TestRelay::with(Settings { address, ..Settings::default() }, GRACE).await;
    let _desk = relay.desk("alice", "desk").await;
    let known = relay.token("alice", "inference");
    assert_eq!(relay.send(get(&known, "/v1/models"), Bytes::new()).await.status(), 200);
    let mut refused = 0;
    while relay.send(get("guess", "/v1/models"), Bytes::new()).await.status() == 401 {
        refused += 1;
        assert!(refused < 100);
    }
    assert!((6..=8).contains(&refused), "{refused}");
    assert_eq!(
        relay.send(get(&known, "/v1/models"), Bytes::new()).await.status(),
        200,
        "seen to be good before"
    );
    let good = relay.token("alice", "inference");
    assert_ne!(good, known);
    let response = relay.send(get(&good, "/v1/models"), Bytes::new()).await;
    assert_eq!(response.status(), 429);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(relay.send(Request::get("/health"), Bytes::new()).await.status(), 200);
}

#[tokio::test]
async fn desktops_dial_and_resume_as_often_as_their_tier_says() {
    let default_tier = Tier { max_devices: 1, dials_per_minute: NonZeroU32::new(1), ..Tier::default() };
    let relay = TestRelay::with(Settings { default_tier, ..Settings::default() }, GRACE).await;
    let connector = relay.connector(&relay.token("alice", "tunnel"), "desk");
    let mut n_taken = 0;
    let desktop = loop {
        let desktop = connector.dial().await.unwrap();
        n_taken += 1;
        if n_taken == 14 {
            break desktop;
        }
    };
    let error = connector.dial().await.unwrap_err();
    let DialError::Busy { after, .. } = error else { panic!("{error:?}") };
    assert!((1..=60).contains(&after.as_secs()), "{after:?}");
    for _ in 0..14 {
        connector.resume(&desktop.session).await.unwrap();
    }
    let error = connector.resume(&desktop.session).await.unwrap_err();
    assert!(matches!(error, DialError::Busy { .. }), "{error:?}");
    let other = relay.connector(&relay.token("bob", "tunnel"), "desk");
    other.dial().await.unwrap();
    assert_eq!(relay.metric("tunnel_relay_limit_hits_total{code=\"rate_limited\"}").await, 2);
}

#[tokio::test]
async fn a_body_over_the_limit_reaches_no_desktop_in_full() {
    let tier = Tier { max_body_bytes: Some(1_000), ..Tier::default() };
    let relay = TestRelay::with(tiers(tier), GRACE).await;
    let desk = relay.desk("alice", "desk").await;
    let token = relay.token_of_tier("alice", "free");
    let fits = relay.send(get(&token, "/v1/x").method("POST"), Bytes::from(vec![b'x'; 1_000])).await;
    assert_eq!(json_of(fits).await["body"], 1_000);

    let response = relay.send(get(&token, "/v1/said").method("POST"), Bytes::from(vec![b'x'; 1_001])).await;
    assert_eq!(response.status(), 413);
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!(json_of(response).await["error"]["code"], "body_too_large");
    assert!(!desk.seen.paths.lock().unwrap().iter().any(|path| path == "/v1/said"));

    let chunked = format!(
        "POST /v1/chunked HTTP/1.1\r\nhost: r\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\n\
         3e8\r\n{0}\r\n1\r\nx\r\n0\r\n\r\n",
        "x".repeat(1_000)
    );
    let answer = raw(relay.addr, &chunked, |_| {}).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
    assert_eq!(relay.metric("tunnel_relay_streams").await, 0);
}

#[tokio::test]
async fn a_body_that_dribbles_is_given_up() {
    let edge = EdgeSettings { min_upload_bytes_per_second: 256, ..EdgeSettings::default() };
    let relay = TestRelay::with(Settings { edge, ..Settings::default() }, GRACE).await;
    let _desk = relay.desk("alice", "desk").await;
    let token = relay.token("alice", "inference");
    let mut stream = TcpStream::connect(relay.addr).await.unwrap();
    let head = format!(
        "POST /v1/slow HTTP/1.1\r\nhost: r\r\nauthorization: Bearer {token}\r\ncontent-length: 1000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let started = Instant::now();
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 1_024];
        match timeout(Duration::from_millis(200), stream.read(&mut piece)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(n)) => answer.extend_from_slice(&piece[..n]),
            Err(_) => drop(stream.write_all(b"x").await),
        }
        assert!(started.elapsed() < PATIENCE, "never closed");
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("upload_too_slow"), "{answer}");
    assert!(started.elapsed() >= Duration::from_secs(4), "{:?}", started.elapsed());
    eventually("the stream is over", async || relay.metric("tunnel_relay_streams").await == 0).await;
    assert_eq!(relay.metric("tunnel_relay_limit_hits_total{code=\"upload_too_slow\"}").await, 1);
}

#[tokio::test]
async fn a_response_that_nobody_reads_is_given_up() {
    let edge = EdgeSettings { unread_timeout: Duration::from_secs(1), ..EdgeSettings::default() };
    let relay = TestRelay::with(Settings { edge, ..Settings::default() }, GRACE).await;
    let desk = relay.desk("alice", "desk").await;
    let token = relay.token("alice", "inference");
    let mut stream = TcpStream::connect(relay.addr).await.unwrap();
    let head = format!("GET /big HTTP/1.1\r\nhost: r\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("the stream is given up", async || {
        relay.metric("tunnel_relay_requests_total{outcome=\"caller_stalled\"}").await == 1
    })
    .await;
    assert_eq!(relay.metric("tunnel_relay_streams").await, 0);
    eventually("the desktop stops", async || {
        desk.seen.dropped.load(std::sync::atomic::Ordering::SeqCst) == 1
    })
    .await;
    // Who reads slowly, and reads, gets all of it.
    let response = relay.call("alice", Request::get("/big")).await;
    assert_eq!(read(response).await.unwrap().len(), BIG_FRAMES * 16 * 1024);
}

#[tokio::test]
async fn streams_of_a_tenant_share_their_bytes_a_second() {
    let rate = 8 * 1024 * 1024;
    let tier = Tier { bytes_per_second: NonZeroU32::new(rate), ..Tier::default() };
    let relay = TestRelay::with(tiers(tier), GRACE).await;
    let _desk = relay.desk("alice", "desk").await;
    let token = relay.token_of_tier("alice", "free");
    let started = Instant::now();
    let (one, two) = tokio::join!(
        relay.send(get(&token, "/big"), Bytes::new()),
        relay.send(get(&token, "/big"), Bytes::new())
    );
    let (one, two) = tokio::join!(read(one), read(two));
    let n_bytes = one.unwrap().len() + two.unwrap().len();
    let least = Duration::from_secs_f64(n_bytes as f64 / f64::from(rate)).mul_f64(0.9);
    assert!(started.elapsed() >= least, "{n_bytes} bytes in {:?}", started.elapsed());
}

#[tokio::test]
async fn a_changed_file_is_in_force_at_once_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("relay.toml");
    let free = |requests: u32| format!("[tiers.free]\nrequests_per_minute = {requests}\n");
    std::fs::write(&file, free(100)).unwrap();
    let relay = TestRelay::following(file.clone()).await;
    let _desk = relay.desk("alice", "desk").await;
    let token = relay.token_of_tier("alice", "free");
    let policy = async || {
        let response = relay.send(get(&token, "/v1/models"), Bytes::new()).await;
        let policy =
            response.headers().get("ratelimit-policy").map(|policy| policy.to_str().unwrap().to_owned());
        policy.unwrap_or_default()
    };
    assert_eq!(policy().await, "\"tenant\";q=100;w=60");
    std::fs::write(&file, free(200)).unwrap();
    eventually("the change is in force", async || policy().await == "\"tenant\";q=200;w=60").await;
    // In place, as above, it is empty for a moment, which may have counted; from here on as editors save: another file
    // under the same name.
    let n_errors = async || relay.metric("tunnel_relay_config_reloads_total{result=\"error\"}").await;
    let (before, draft) = (n_errors().await, dir.path().join("draft"));
    std::fs::write(&draft, "[tiers.free]\nrequests_per_minute = \"many\"\n").unwrap();
    std::fs::rename(&draft, &file).unwrap();
    eventually("the fault is counted", async || n_errors().await == before + 1).await;
    assert_eq!(policy().await, "\"tenant\";q=200;w=60");
    assert_eq!(relay.metric("tunnel_relay_config_faults").await, 1);
    // A pipe that nobody writes to must not hold whoever looks.
    assert!(std::process::Command::new("mkfifo").arg(&draft).status().unwrap().success());
    std::fs::rename(&draft, &file).unwrap();
    eventually("the pipe is refused", async || n_errors().await == before + 2).await;
    std::fs::write(&draft, free(300)).unwrap();
    std::fs::rename(&draft, &file).unwrap();
    eventually("the mended file is in force", async || policy().await == "\"tenant\";q=300;w=60").await;
    assert_eq!(relay.metric("tunnel_relay_config_reloads_total{result=\"ok\"}").await, 2);
    assert_eq!(relay.metric("tunnel_relay_config_faults").await, 0);
}
