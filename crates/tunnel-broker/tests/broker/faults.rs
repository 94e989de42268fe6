//! Each way in which a backend fails a request before the first byte, with another backend beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tunnel_broker::{
    BackendConfig, BackendKind, BackendState, BreakerState, Credential, FailureCode, Health, Ingress,
    Outcome, RoutingPolicy,
};

use crate::support::*;

/// `a` is preferred to `b`.
fn preferred(a: BackendConfig, mut b: BackendConfig) -> Vec<BackendConfig> {
    b.priority = 1;
    vec![a, b]
}

async fn both_up(bench: &Bench) {
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
}

fn breaker(bench: &Bench, id: &str) -> BreakerState {
    bench.broker.snapshot().into_iter().find(|status| status.id == id).unwrap().breaker
}

fn health(bench: &Bench, id: &str) -> Health {
    bench.broker.snapshot().into_iter().find(|status| status.id == id).unwrap().health
}

/// What a backend does with a request instead of answering it.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Answers(u16),
    Closes,
    Resets,
    Garbage,
    HalfAHead,
}

const FAULTS: [Fault; 7] = [
    Fault::Answers(500),
    Fault::Answers(502),
    Fault::Answers(503),
    Fault::Closes,
    Fault::Resets,
    Fault::Garbage,
    Fault::HalfAHead,
];

