//! A caller that goes away, at each phase, closes the backend's connection at once.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tunnel_broker::{BoxError, Broker, Ingress};

use crate::support::*;

/// A body that the test writes piece by piece.
fn channel_body()
-> (mpsc::Sender<Bytes>, StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, BoxError>>>) {
    let (tx, rx) = mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(rx, |mut rx| async {
        let data = rx.recv().await?;
        Some((Ok(Frame::data(data)), rx))
    });
    (tx, StreamBody::new(frames))
}

#[tokio::test]
async fn while_uploading() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let (tx, body) = channel_body();
    let broker = bench.broker.clone();
    let request = Request::post("/api/generate").body(Box::pin(body)).unwrap();
    let task = TaskTracker::new().spawn(async move { broker.handle(Ingress::Local, request).await });
    tx.send(Bytes::from_static(br#"{"model":"m","prompt":""#)).await.unwrap();
    let mut exchange = arrival(&mut rx).await;
    assert_eq!(exchange.header("transfer-encoding"), Some("chunked"));
    task.abort();
    exchange.closed().await;
    eventually("counted out", || bench.broker.in_flight() == 0).await;
}

#[tokio::test]
async fn while_waiting_for_the_first_byte() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let task = spawn_send(&bench, Ingress::Tunnel, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    drop(task);
    exchange.closed().await;
    eventually("counted out", || bench.broker.in_flight() == 0).await;
}

#[tokio::test]
async fn while_streaming() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let task = spawn_send(&bench, Ingress::Tunnel, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    exchange.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut response = task.await.unwrap();
    exchange.chunk("one").await;
    assert_eq!(next_text(response.body_mut()).await, "one");
    assert_eq!((bench.broker.in_flight(), bench.broker.snapshot()[0].in_flight), (1, 1));
    drop(response);
    assert_eq!((bench.broker.in_flight(), bench.broker.snapshot()[0].in_flight), (0, 0));
    exchange.closed().await;
}

#[tokio::test]
async fn a_response_that_was_not_read_to_its_end_is_not_pooled() {
    let fake = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.json(&"x".repeat(4 << 20)).await;
        Some(exchange)
    })
    .await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    text(bench.send(chat("m")).await).await;
    let before = fake.accepted();
    text(bench.send(chat("m")).await).await;
    assert_eq!(fake.accepted(), before, "a finished exchange keeps its connection");
    let mut response = bench.send(chat("m")).await;
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    eventually("closed", || fake.shared.open.load(Ordering::SeqCst) == 0).await;
}

/// A gateway as the daemon has it: hyper in front of the broker.
async fn gateway(broker: &Broker) -> (std::net::SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let broker = broker.clone();
    let tracker = TaskTracker::new();
    let serving = tracker.clone().spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let broker = broker.clone();
            tracker.spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let broker = broker.clone();
                        async move {
                            Ok::<_, std::convert::Infallible>(broker.handle(Ingress::Local, request).await)
                        }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(TokioIo::new(stream), service).await.ok();
                });
        }
    });
    (addr, AbortOnDropHandle::new(serving))
}

#[tokio::test]
async fn through_a_real_server_at_each_phase() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let (addr, _serving) = gateway(&bench.broker).await;
    let head =
        |length: usize| format!("POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    for round in 0..60 {
        let mut caller = TcpStream::connect(addr).await.unwrap();
        let body = r#"{"model":"m"}"#;
        let uploading = round % 3 == 0;
        let length = if uploading { 900_000 } else { body.len() };
        let begun = if uploading { r#"{"model":"m","prompt":""# } else { body };
        caller.write_all(format!("{}{begun}", head(length)).as_bytes()).await.unwrap();
        let mut exchange = arrival(&mut rx).await;
        if round % 3 == 2 {
            exchange.body().await;
            exchange.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
            let mut seen = Vec::new();
            while !seen.ends_with(b"one\r\n") {
                assert_ne!(caller.read_buf(&mut seen).await.unwrap(), 0);
            }
        }
        if round % 2 == 0 {
            socket2::SockRef::from(&caller).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        drop(caller);
        exchange.closed().await;
    }
    eventually("counted out", || bench.broker.in_flight() == 0).await;
}

#[tokio::test]
async fn a_failed_upload_is_the_callers_failure() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let frames =
        vec![Ok(Frame::data(Bytes::from_static(br#"{"model":"m","prompt":""#))), Err(BoxError::from("gone"))];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let response = bench.broker.handle(Ingress::Local, Request::post("/api/chat").body(body).unwrap()).await;
    assert_eq!(response.status(), http::StatusCode::BAD_REQUEST);
    assert!(rx.try_recv().is_err(), "nothing was sent");
}
