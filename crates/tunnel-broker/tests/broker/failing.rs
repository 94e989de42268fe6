use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tunnel_broker::{BackendState, BoxError, FailureCode, Ingress};

use crate::support::*;

fn primary(fake: &Fake, other: &Fake) -> Vec<tunnel_broker::BackendConfig> {
    let mut second = ollama(other, "b");
    second.priority = 1;
    vec![ollama(fake, "a"), second]
}

async fn both_up(bench: &Bench) {
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m"]).await);
    let bench = start(settings(primary(&a, &b)));
    both_up(&bench).await;
    a.stop().await;
    let began = Instant::now();
    assert_eq!(bench.by(chat("m")).await, "b");
    assert!(began.elapsed() < Duration::from_secs(1));
    // Bodies that can be sent only once are not lost either: nothing of them was sent.
    let frames = ["{\"model\":\"m\",\"x\":\"", &"y".repeat(2 << 20), "\"}"]
        .map(|text| Ok::<_, BoxError>(Frame::data(Bytes::from(text.to_owned()))));
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let response = bench.broker.handle(Ingress::Local, Request::post("/api/chat").body(body).unwrap()).await;
    assert_eq!(response.headers()["x-tunnel-connection"], "b");
}

#[tokio::test]
async fn a_connection_that_dies_before_the_response_is_tried_elsewhere() {
    let a = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.write("HTTP/1.1 200 OK\r\ncontent-").await;
        None
    })
    .await;
    let b = Fake::echo("b", &["m"]).await;
    let bench = start(settings(primary(&a, &b)));
    both_up(&bench).await;
    assert_eq!(bench.by(chat("m")).await, "b");
    bench.broker.reconfigure(settings(vec![ollama(&a, "a")]));
    let response = bench.send(chat("m")).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.extensions().get(), Some(&FailureCode("backend_lost")));
    assert_eq!(text(response).await, r#"{"error":"connection 'a' broke before the response began"}"#);
}

#[tokio::test]
async fn a_503_is_tried_elsewhere_and_else_passed_on() {
    let a = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.answer(503, "application/json", r#"{"error":"server busy"}"#).await;
        Some(exchange)
    })
    .await;
    let b = Fake::echo("b", &["m"]).await;
    let bench = start(settings(primary(&a, &b)));
    both_up(&bench).await;
    assert_eq!(bench.by(chat("m")).await, "b");
    bench.broker.reconfigure(settings(vec![ollama(&a, "a")]));
    let (status, text) = bench.text(chat("m")).await;
    assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"server busy"}"#));
}

#[tokio::test]
async fn what_was_at_work_on_a_pooled_connection_is_not_begun_anew_for_nothing() {
    let a = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        tokio::time::sleep(Duration::from_millis(1200)).await;
        None
    })
    .await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    bench.state("a", BackendState::Connected).await;
    let response = bench.send(chat("m")).await;
    assert_eq!(response.extensions().get(), Some(&FailureCode("backend_lost")));
    assert_eq!((a.requests(), a.accepted()), (1, 1), "on the connection of the probes, and once");
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_costs_nothing() {
    // Answers once on each connection, then closes it when the next request comes.
    let fake = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.json("{}").await;
        let mut next = [0; 1];
        tokio::io::AsyncReadExt::read(&mut exchange.stream, &mut next).await.ok();
        exchange.reset();
        None
    })
    .await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    for _ in 0..10 {
        assert_eq!(bench.text(chat("m")).await, (StatusCode::OK, "{}".to_owned()));
    }
    assert_eq!(fake.requests(), 10);
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_without_saying_so_is_served() {
    let fake = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.json("{}").await;
        None
    })
    .await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    // The close arrives before, while and after the next request is written.
    for round in 0..300 {
        assert_eq!(bench.text(chat("m")).await, (StatusCode::OK, "{}".to_owned()));
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(fake.requests(), 300);
}