async fn faulty(fault: Fault) -> Fake {
    Fake::start(&["m"], move |mut exchange| async move {
        exchange.body().await;
        match fault {
            Fault::Answers(status) => {
                exchange.answer(status, "application/json", r#"{"error":"its own words"}"#).await;
                return Some(exchange);
            }
            Fault::Closes => {}
            Fault::Resets => exchange.reset(),
            Fault::Garbage => exchange.write("SSH-2.0-OpenSSH_9.2\r\n\r\n").await,
            Fault::HalfAHead => exchange.write("HTTP/1.1 200 OK\r\ncontent-").await,
        }
        None
    })
    .await
}

#[tokio::test]
async fn each_fault_before_the_first_byte_is_made_good_by_another_backend() {
    let requests = [
        r#"/api/chat {"model":"m"}"#,
        r#"/api/chat {"model":"m","stream":false}"#,
        r#"/v1/chat/completions {"model":"m","stream":true}"#,
        r#"/v1/chat/completions {"model":"m"}"#,
    ];
    let b = Fake::echo("b", &["m"]).await;
    for fault in FAULTS {
        for request in requests {
            let a = faulty(fault).await;
            let bench = start(settings(preferred(ollama(&a, "a"), ollama(&b, "b"))));
            both_up(&bench).await;
            let (target, body) = request.split_once(' ').unwrap();
            let began = Instant::now();
            assert_eq!(bench.by(post(target, body)).await, "b", "{fault:?} {request}");
            assert!(began.elapsed() < Duration::from_secs(1), "{fault:?} {request}");
            // Once more where a kept connection was lost: it might have been closed before.
            let lost = matches!(fault, Fault::Closes | Fault::Resets | Fault::HalfAHead);
            let most = if lost { 2 } else { 1 };
            assert!((1..=most).contains(&a.requests()), "{fault:?} {request}: {}", a.requests());
        }
    }
}

#[tokio::test]
async fn an_answer_of_5xx_that_no_other_betters_is_passed_on_as_it_is() {
    let (a, b) = (faulty(Fault::Answers(500)).await, faulty(Fault::Closes).await);
    let bench = start(settings(preferred(ollama(&a, "a"), ollama(&b, "b"))));
    both_up(&bench).await;
    let response = bench.send(chat("m")).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(b.requests() > 0, "the other was asked");
    assert_eq!(response.headers()["x-tunnel-connection"], "a");
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(text(response).await, r#"{"error":"its own words"}"#);
    // The other way round: a server's own words say more than ours about the one before.
    let bench = start(settings(preferred(ollama(&b, "b"), ollama(&a, "a"))));
    both_up(&bench).await;
    let (status, text) = bench.text(chat("m")).await;
    assert_eq!((status.as_u16(), text.as_str()), (500, r#"{"error":"its own words"}"#));
}

#[tokio::test]
async fn an_answer_of_504_or_4xx_is_passed_on_at_once() {
    let b = Fake::echo("b", &["m"]).await;
    for status in [400, 401, 404, 429, 501, 504] {
        let a = faulty(Fault::Answers(status)).await;
        let bench = start(settings(preferred(ollama(&a, "a"), ollama(&b, "b"))));
        both_up(&bench).await;
        // As many as do not open the breaker yet.
        for _ in 0..if status < 500 { 10 } else { 4 } {
            assert_eq!(bench.text(chat("m")).await.0.as_u16(), status);
        }
        assert_eq!(breaker(&bench, "a"), BreakerState::Closed);
        if status < 500 {
            assert_eq!(bench.broker.snapshot()[0].error_rate, 0.0, "{status} is no failure of the backend");
        }
    }
    assert_eq!(b.requests(), 0);
}

#[tokio::test]
async fn management_is_never_sent_twice() {
    let b = Fake::echo("b", &["m"]).await;
    for fault in FAULTS {
        let a = faulty(fault).await;
        let bench = start(settings(preferred(ollama(&a, "a"), ollama(&b, "b"))));
        both_up(&bench).await;
        let (status, _) = bench.text(request(Method::DELETE, "/api/delete", "")).await;
        assert!(status.is_server_error(), "{fault:?}");
        let (status, _) = bench.text(post("/api/pull", r#"{"model":"m"}"#)).await;
        assert!(status.is_server_error(), "{fault:?}");
        assert_eq!(a.requests(), 2, "{fault:?}");
    }
    assert_eq!(b.requests(), 0);
    // Nor is another machine changed because the one that is meant is down.
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(preferred(ollama(&a, "a"), ollama(&b, "b"))));
    both_up(&bench).await;
    a.stop().await;
    for _ in 0..2 {
        let (status, text) = bench.text(request(Method::DELETE, "/api/delete", r#"{"model":"m"}"#)).await;
        assert!(status.is_server_error() && text.contains("X-Tunnel-Connection"), "{status} {text}");
    }
    assert_eq!(b.requests(), 0);
}

/// A server of another side of the house, whose prompts must not leave it.
fn cloud(fake: &Fake, id: &str) -> BackendConfig {
    fake.config(id, BackendKind::Cloud)
}

#[tokio::test]
async fn no_answer_of_a_local_server_sends_a_request_to_the_cloud() {
    let b = Fake::echo("b", &["m"]).await;
    for status in [500, 502, 503, 404] {
        let a = faulty(Fault::Answers(status)).await;
        let bench = start(settings(preferred(ollama(&a, "a"), cloud(&b, "b"))));
        both_up(&bench).await;
        for request in [chat("m"), post("/v1/chat/completions", "{}"), get("/v1/files")] {
            assert_eq!(bench.text(request).await.0.as_u16(), status);
        }
    }
    assert_eq!(b.requests(), 0);
    // The other way round nothing leaves the house.
    let a = faulty(Fault::Answers(500)).await;
    let mut config = settings(preferred(cloud(&a, "a"), ollama(&b, "b")));
    config.routing_policy = RoutingPolicy::PreferCloud;
    let bench = start(config);
    both_up(&bench).await;
    assert_eq!(bench.by(chat("m")).await, "b");
    assert_eq!(a.requests(), 1);
}

#[tokio::test]
async fn a_refused_credential_is_no_matter_of_the_callers() {
    for status in [401, 403] {
        // A gateway that gives the key one model and refuses the other.
        let a = Fake::start(&["m", "n"], move |mut exchange| async move {
            if exchange.body().await.ends_with(br#""n"}"#) {
                exchange.json(r#"{"by":"a"}"#).await;
            } else {
                exchange.answer(status, "application/json", r#"{"error":"bad key sk-…abcd"}"#).await;
            }
            Some(exchange)
        })
        .await;
        let b = Fake::echo("b", &["m"]).await;
        let credential = Credential::new("account");
        credential.set("sk-wrong-abcd").unwrap();
        let refusing = BackendConfig { credential: Some(credential), ..ollama(&a, "a") };
        let bench = start(settings(preferred(refusing.clone(), ollama(&b, "b"))));
        both_up(&bench).await;
        for _ in 0..8 {
            assert_eq!(bench.by(chat("m")).await, "b");
        }
        assert_eq!((a.requests(), breaker(&bench, "a")), (8, BreakerState::Closed));
        assert_eq!(bench.by(chat("n")).await, "a", "it is there for what it takes");
        let bench = start(settings(vec![refusing]));
        bench.state("a", BackendState::Connected).await;
        let mut records = bench.broker.records(8).unwrap();
        let response = bench.send(chat("m")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.extensions().get(), Some(&FailureCode("backend_unauthorised")));
        let text = text(response).await;
        assert!(!text.contains("abcd") && text.contains("credential"), "{text}");
        assert_eq!(records.recv().await.unwrap().outcome, Outcome::Failed, "it was asked");
    }
}

#[tokio::test]
async fn a_refused_credential_moves_on_within_the_budget() {
    let refusing = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.answer(401, "application/json", "{}").await;
        Some(exchange)
    })
    .await;
    let b = Fake::echo("b", &["m"]).await;
    let credential = Credential::new("account");
    credential.set("sk-wrong").unwrap();
    let a = BackendConfig { credential: Some(credential), ..ollama(&refusing, "a") };
    let bench = start(settings(preferred(a, ollama(&b, "b"))));
    both_up(&bench).await;
    for _ in 0..100 {
        bench.text(chat("m")).await;
    }
    assert!((1..100).contains(&b.requests()), "{} of 100", b.requests());
}

#[tokio::test]
async fn a_server_without_another_beside_it_is_not_asked_while_it_works() {
    let (a, mut rx) = Fake::manual(&["m"]).await;
    let mut config = settings(vec![ollama(&a, "a")]);
    config.first_byte_timeout = Duration::from_secs(2);
    let bench = start(config);
    bench.state("a", BackendState::Connected).await;
    let before = a.shared.probes.load(Ordering::SeqCst);
    let task = spawn_send(&bench, Ingress::Local, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(a.shared.probes.load(Ordering::SeqCst), before);
    exchange.json("{}").await;
    assert_eq!(task.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn strangers_are_not_told_where_a_server_is() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    assert_eq!(bench.by(chat("m")).await, "a");
    a.stop().await;
    // The first is told by the attempt, the others by what a probe has seen.
    for ingress in [Ingress::Tunnel, Ingress::Lan, Ingress::Tunnel] {
        let response = bench.send_from(ingress, chat("m")).await;
        assert!(response.status().is_server_error());
        let text = text(response).await;
        assert!(text.contains("connection 'a'") && !text.contains("127.0.0.1"), "{text}");
    }
    assert!(bench.text(chat("m")).await.1.contains("127.0.0.1"), "its user is");
}

#[tokio::test]
async fn a_long_error_of_unknown_length_is_passed_on_as_far_as_it_is_held_and_does_not_look_whole() {
    let a = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange
            .write("HTTP/1.1 500 X\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        for _ in 0..20 {
            exchange.chunk(&"no".repeat(4096)).await;
        }
        exchange.write("0\r\n\r\n").await;
        None
    })
    .await;
    let b = faulty(Fault::Closes).await;
    let bench = start(settings(preferred(ollama(&a, "a"), ollama(&b, "b"))));
    both_up(&bench).await;
    let response = bench.send(chat("m")).await;
    assert_eq!(response.status().as_u16(), 500);
    let (text, cut) = to_the_end(response.into_body()).await;
    assert_eq!((text.len(), cut), (64 << 10, true));
}

/// The broker behind a socket, as its callers see it.
async fn door(bench: &Bench) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, broker) = (listener.local_addr().unwrap(), bench.broker.clone());
    let serving = async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = service_fn(|request| async {
            Ok::<_, std::convert::Infallible>(broker.handle(Ingress::Local, request).await)
        });
        // A caller that is told by the end of its connection is what this is for.
        drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
    };
    (addr, AbortOnDropHandle::new(TaskTracker::new().spawn(serving)))
}

#[tokio::test]
async fn an_error_that_stalls_never_looks_whole_to_a_caller() {
    for framing in [
        "content-length: 1000\r\n\r\n{\"begun\":1",
        "transfer-encoding: chunked\r\n\r\na\r\n{\"begun\":1\r\n",
    ] {
        let a = Fake::start(&["m"], move |mut exchange| async move {
            exchange.body().await;
            exchange.write("HTTP/1.1 503 X\r\ncontent-type: application/json\r\n").await;
            exchange.write(framing).await;
            std::future::pending().await
        })
        .await;
        let closes = faulty(Fault::Closes).await;
        let bench = start(settings(preferred(openai(&a, "a"), ollama(&closes, "b"))));
        both_up(&bench).await;
        let (addr, _serving) = door(&bench).await;
        let stream = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (mut sender, conn) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        let _conn = AbortOnDropHandle::new(TaskTracker::new().spawn(async move { drop(conn.await) }));
        let mut request = post("/v1/chat/completions", r#"{"model":"m"}"#);
        request.headers_mut().insert("host", "x".parse().unwrap());
        let response = tokio::time::timeout(SOON, sender.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{framing}");
        assert_eq!(response.headers().get("content-length"), None, "{framing}");
        let body = tokio::time::timeout(SOON, response.into_body().collect()).await.expect("an end");
        assert!(body.is_err(), "{framing}: {body:?}");
    }
}

/// Keeps connecting to a port at which nobody accepts any more, until its queue is full.
async fn fill(address: SocketAddr) -> Vec<TcpStream> {
    let mut fillers = Vec::new();
    for _ in 0..16 {
        let connecting = TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(200), connecting).await {
            Ok(stream) => fillers.push(stream.unwrap()),
            Err(_) => return fillers,
        }
    }
    panic!("its queue has no end");
}

#[tokio::test]
async fn a_black_hole_costs_the_first_requests_a_moment_and_the_others_nothing() {
    // The port stays open when the server is gone, with nobody to accept: connections are neither made nor refused.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&listener).listen(1).unwrap();
    listener.set_nonblocking(true).unwrap();
    let stays = listener.try_clone().unwrap();
    let a = Fake::start_on(TcpListener::from_std(listener).unwrap(), &["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.json("{\"by\":\"a\"}").await;
        Some(exchange)
    });
    let b = Fake::echo("b", &["m"]).await;
    let mut config = settings(preferred(ollama(&a, "a"), ollama(&b, "b")));
    config.connect_timeout = Duration::from_secs(20);
    let bench = start(config);
    both_up(&bench).await;
    assert_eq!(bench.by(chat("m")).await, "a");
    a.stop().await;
    let _fillers = fill(a.addr).await;
    let began = Instant::now();
    assert_eq!(bench.by(chat("m")).await, "b");
    let first = began.elapsed();
    assert!(first > Duration::from_secs(1) && first < Duration::from_secs(5), "{first:?}");
    assert_eq!(breaker(&bench, "a"), BreakerState::Open);
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(bench.by(chat("m")).await, "b");
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    drop(stays);
}

#[tokio::test]
async fn a_refused_connection_ejects_and_a_good_probe_brings_the_server_back() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m"]).await);
    let bench = start(settings(preferred(ollama(&a, "a"), ollama(&b, "b"))));
    both_up(&bench).await;
    assert_eq!((breaker(&bench, "a"), health(&bench, "a")), (BreakerState::Closed, Health::Up));
    a.stop().await;
    assert_eq!(bench.by(chat("m")).await, "b");
    assert_eq!((breaker(&bench, "a"), health(&bench, "a")), (BreakerState::Open, Health::Degraded));
    let again = Fake::start_at(&a.addr.to_string(), &["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.json(r#"{"by":"again"}"#).await;
        Some(exchange)
    })
    .await;
    let refilled = Instant::now();
    while again.requests() == 0 {
        assert!(refilled.elapsed() < Duration::from_millis(2500), "not back in rotation");
        bench.by(chat("m")).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        (breaker(&bench, "a"), health(&bench, "a")),
        (BreakerState::Closed, Health::Degraded),
        "returning"
    );
}

#[tokio::test]
async fn all_that_are_ejected_are_tried_nevertheless() {
    let works = Arc::new(AtomicBool::new(false));
    let script = {
        let works = Arc::clone(&works);
        move |mut exchange: Exchange| {
            let works = works.load(Ordering::SeqCst);
            async move {
                exchange.body().await;
                exchange.answer(if works { 200 } else { 500 }, "application/json", "{}").await;
                Some(exchange)
            }
        }
    };
    let (a, b) = (Fake::start(&["m"], script.clone()).await, Fake::start(&["m"], script).await);
    let bench = start(settings(vec![ollama(&a, "a"), ollama(&b, "b")]));
    both_up(&bench).await;
    for _ in 0..10 {
        assert_eq!(bench.text(chat("m")).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!([breaker(&bench, "a"), breaker(&bench, "b")], [BreakerState::Open; 2]);
    works.store(true, Ordering::SeqCst);
    assert_eq!(bench.text(chat("m")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn servers_that_all_answer_500_get_a_fifth_more_and_no_flood() {
    const REQUESTS: usize = 1500;
    let (a, b) = (faulty(Fault::Answers(500)).await, faulty(Fault::Answers(500)).await);
    let c = faulty(Fault::Answers(500)).await;
    let bench = start(settings(vec![ollama(&a, "a"), ollama(&b, "b"), ollama(&c, "c")]));
    both_up(&bench).await;
    bench.state("c", BackendState::Connected).await;
    let began = Instant::now();
    for n in 0..REQUESTS {
        assert_eq!(bench.text(chat("m")).await.0, StatusCode::INTERNAL_SERVER_ERROR);
        // 500 a second: not all in one, so that what is allowed each second is counted too.
        let due = Duration::from_millis(2 * n as u64);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    let attempts = a.requests() + b.requests() + c.requests();
    println!("attempts for {REQUESTS} requests that all fail: {attempts}");
    assert!(attempts * 10 <= REQUESTS * 12, "{attempts}");
    assert!(attempts * 10 >= REQUESTS * 11, "{attempts}: the budget is there to be used");
}

#[tokio::test]
async fn requests_leave_a_server_that_answers_no_probe_either() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m"]).await);
    let mut config = settings(preferred(ollama(&a, "a"), ollama(&b, "b")));
    config.first_byte_timeout = Duration::from_secs(4);
    let bench = start(config);
    both_up(&bench).await;
    assert_eq!(bench.by(chat("m")).await, "a");
    a.set_mood(Mood::Frozen);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let began = Instant::now();
    let waiting: Vec<_> = (0..8).map(|_| spawn_send(&bench, Ingress::Local, chat("m"))).collect();
    for task in waiting {
        let response = task.await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["x-tunnel-connection"]),
            (StatusCode::OK, &"b".parse().unwrap())
        );
    }
    println!("moved away from a server that hangs after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_millis(3900), "{:?}", began.elapsed());
    assert_eq!(breaker(&bench, "a"), BreakerState::Open);
    let began = Instant::now();
    assert_eq!(bench.by(chat("m")).await, "b");
    assert!(began.elapsed() < Duration::from_secs(1), "new requests do not go there");
    a.set_mood(Mood::Well);
    eventually("back", || breaker(&bench, "a") == BreakerState::Closed).await;
    assert_eq!(bench.by(chat("m")).await, "a");
}

#[tokio::test]
async fn a_server_that_answers_its_probes_is_never_left() {
    let (a, mut rx) = Fake::manual(&["m"]).await;
    let b = Fake::echo("b", &["m"]).await;
    let mut config = settings(preferred(ollama(&a, "a"), ollama(&b, "b")));
    config.first_byte_timeout = Duration::from_secs(4);
    let bench = start(config);
    both_up(&bench).await;
    let before = a.shared.probes.load(Ordering::SeqCst);
    let task = spawn_send(&bench, Ingress::Local, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    // Well beyond the first doubts.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(a.shared.probes.load(Ordering::SeqCst) > before, "it was asked");
    exchange.json("{}").await;
    let response = task.await.unwrap();
    assert_eq!(response.headers()["x-tunnel-connection"], "a");
    assert_eq!(b.requests(), 0);
}

#[tokio::test]
async fn a_server_that_hangs_and_has_no_other_beside_it_keeps_its_requests() {
    let a = Fake::echo("a", &["m"]).await;
    let mut config = settings(vec![ollama(&a, "a")]);
    config.first_byte_timeout = Duration::from_secs(3);
    let bench = start(config);
    assert_eq!(bench.by(chat("m")).await, "a");
    a.set_mood(Mood::Frozen);
    let task = spawn_send(&bench, Ingress::Local, chat("m"));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    a.set_mood(Mood::Well);
    assert_eq!(task.await.unwrap().status(), StatusCode::OK);
    // And not for ever.
    a.set_mood(Mood::Frozen);
    let response = spawn_send(&bench, Ingress::Local, chat("m")).await.unwrap();
    assert_eq!(response.extensions().get(), Some(&FailureCode("first_byte_timeout")));
}
