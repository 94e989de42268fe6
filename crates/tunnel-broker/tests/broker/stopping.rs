//! Somebody cancels a request by its id, at each phase.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::num::NonZeroU32;
use tokio::sync::mpsc;
use tunnel_broker::{BackendState, BodyError, BoxError, FailureCode, Ingress, Outcome, RequestState};

use crate::support::*;

fn numbered(target: &str) -> Request<http_body_util::Full<Bytes>> {
    let mut request = post(target, r#"{"model":"m"}"#);
    request.headers_mut().insert("x-request-id", "r-1".parse().unwrap());
    request
}

#[tokio::test]
async fn while_its_body_is_read() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let (tx, rx_body) = mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(rx_body, |mut rx| async {
        rx.recv().await.map(|data| (Ok::<_, BoxError>(Frame::data(data)), rx))
    });
    let request = Request::post("/v1/completions").header("x-request-id", "r-1");
    let request = request.body(StreamBody::new(Box::pin(frames))).unwrap();
    let broker = bench.broker.clone();
    let task = tokio_util::task::TaskTracker::new()
        .spawn(async move { broker.handle(Ingress::Local, request).await });
    tx.send(Bytes::from_static(b"{\"prompt\":")).await.unwrap();
    eventually("it is listed", || !bench.broker.requests().is_empty()).await;
    assert_eq!(bench.broker.requests()[0].state, RequestState::Waiting);
    assert!(bench.broker.cancel("r-1"));
    let response = task.await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.extensions().get(), Some(&FailureCode("cancelled")));
    assert_eq!(response.headers()["x-request-id"], "r-1");
    assert!(text(response).await.contains(r#""code":"cancelled""#));
    assert!(rx.try_recv().is_err(), "no backend was asked");
    assert_eq!(bench.broker.in_flight(), 0);
}

#[tokio::test]
async fn while_it_waits_for_the_first_byte() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let mut records = bench.broker.records(4).unwrap();
    let sending = spawn_send(&bench, Ingress::Local, numbered("/api/chat"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    assert_eq!(bench.broker.requests()[0].state, RequestState::FirstByte);
    assert!(!bench.broker.cancel("r-2"));
    assert!(bench.broker.cancel("r-1"));
    let response = sending.await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        text(response).await,
        r#"{"error":"the request was cancelled on the machine that serves it"}"#
    );
    exchange.closed().await;
    let finished = records.recv().await.unwrap();
    assert_eq!((finished.outcome, finished.error), (Outcome::Cancelled, Some("cancelled")));
    assert!(!bench.broker.cancel("r-1"), "it is over");
    assert_eq!(bench.broker.snapshot()[0].in_flight, 0);
    assert_eq!(bench.broker.snapshot()[0].error_rate, 0.0, "it is not the backend's fault");
}

#[tokio::test]
async fn while_it_streams() {
    const LINE: &str = "{\"done\":false}\n";
    const EVENT: &str = "data: {\"choices\":[]}\n\n";
    let said = |code: &str| {
        format!(
            "data: {{\"error\":{{\"message\":\"the request was cancelled on the machine that serves it\",\
             \"type\":\"api_error\",\"param\":null,\"code\":\"{code}\"}}}}\n\n"
        )
    };
    let ollamas = "{\"error\":\"the request was cancelled on the machine that serves it\"}\n".to_owned();
    for (target, ingress, content_type, chunk, words) in [
        ("/api/chat", Ingress::Local, "application/x-ndjson", LINE, ollamas),
        ("/v1/chat/completions", Ingress::Local, "text/event-stream", EVENT, said("cancelled")),
        // The relay says it there.
        ("/v1/chat/completions", Ingress::Tunnel, "text/event-stream", EVENT, String::new()),
    ] {
        let (fake, mut rx) = Fake::manual(&["m"]).await;
        let bench = start(settings(vec![ollama(&fake, "a")]));
        let mut records = bench.broker.records(4).unwrap();
        let sending = spawn_send(&bench, ingress, numbered(target));
        let mut exchange = arrival(&mut rx).await;
        exchange.body().await;
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        exchange.write(head).await;
        exchange.chunk(chunk).await;
        let mut response = sending.await.unwrap();
        assert_eq!(next_text(response.body_mut()).await, chunk);
        // A reader that waits for the next chunk is woken.
        let reading = tokio_util::task::TaskTracker::new().spawn(async move {
            let mut body = response.into_body();
            let mut words = String::new();
            loop {
                match body.frame().await {
                    Some(Ok(frame)) => words += std::str::from_utf8(frame.data_ref().unwrap()).unwrap(),
                    Some(Err(error)) => return (words, error.downcast_ref::<BodyError>().copied()),
                    None => return (words, None),
                }
            }
        });
        tokio::task::yield_now().await;
        assert!(bench.broker.cancel("r-1"));
        assert_eq!(reading.await.unwrap(), (words, Some(BodyError::Cancelled)), "{target} {ingress:?}");
        exchange.closed().await;
        assert_eq!(records.recv().await.unwrap().error, Some("cancelled"));
        assert_eq!(bench.broker.in_flight(), 0);
    }
}

#[tokio::test]
async fn while_its_caller_does_not_read() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let mut config = ollama(&fake, "a");
    config.max_concurrent = NonZeroU32::new(1);
    let bench = start(settings(vec![config]));
    bench.state("a", BackendState::Connected).await;
    let sending = spawn_send(&bench, Ingress::Local, numbered("/api/chat"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    exchange
        .write("HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    exchange.chunk("{\"done\":false}\n").await;
    // Nobody ever polls its body.
    let response = sending.await.unwrap();
    assert_eq!(bench.broker.snapshot()[0].in_flight, 1);
    assert!(bench.broker.cancel("r-1"));
    exchange.closed().await;
    assert!(bench.broker.requests().is_empty(), "it is over for all but its caller");
    assert_eq!(bench.broker.snapshot()[0].in_flight, 0, "its place is free");
    // The next one gets it.
    let sending = spawn_send(&bench, Ingress::Local, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    exchange.json("{}").await;
    assert_eq!(text(sending.await.unwrap()).await, "{}");
    let (said, broken) = to_the_end(response.into_body()).await;
    assert!(broken && said.contains("cancelled"), "{said}");
}

#[tokio::test]
async fn what_is_no_llm_request_can_be_cancelled_too() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    bench.state("a", BackendState::Connected).await;
    let sending = spawn_send(&bench, Ingress::Local, numbered("/api/pull"));
    let mut exchange = arrival(&mut rx).await;
    let shown = &bench.broker.requests()[0];
    assert_eq!(
        (shown.class, shown.model.as_deref()),
        (None, None),
        "a name that no backend has is not shown"
    );
    assert!(bench.broker.cancel("r-1"));
    assert_eq!(sending.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    exchange.closed().await;
}