#[tokio::test]
async fn a_silent_backend_is_given_up_after_the_first_byte_limit() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let mut config = settings(vec![ollama(&fake, "a")]);
    config.first_byte_timeout = Duration::from_millis(200);
    let bench = start(config);
    let task = spawn_send(&bench, Ingress::Local, post("/v1/completions", r#"{"model":"m"}"#));
    let mut exchange = arrival(&mut rx).await;
    let response = task.await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(text(response).await.contains(r#""code":"first_byte_timeout""#));
    exchange.closed().await;
}

#[tokio::test]
async fn progress_of_an_upload_starts_the_first_byte_limit_anew() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let mut config = settings(vec![ollama(&fake, "a")]);
    config.first_byte_timeout = Duration::from_millis(400);
    let bench = start(config);
    let (tx, rx_body) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(rx_body, |mut rx| async {
        rx.recv().await.map(|data| (Ok::<_, BoxError>(Frame::data(data)), rx))
    });
    let request = Request::post("/api/chat").body(StreamBody::new(Box::pin(frames))).unwrap();
    let broker = bench.broker.clone();
    let task = tokio_util::task::TaskTracker::new()
        .spawn(async move { broker.handle(Ingress::Local, request).await });
    tx.send(Bytes::from_static(b"{\"model\":\"m\",\"x\":\"")).await.unwrap();
    let exchange = arrival(&mut rx).await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tx.send(Bytes::from_static(b"slowly")).await.expect("given up although it makes progress");
    }
    // From here on it is the caller who stalls.
    let response = task.await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(bench.broker.snapshot()[0].error_rate, 0.0, "the caller's fault counts against the backend");
    drop(exchange);
}

#[tokio::test]
async fn a_caller_that_stalls_before_the_model_is_known_is_given_up() {
    let (fake, _rx) = Fake::manual(&["m"]).await;
    let mut config = settings(vec![ollama(&fake, "a")]);
    config.first_byte_timeout = Duration::from_millis(200);
    let bench = start(config);
    let begun = futures_util::stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"{\"mod")))]);
    let frames = futures_util::StreamExt::chain(begun, futures_util::stream::pending());
    let request = Request::post("/v1/completions").body(StreamBody::new(frames)).unwrap();
    let answered = bench.broker.handle(Ingress::Local, request);
    let response = tokio::time::timeout(Duration::from_secs(5), answered).await.expect("not given up");
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    assert!(text(response).await.contains(r#""code":"upload_stalled""#));
}

#[tokio::test]
async fn a_backend_that_falls_silent_in_mid_stream_is_given_up() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let mut config = settings(vec![ollama(&fake, "a")]);
    config.idle_timeout = Duration::from_millis(200);
    let bench = start(config);
    let task = spawn_send(&bench, Ingress::Local, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange
        .write("HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let mut response = task.await.unwrap();
    // Before the first chunk the longer limit holds: a model may be loading.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..3 {
        exchange.chunk("{}\n").await;
        assert_eq!(next_text(response.body_mut()).await, "{}\n");
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let (rest, failed) = to_the_end(response.into_body()).await;
    assert_eq!((rest.as_str(), failed), ("{\"error\":\"the model server stopped sending\"}\n", true));
    exchange.closed().await;
    assert!(bench.broker.snapshot()[0].error_rate > 0.0);
}

/// What a caller gets of a stream that its backend breaks off.
async fn broken(ingress: Ingress, head: &str, wire: &str, reset: bool) -> (String, bool) {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let task = spawn_send(&bench, ingress, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    exchange.write(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{wire}")).await;
    let mut response = task.await.unwrap();
    let mut all = String::new();
    while !wire.is_empty() && all.is_empty() {
        all = next_text(response.body_mut()).await;
    }
    if reset {
        exchange.reset();
    } else {
        drop(exchange);
    }
    let (rest, failed) = to_the_end(response.into_body()).await;
    (all + &rest, failed)
}

#[tokio::test]
async fn a_broken_stream_ends_with_an_error_of_its_kind() {
    let chunked = |content_type: &str| format!("content-type: {content_type}\r\ntransfer-encoding: chunked");
    for reset in [false, true] {
        let (text, failed) =
            broken(Ingress::Local, &chunked("text/event-stream"), "9\r\ndata: 1\n\n\r\n", reset).await;
        assert!(failed);
        assert!(text.starts_with("data: 1\n\ndata: {\"error\":{\"message\":"), "{text}");
        assert!(text.ends_with("\"code\":\"backend_lost\"}}\n\n") && !text.contains("[DONE]"), "{text}");

        let (text, failed) =
            broken(Ingress::Local, &chunked("application/x-ndjson"), "3\r\n{}\n\r\n", reset).await;
        assert_eq!(
            (text.as_str(), failed),
            ("{}\n{\"error\":\"the model server broke off its response\"}\n", true)
        );

        let (text, failed) = broken(Ingress::Local, &chunked("text/plain"), "3\r\nabc\r\n", reset).await;
        assert_eq!((text.as_str(), failed), ("abc", true));

        let (text, failed) = broken(Ingress::Local, "content-length: 9", "abc", reset).await;
        assert_eq!((text.as_str(), failed), ("abc", true));

        // The relay tells it to a remote caller.
        let (text, failed) =
            broken(Ingress::Tunnel, &chunked("text/event-stream"), "9\r\ndata: 1\n\n\r\n", reset).await;
        assert_eq!((text.as_str(), failed), ("data: 1\n\n", true));
    }
}

#[tokio::test]
async fn a_known_model_on_a_server_that_is_down_is_503_and_comes_back_by_itself() {
    let a = Fake::echo("a", &["m"]).await;
    let mut config = settings(vec![ollama(&a, "a")]);
    config.probe_failures = 1;
    let bench = start(config);
    assert_eq!(bench.by(chat("m")).await, "a");
    a.stop().await;
    bench.broker.probe_now();
    bench.state("a", BackendState::Disconnected).await;
    let response = bench.send(chat("m")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(
        text(response).await,
        format!(r#"{{"error":"connection 'a' is down: connection refused at {}"}}"#, a.addr)
    );
    assert_eq!(bench.broker.snapshot()[0].models.len(), 1, "its models stay known");
    // The request itself finds that the server is back.
    let _again = Fake::start_at(&a.addr.to_string(), &["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.json(r#"{"by":"again"}"#).await;
        Some(exchange)
    })
    .await;
    assert_eq!(bench.by(chat("m")).await, "again");
}

#[tokio::test]
async fn what_is_not_http_is_told() {
    let fake = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.write("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        None
    })
    .await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let (status, text) = bench.text(chat("m")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(text.contains("not HTTP"), "{text}");
}

#[tokio::test]
async fn nothing_is_sent_twice_once_a_response_has_begun() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let script = move |mut exchange: Exchange| {
        seen.fetch_add(1, Ordering::SeqCst);
        async move {
            exchange.body().await;
            exchange.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
            None
        }
    };
    let a = Fake::start(&["m"], script.clone()).await;
    let b = Fake::start(&["m"], script).await;
    let bench = start(settings(primary(&a, &b)));
    both_up(&bench).await;
    let response = bench.send(chat("m")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(to_the_end(response.into_body()).await, ("abc".to_owned(), true));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_asks_no_model_neither_ejects_a_server_nor_keeps_it() {
    let fake = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        let shows = exchange.target == "/api/show";
        let status = if shows { 200 } else { 500 };
        exchange.answer(status, "application/json", "{}").await;
        Some(exchange)
    })
    .await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    bench.state("a", BackendState::Connected).await;
    let breaker = || bench.broker.snapshot()[0].breaker;
    for _ in 0..8 {
        assert_eq!(bench.text(post("/api/pull", r#"{"model":"n","stream":false}"#)).await.0, 500);
    }
    assert_eq!(breaker(), tunnel_broker::BreakerState::Closed);
    for _ in 0..5 {
        assert_eq!(bench.text(post("/api/show", r#"{"model":"m"}"#)).await.0, 200);
        assert_eq!(bench.text(chat("m")).await.0, 500);
    }
    assert_eq!(breaker(), tunnel_broker::BreakerState::Open);
}
