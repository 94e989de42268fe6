use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::AsyncReadExt;
use tunnel_broker::{BoxError, Ingress};

use crate::support::*;

#[tokio::test]
async fn chunks_pass_as_they_come_and_trailers_with_them() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let task = spawn_send(&bench, Ingress::Tunnel, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    exchange.write("HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut response = task.await.unwrap();
    assert!(!response.headers().contains_key("transfer-encoding"));
    for n in 0..5 {
        let chunk = format!("{{\"n\":{n}}}\n");
        exchange.chunk(&chunk).await;
        // The next one is not sent before this one is here: nothing is held back.
        assert_eq!(next_text(response.body_mut()).await, chunk);
    }
    exchange.write("0\r\nx-sum: 7\r\n\r\n").await;
    let trailers = response.body_mut().frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-sum"], "7");
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn a_long_upload_is_streamed_and_exact() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let prefix = br#"{"prompt":"x","model":"a/m","data":""#;
    let block = Bytes::from(vec![b'y'; 64 << 10]);
    let n_blocks = 160;
    let total = prefix.len() + n_blocks * block.len() + 2;
    let mut frames = vec![Bytes::from_static(prefix)];
    frames.extend(std::iter::repeat_n(block, n_blocks));
    frames.push(Bytes::from_static(b"\"}"));
    let body = StreamBody::new(futures_util::stream::iter(
        frames.into_iter().map(|b| Ok::<_, BoxError>(Frame::data(b))),
    ));
    let request = Request::post("/api/generate").header("content-length", total).body(body).unwrap();
    let broker = bench.broker.clone();
    let task = tokio_util::task::TaskTracker::new()
        .spawn(async move { broker.handle(Ingress::Local, request).await });
    let mut exchange = arrival(&mut rx).await;
    // The pin is gone from the name, and the length follows.
    assert_eq!(exchange.header("content-length"), Some((total - 2).to_string().as_str()));
    let sent = exchange.body().await;
    assert!(sent.starts_with(br#"{"prompt":"x","model":"m","data":"yyy"#) && sent.ends_with(b"y\"}"));
    assert_eq!(sent.len(), total - 2);
    exchange.json("{}").await;
    assert_eq!(task.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn trailers_of_a_request_pass() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "9".parse().unwrap());
    let frames = vec![
        Ok::<_, BoxError>(Frame::data(Bytes::from_static(br#"{"model":"m"}"#))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let request = Request::post("/api/chat").header("trailer", "x-sum").body(body).unwrap();
    let broker = bench.broker.clone();
    let _task = tokio_util::task::AbortOnDropHandle::new(
        tokio_util::task::TaskTracker::new()
            .spawn(async move { broker.handle(Ingress::Local, request).await }),
    );
    let mut exchange = arrival(&mut rx).await;
    let body = exchange.body().await;
    assert_eq!(body, &b"D\r\n{\"model\":\"m\"}\r\n0\r\nx-sum: 9\r\n\r\n"[..]);
}

#[tokio::test]
async fn binary_bodies_are_exact() {
    let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let expected = sent.clone();
    let fake = Fake::start(&["m"], move |mut exchange| {
        let sent = sent.clone();
        async move {
            exchange.body().await;
            exchange.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", sent.len())).await;
            exchange.write(&sent).await;
            Some(exchange)
        }
    })
    .await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let response = bench.send(chat("m")).await;
    assert_eq!(response.headers()["content-length"], "300000");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), expected);
}

#[tokio::test]
async fn a_slow_reader_holds_the_backend_back_and_is_not_cut_off() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let mut config = settings(vec![ollama(&fake, "a")]);
    config.first_byte_timeout = Duration::from_millis(300);
    config.idle_timeout = Duration::from_millis(300);
    let bench = start(config);
    let task = spawn_send(&bench, Ingress::Tunnel, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    exchange.write("HTTP/1.1 200 OK\r\n\r\n").await;
    let mut response = task.await.unwrap();
    let written = {
        // As much as the sockets take, until nothing moves for a while.
        let block = vec![b'z'; 64 << 10];
        let mut written = 0;
        while let Ok(done) = tokio::time::timeout(
            Duration::from_millis(700),
            tokio::io::AsyncWriteExt::write(&mut exchange.stream, &block),
        )
        .await
        {
            written += done.unwrap();
            assert!(written < 64 << 20, "nobody holds the backend back");
        }
        written
    };
    drop(exchange);
    // Longer than the limit has passed without a read: it is the reader's time, not the backend's.
    let mut read = 0;
    while let Some(frame) = response.body_mut().frame().await {
        read += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(read, written);
}

#[tokio::test]
async fn a_redirect_is_passed_on_and_not_followed() {
    let fake = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.write("HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/x\r\ncontent-length: 0\r\n\r\n").await;
        Some(exchange)
    })
    .await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let response = bench.send(chat("m")).await;
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(response.headers()["location"], "http://127.0.0.1:1/x");
    assert_eq!(fake.requests(), 1);
}

#[tokio::test]
async fn a_slow_small_upload_is_begun_before_it_ends() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let (tx, rx_body) = tokio::sync::mpsc::channel::<Bytes>(4);
    let frames = futures_util::stream::unfold(rx_body, |mut rx| async {
        rx.recv().await.map(|data| (Ok::<_, BoxError>(Frame::data(data)), rx))
    });
    let request = Request::post("/api/chat").body(StreamBody::new(Box::pin(frames))).unwrap();
    let broker = bench.broker.clone();
    let task = tokio_util::task::TaskTracker::new()
        .spawn(async move { broker.handle(Ingress::Local, request).await });
    tx.send(Bytes::from_static(b"{\"mod")).await.unwrap();
    tx.send(Bytes::from_static(b"el\":\"m\",")).await.unwrap();
    let mut exchange = arrival(&mut rx).await;
    tx.send(Bytes::from_static(b"\"x\":1}")).await.unwrap();
    drop(tx);
    let mut wire = Vec::from(&exchange.buffer[..]);
    while !wire.ends_with(b"0\r\n\r\n") {
        exchange.stream.read_buf(&mut wire).await.unwrap();
    }
    assert!(String::from_utf8(wire).unwrap().contains("\"x\":1}"));
    exchange.json("{}").await;
    assert_eq!(task.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stream_that_ends_with_its_connection_must_say_that_it_is_complete() {
    let line = r#"{"model":"m","message":{"content":"x"},"done":false}"#;
    for (end, is_cut) in [("", true), (r#"{"model":"m","done":true,"eval_count":1}"#, false)] {
        let fake = Fake::start(&["m"], move |mut exchange| async move {
            exchange.body().await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";
            exchange.write(format!("{head}{line}\n{end}")).await;
            None
        })
        .await;
        let bench = start(settings(vec![ollama(&fake, "a")]));
        let (text, broke) = to_the_end(bench.send(chat("m")).await.into_body()).await;
        assert_eq!(broke, is_cut, "{text}");
        assert_eq!(text.contains("error"), is_cut, "{text}");
    }
}
