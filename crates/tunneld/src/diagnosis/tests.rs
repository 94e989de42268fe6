//! The way to a scripted relay on loopback.

use std::io::Write as _;
use std::net::SocketAddr;

use rustls::pki_types::PrivateKeyDer;
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tunnel_api::warning::{RELAY_TLS, RELAY_UNREACHABLE};
use tunnel_transport::{Proxy, RelayUrl};

use super::steps::{Step, Walk, walk};
use super::*;
use crate::config::Proxies;

const RELAY: &str =
    r#"{"status":"ok","service":"tunnel-relay","version":"0.1.0","protocol":"tunnel.v1","token":"valid"}"#;

fn settings(relay: &str) -> Settings {
    Settings {
        enabled: true,
        relay: RelayUrl::parse(relay).unwrap(),
        device: "desk".parse().unwrap(),
        preferred: false,
        connect_timeout: Duration::from_secs(5),
        ca_file: None,
        proxy: None,
        proxies: Proxies::default(),
    }
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Answers one request with `body`, and returns what was asked.
async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), body: &str) -> String {
    let asked = head(stream).await;
    let date = "Thu, 01 Jan 2026 00:00:00 GMT";
    let length = body.len();
    let text = format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
    asked
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn relay_is_known_by_what_it_says_and_judges_the_token_that_it_is_shown() {
    let (listener, address) = listen().await;
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        answer(&mut stream, RELAY).await
    };
    let settings = settings(&format!("http://{address}/below"));
    let token = SecretString::from("canary-token");
    let (asked, walk) = tokio::join!(serving, walk(&settings, Some(&token)));
    assert!(asked.starts_with("GET /below/health HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("authorization: Bearer canary-token\r\n"), "{asked}");
    assert_eq!(walk.token_word(), Some("valid"));
    let Step::Done { found, .. } = &walk.http else { panic!("{walk:?}") };
    assert!(found.clock_off_s.is_some_and(|off| off > 300), "the scripted clock stands still: {walk:?}");
    assert!(matches!(walk.tls, Step::NotNeeded(_)), "{walk:?}");
    assert!(!format!("{walk:?}").contains("canary"));
}

#[tokio::test]
async fn what_answers_otherwise_is_no_relay() {
    for body in ["<html>", r#"{"protocol":"other.v1"}"#, "{}"] {
        let (listener, address) = listen().await;
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            answer(&mut stream, body).await
        };
        let settings = settings(&format!("http://{address}"));
        let (asked, walk) = tokio::join!(serving, walk(&settings, None));
        assert!(!asked.contains("authorization"), "{asked}");
        let Step::Done { found, .. } = &walk.http else { panic!("{walk:?}") };
        assert!(found.relay.is_none(), "{body}");
    }
}

fn why<T: std::fmt::Debug>(step: &Step<T>) -> &str {
    match step {
        Step::Failed { why, .. } => &why.code,
        other => panic!("it has not failed: {other:?}"),
    }
}

#[tokio::test]
async fn first_step_that_fails_is_the_last() {
    let (listener, address) = listen().await;
    drop(listener);
    let Walk { dns, tcp, tls, http } = walk(&settings(&format!("http://{address}")), None).await;
    assert!(matches!(dns, Step::Done { .. }));
    assert_eq!(why(&tcp), RELAY_UNREACHABLE);
    assert!(matches!(tls, Step::NotReached) && matches!(http, Step::NotReached));

    // Reserved by RFC 6761: nobody has such a name.
    let Walk { dns, tcp, .. } = walk(&settings("https://relay.invalid"), None).await;
    assert_eq!(why(&dns), RELAY_UNREACHABLE);
    assert!(matches!(tcp, Step::NotReached));
}

#[tokio::test]
async fn authorities_that_cannot_be_read_fail_the_step_that_needs_them() {
    let (_listener, address) = listen().await;
    let relay = format!("https://localhost:{}", address.port());
    let settings = Settings { ca_file: Some("/nowhere/ca.pem".into()), ..settings(&relay) };
    let Walk { tcp, tls, http, .. } = walk(&settings, None).await;
    assert!(matches!(tcp, Step::Done { .. }), "{tcp:?}");
    assert_eq!(why(&tls), RELAY_TLS);
    assert!(matches!(http, Step::NotReached), "{http:?}");
}

#[tokio::test]
async fn relay_that_accepts_and_says_nothing_is_given_up() {
    let (listener, address) = listen().await;
    let walk = walk(&settings(&format!("http://{address}")), None).await;
    assert_eq!(why(&walk.http), RELAY_UNREACHABLE, "{walk:?}");
    drop(listener);
}

#[tokio::test]
async fn certificate_is_read_where_it_is_trusted_and_the_step_fails_where_it_is_not() {
    for trusted in [true, false] {
        let [own, other] =
            [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let mut ca_file = tempfile::NamedTempFile::new().unwrap();
        let authority = if trusted { own.cert.pem() } else { other.cert.pem() };
        ca_file.write_all(authority.as_bytes()).unwrap();
        let (listener, address) = listen().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
            // Who does not trust it hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            answer(&mut stream, RELAY).await;
        });
        let settings = Settings {
            ca_file: Some(ca_file.path().to_owned()),
            ..settings(&format!("https://localhost:{}", address.port()))
        };
        let walk = walk(&settings, None).await;
        if trusted {
            let Step::Done { found: Some(certificate), .. } = &walk.tls else { panic!("{walk:?}") };
            assert_eq!(certificate.issuer.as_deref(), Some("rcgen self signed cert"));
            assert!(matches!(&walk.http, Step::Done { found, .. } if found.relay.is_some()), "{walk:?}");
        } else {
            assert_eq!(why(&walk.tls), RELAY_TLS, "{walk:?}");
            assert!(matches!(walk.http, Step::NotReached), "{walk:?}");
        }
    }
}

#[tokio::test]
async fn proxy_is_taken_where_the_tunnel_takes_it() {
    let (listener, address) = listen().await;
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        answer(&mut stream, RELAY).await;
        asked
    };
    let proxy = Proxy::parse(&format!("http://{address}")).unwrap();
    let settings = Settings { proxy: Some(proxy), ..settings("http://localhost:7") };
    let (asked, walk) = tokio::join!(serving, walk(&settings, None));
    assert!(asked.starts_with("CONNECT localhost:7 HTTP/1.1\r\n"), "{asked}");
    assert!(matches!(walk.dns, Step::NotNeeded(_)), "{walk:?}");
    assert_eq!(walk.token_word(), Some("valid"));
}
