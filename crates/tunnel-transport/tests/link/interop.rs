//! Against another implementation of WebSocket: tungstenite at either end.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tunnel_transport::{AcceptorConfig, CloseCode, DialError, LinkState};

use crate::connector;
use crate::relay::Relay;

/// Dials as another implementation would.
async fn dial(relay: &Relay) -> tokio_tungstenite::WebSocketStream<tokio::net::TcpStream> {
    let mut request = format!("ws://{}/_tunnel/v1/connect", relay.address).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "tunnel.v1".parse().unwrap());
    request.headers_mut().insert("tunnel-device", "desk".parse().unwrap());
    let tcp = tokio::net::TcpStream::connect(relay.address).await.unwrap();
    let (socket, response) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
    assert_eq!(response.headers()["tunnel-received"], "0");
    assert_eq!(response.headers()["tunnel-session"].len(), 32);
    socket
}

#[tokio::test]
async fn another_implementation_reads_the_stream_and_is_answered() {
    let relay = Relay::start(AcceptorConfig::default()).await;
    let mut socket = dial(&relay).await;
    let mut stream = Vec::new();
    let mut pings = 0;
    while stream.len() < 24 || pings == 0 {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(message) => {
                assert_eq!(message[0], 0x00, "DATA");
                stream.extend_from_slice(&message[1..]);
            }
            Message::Ping(_) => pings += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(stream.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "the relay is HTTP/2's client");
    // Its answer to our ping, and ours to its: tungstenite sends the pong with the next write.
    socket.send(Message::Ping("hello".into())).await.unwrap();
    loop {
        if let Message::Pong(payload) = socket.next().await.unwrap().unwrap() {
            assert_eq!(payload, "hello");
            break;
        }
    }
    let session = relay.session().unwrap();
    tokio::time::timeout(Duration::from_secs(5), async {
        while session.rtt().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("tungstenite's pong was understood");
}

/// Returns type and flags of each HTTP/2 frame in a message; a flush ends with a whole one.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, flags, ..] = *bytes {
        frames.push((kind, flags));
        bytes = &bytes[9 + u32::from_be_bytes([0, a, b, c]) as usize..];
    }
    frames
}

#[tokio::test]
async fn a_small_request_is_one_message() {
    const HEADERS: u8 = 1;
    const END_HEADERS: u8 = 4;
    const DATA: u8 = 0;
    const END_STREAM: u8 = 1;
    let relay = Relay::start(AcceptorConfig::default()).await;
    let mut socket = dial(&relay).await;
    let session = relay.session().unwrap();
    let mut requests = tokio::task::JoinSet::new();
    requests.spawn(async move {
        let request =
            http::Request::post("http://desk/").body(Full::new(Bytes::from_static(b"prompt"))).unwrap();
        session.send(request).await.map(drop)
    });
    let with_head = loop {
        if let Message::Binary(message) = socket.next().await.unwrap().unwrap()
            && message[0] == 0x00
        {
            let bytes =
                message[1..].strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_or(&message[1..]);
            let frames = frames(bytes);
            if frames.iter().any(|(kind, _)| *kind == HEADERS) {
                break frames;
            }
        }
    };
    assert!(with_head.ends_with(&[(HEADERS, END_HEADERS), (DATA, END_STREAM)]), "{with_head:?}");
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_session_with_4400() {
    for broken in [
        Message::text("no text in a tunnel"),
        Message::binary(vec![0x77, 1]),
        Message::binary(Vec::new()),
        Message::binary([&[0x01][..], &u64::MAX.to_be_bytes()].concat()),
        Message::binary(vec![0; 70_000]),
    ] {
        let relay = Relay::start(AcceptorConfig::default()).await;
        let mut socket = dial(&relay).await;
        socket.send(broken.clone()).await.unwrap();
        let code = loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Binary(message) if message[0] == 0x03 => {
                    break u16::from_be_bytes([message[1], message[2]]);
                }
                _ => {}
            }
        };
        assert_eq!(code, 4400, "{broken:?}");
        assert_eq!(relay.session().unwrap().closed().await.code, CloseCode::Protocol);
    }
}

#[tokio::test]
async fn a_relay_made_with_tungstenite_is_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let relay = async {
        let (tcp, _) = listener.accept().await.unwrap();
        #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
        let answer = |request: &Request, mut response: Response| {
            assert_eq!(request.headers()["authorization"], "Bearer token");
            assert_eq!(request.headers()["tunnel-agent"], "test/1");
            for (name, value) in [
                ("sec-websocket-protocol", "tunnel.v1"),
                ("tunnel-session", "0123456789abcdef0123456789abcdef"),
                ("tunnel-received", "0"),
                ("tunnel-grace", "7"),
            ] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(tcp, answer).await.unwrap();
        // The session's end, in two fragments' worth of masking rules that tungstenite checks for us.
        socket
            .send(Message::binary([&[0x03][..], &4409u16.to_be_bytes(), b"elsewhere"].concat()))
            .await
            .unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    };
    let desktop = async {
        let desktop = connector(&url).dial().await.unwrap();
        assert_eq!(desktop.session.grace(), Duration::from_secs(7));
        let service = hyper::service::service_fn(|_| async {
            Ok(http::Response::new(http_body_util::Empty::<Bytes>::new()))
        });
        let closed = desktop.server.serve(service).await;
        assert_eq!((closed.code, closed.reason.as_str()), (CloseCode::Replaced, "elsewhere"));
        assert!(matches!(*desktop.session.link().borrow(), LinkState::Closed(_)));
    };
    tokio::join!(relay, desktop);
}

#[tokio::test]
async fn servers_that_are_no_relay_are_told_apart() {
    let answer = |text: &'static str| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = [0; 2048];
            tokio::io::AsyncReadExt::read(&mut tcp, &mut head).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut tcp, text.as_bytes()).await.unwrap();
        };
        let connector = connector(&url);
        let (error, ()) = tokio::join!(connector.dial(), server);
        error.unwrap_err()
    };
    assert!(matches!(answer("SSH-2.0-OpenSSH\r\n").await, DialError::NotARelay { .. }));
    assert!(matches!(
        answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await,
        DialError::NotARelay { .. }
    ));
    let expired = "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/problem+json\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
        content-length: 24\r\n\r\n{\"code\":\"token_expired\"}";
    match answer(expired).await {
        DialError::TokenExpired { clock_off_s: Some(off), .. } => assert!(off > 1_000_000),
        other => panic!("{other:?}"),
    }
    let busy = answer("HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n").await;
    assert!(matches!(busy, DialError::Busy { after, .. } if after == Duration::from_secs(7)));
}
