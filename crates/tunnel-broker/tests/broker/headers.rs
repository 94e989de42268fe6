use http::Method;
use tunnel_broker::Ingress;

use crate::support::*;

#[tokio::test]
async fn requests_and_responses_are_cleaned_and_signed() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let mut sent = chat("m");
    for (name, value) in [
        ("host", "evil.example"),
        ("origin", "https://evil.example"),
        ("referer", "https://evil.example"),
        ("cookie", "a=1"),
        ("authorization", "Bearer secret"),
        ("proxy-authorization", "Basic secret"),
        ("x-api-key", "secret"),
        ("access-control-request-method", "POST"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("tunnel-caller", "sub"),
        ("x-tunnel-model", "x"),
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("x-request-id", "req-1"),
        ("user-agent", "ollama-python/1"),
        ("accept-encoding", "gzip"),
    ] {
        sent.headers_mut().insert(name, value.parse().unwrap());
    }
    let task = spawn_send(&bench, Ingress::Tunnel, sent);
    let mut exchange = arrival(&mut rx).await;
    let mut names: Vec<&str> = exchange.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let expected =
        ["accept-encoding", "connection", "content-length", "host", "te", "user-agent", "x-request-id"];
    assert_eq!(names, expected);
    assert_eq!(exchange.header("host"), Some(fake.addr.to_string().as_str()));
    assert_eq!(exchange.header("connection"), Some("te"));
    assert_eq!(exchange.header("x-request-id"), Some("req-1"));
    let cors =
        "access-control-allow-origin: *\r\nset-cookie: a=1\r\nx-request-id: theirs\r\nx-tunnel-connection: z";
    let hop = "connection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nx-own: kept";
    exchange.write(format!("HTTP/1.1 200 OK\r\n{cors}\r\n{hop}\r\ncontent-length: 0\r\n\r\n")).await;
    let response = task.await.unwrap();
    let mut headers: Vec<(&str, &str)> =
        response.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    headers.sort_unstable();
    let expected = [
        ("content-length", "0"),
        ("x-own", "kept"),
        ("x-request-id", "req-1"),
        ("x-tunnel-connection", "a"),
        ("x-tunnel-model", "m"),
    ];
    assert_eq!(headers, expected);
}

#[tokio::test]
async fn an_id_is_made_where_none_came() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    for request in [chat("m"), chat("nope"), get("/"), get("/api/tags")] {
        assert_eq!(bench.send(request).await.headers()["x-request-id"].len(), 32);
    }
}

#[tokio::test]
async fn a_head_request_has_no_body_and_its_connection_is_kept() {
    let fake = Fake::start(&["m"], |mut exchange| async move {
        exchange.write("HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n").await;
        Some(exchange)
    })
    .await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    for _ in 0..3 {
        let response = bench.send(request(Method::HEAD, "/api/blobs/sha256:00", "")).await;
        assert_eq!(response.headers()["content-length"], "12345");
        assert_eq!(text(response).await, "");
    }
    assert_eq!(fake.accepted(), 1, "probes and requests share one connection");
}
