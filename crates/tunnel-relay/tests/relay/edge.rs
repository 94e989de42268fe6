//! The public address: TLS, HTTP/2, pages of other origins, proxies in front, callers that take their time.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_relay::{AddressLimits, EdgeSettings, Settings, TlsSettings};
use tunnel_transport::{Connector, ConnectorConfig};

use crate::harness::{Desk, PATIENCE, TestRelay, eventually, json_of, raw, read, read_and};

const GRACE: Duration = Duration::from_secs(5);

fn settings(edge: EdgeSettings) -> Settings {
    Settings { edge, ..Settings::default() }
}

async fn relay(edge: EdgeSettings) -> TestRelay {
    TestRelay::with(settings(edge), GRACE).await
}

/// Writes a certificate for `localhost` and its key, `chain.pem` and `key.pem`.
fn certify(dir: &Path) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = dir.join("key.pem");
    std::fs::write(dir.join("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    made
}

/// A relay with a certificate for `localhost`, and a client's settings that trust it.
async fn tls_relay(edge: EdgeSettings) -> (TestRelay, rustls::ClientConfig, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let made = certify(dir.path());
    let (certificate, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let relay = relay(EdgeSettings { tls: Some(TlsSettings::Files { certificate, key }), ..edge }).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (relay, client, dir)
}

async fn over_tls(
    addr: SocketAddr,
    config: &rustls::ClientConfig,
    alpn: &[u8],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut config = config.clone();
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(addr).await?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), tcp).await
}

/// A caller that speaks HTTP/2 on one connection.
#[derive(Clone)]
struct Http2 {
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    token: String,
}

impl Http2 {
    async fn over<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(socket: S, token: String) -> Self {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        driving.detach_all();
        Self { sender, token }
    }

    async fn get(&self, path: &str) -> hyper::Result<Response<Incoming>> {
        let request = Request::get(format!("http://localhost{path}"))
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::default())
            .unwrap();
        timeout(PATIENCE, self.sender.clone().send_request(request)).await.expect("an answer in time")
    }
}

async fn http2(relay: &TestRelay) -> Http2 {
    let tcp = TcpStream::connect(relay.addr).await.unwrap();
    Http2::over(tcp, relay.token("alice", "inference")).await
}

/// Sooner than it is looked at unasked.
#[tokio::test]
async fn tls_is_turned_on_by_a_change_of_the_file_and_never_off() {
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path());
    let file = dir.path().join("relay.toml");
    std::fs::write(&file, "").unwrap();
    let relay = TestRelay::following(file.clone()).await;
    assert_eq!(relay.relay().tls().source, "off");
    std::fs::write(&file, "[tls]\ncertificate = \"chain.pem\"\nkey = \"key.pem\"\n").unwrap();
    eventually("TLS is on", async || relay.relay().tls().source == "files").await;
    // Whatever went wrong with the file: tokens must not go over the public address in clear.
    for (n_refused, text) in [(1, ""), (2, "idle_timeout_s = 7\n")] {
        std::fs::write(&file, text).unwrap();
        let refused = "tunnel_relay_config_reloads_total{result=\"error\"}";
        eventually("the file is refused", async || relay.metric(refused).await == n_refused).await;
        assert_eq!(relay.relay().tls().source, "files", "{text:?}");
    }
}

#[tokio::test]
async fn tls_carries_both_versions_and_tunnels() {
    let (relay, client, _dir) = tls_relay(EdgeSettings::default()).await;
    let connector = Connector::new(ConnectorConfig {
        relay: tunnel_transport::RelayUrl::parse(&format!("https://localhost:{}", relay.addr.port()))
            .unwrap(),
        device: "desk".parse().unwrap(),
        token: relay.token("alice", "tunnel").into(),
        agent: "test/1".into(),
        connect_timeout: PATIENCE,
        tls: Arc::new(client.clone()),
        proxy: None,
    });
    let _desk = Desk::new(&relay, connector.dial().await.unwrap()).await;

    let socket = over_tls(relay.addr, &client, b"h2").await.unwrap();
    let caller = Http2::over(socket, relay.token("alice", "inference")).await;
    let response = caller.get("/api/tags").await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
    assert_eq!(response.headers()["strict-transport-security"], "max-age=31536000");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert!(!response.headers().contains_key("server"));
    assert_eq!(json_of(response).await["headers"]["forwarded"], "for=127.0.0.1;proto=https");

    let socket = over_tls(relay.addr, &client, b"http/1.1").await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let request = Request::get("/health").header("host", "x").body(Full::<Bytes>::default());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.headers()["strict-transport-security"], "max-age=31536000");
    let health = json_of(response).await;
    assert_eq!(health["service"], "tunnel-relay");
    assert_eq!(health.get("version"), None, "strangers need not know");

    assert_eq!(relay.relay().tls().source, "files");
    assert!(relay.relay().tls().not_after.is_some());
}

#[tokio::test]
async fn who_stalls_the_handshake_is_cut_off_and_authorities_find_nothing() {
    let edge = EdgeSettings { tls_handshake_timeout: Duration::from_millis(300), ..EdgeSettings::default() };
    let (relay, client, _dir) = tls_relay(edge).await;
    let mut silent = TcpStream::connect(relay.addr).await.unwrap();
    let read = timeout(PATIENCE, silent.read(&mut [0; 64])).await.expect("the relay closes");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    eventually("it is counted", async || {
        relay.metric("tunnel_relay_connections_cut_off_total{reason=\"handshake_timeout\"}").await == 1
    })
    .await;
    // The certificate of every day is no proof for an authority.
    assert!(over_tls(relay.addr, &client, b"acme-tls/1").await.is_err());
    // Plain HTTP is answered with nothing that could be taken for HTTP.
    let answer = raw(relay.addr, "GET / HTTP/1.1\r\nhost: x\r\n\r\n", |_| {}).await;
    assert!(!answer.unwrap_or_default().contains("HTTP/"));
}

#[tokio::test]
async fn plain_http2_is_taken_by_its_preface_and_breaks_off_with_words_and_a_reset() {
    let relay = relay(EdgeSettings::default()).await;
    let desk = relay.desk("alice", "desk").await;
    let caller = http2(&relay).await;
    let response = caller.get("/api/tags").await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert!(!response.headers().contains_key("strict-transport-security"), "not without TLS");
    let echo = json_of(response).await;
    assert_eq!(echo["path"], "/api/tags");
    assert_eq!(echo["headers"]["forwarded"], "for=127.0.0.1;proto=http");

    let response = caller.get("/sse/broken").await.unwrap();
    let text = read_and(response, || desk.seen.release.notify_one()).await.unwrap_err();
    assert!(text.starts_with("data: one\n\n"), "{text}");
    assert!(text.contains("backend_unreachable"), "the last words: {text}");

    let response = caller.get("/plain/broken").await.unwrap();
    let text = read_and(response, || desk.seen.release.notify_one()).await.unwrap_err();
    assert_eq!(text, "some", "never a clean end");

    // The connection and its other streams are none the worse.
    let response = caller.get("/api/tags").await.unwrap();
    assert_eq!(response.status(), 200);
    drop(read(response).await);
}

#[tokio::test]
async fn a_stream_that_its_caller_resets_ends_at_the_desktop() {
    let relay = relay(EdgeSettings::default()).await;
    let desk = relay.desk("alice", "desk").await;
    let caller = http2(&relay).await;
    let mut response = caller.get("/sse/hang").await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    eventually("the desktop stops", async || {
        desk.seen.dropped.load(std::sync::atomic::Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test]
async fn http2_drains_with_its_streams() {
    let mut relay = relay(EdgeSettings::default()).await;
    let desk = relay.desk("alice", "desk").await;
    let caller = http2(&relay).await;
    let response = caller.get("/sse/held").await.unwrap();
    let text = read_and(response, || {
        relay.relay().shutdown();
        desk.seen.release.notify_one();
    })
    .await;
    assert_eq!(text.unwrap(), "data: one\n\ndata: last\n\n");
    relay.ended().await;
}

#[tokio::test]
async fn pages_of_allowed_origins_may_call_and_read_refusals_too() {
    let page = "https://chat.example.org";
    let edge = EdgeSettings { allowed_origins: vec![page.to_owned()], ..EdgeSettings::default() };
    let relay = relay(edge).await;
    let _desk = relay.desk("alice", "desk").await;
    let preflight = |origin: &str| {
        Request::options("/v1/chat/completions")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type,x-stainless-os")
    };
    let response = relay.send(preflight(page), Bytes::new()).await;
    assert_eq!(response.status(), 204, "without a token: a browser sends none");
    assert_eq!(response.headers()["access-control-allow-origin"], page);
    assert_eq!(
        response.headers()["access-control-allow-headers"],
        "authorization, content-type, x-stainless-os"
    );
    let response = relay.send(preflight("https://evil.example"), Bytes::new()).await;
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["tunnel-error"], "origin_not_allowed");
    assert!(!response.headers().contains_key("access-control-allow-origin"));

    let response = relay.call("alice", Request::get("/api/tags").header("origin", page)).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], page);
    assert!(response.headers()["access-control-expose-headers"].to_str().unwrap().contains("tunnel-error"));
    let response = relay.send(Request::get("/api/tags").header("origin", page), Bytes::new()).await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["access-control-allow-origin"], page);

    // Elsewhere: served, and hidden from the page by its browser.
    let request = Request::get("/api/tags").header("origin", "https://evil.example");
    let response = relay.call("alice", request).await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_a_proxy_as_many_as_it_needs() {
    let limits = AddressLimits { max_connections: 3, ..AddressLimits::default() };
    let capped = TestRelay::with(Settings { address: limits.clone(), ..Settings::default() }, GRACE).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(capped.addr).await.unwrap());
    }
    let mut surplus = TcpStream::connect(capped.addr).await.unwrap();
    let read = timeout(PATIENCE, surplus.read(&mut [0; 8])).await.expect("closed at once");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    drop(held);
    eventually("the ones that went have made room", async || {
        let mut stream = TcpStream::connect(capped.addr).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.ok();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.is_ok() && answer.contains("200 OK")
    })
    .await;

    let edge =
        EdgeSettings { trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()], ..EdgeSettings::default() };
    let proxied = TestRelay::with(Settings { address: limits, edge, ..Settings::default() }, GRACE).await;
    let _desk = proxied.desk("alice", "desk").await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(TcpStream::connect(proxied.addr).await.unwrap());
    }
    let request = Request::get("/api/tags").header("x-forwarded-for", "6.6.6.6, 192.0.2.7");
    let echo = json_of(proxied.call("alice", request.header("x-forwarded-proto", "https")).await).await;
    assert_eq!(echo["headers"]["forwarded"], "for=192.0.2.7;proto=https");
}

#[tokio::test]
async fn a_head_that_has_begun_is_waited_for_briefly_and_a_connection_at_rest_longer() {
    let patience = |keep_alive_timeout| EdgeSettings {
        header_read_timeout: Duration::from_millis(300),
        keep_alive_timeout,
        ..EdgeSettings::default()
    };
    let strict_with_heads = relay(patience(PATIENCE * 10)).await;
    let strict_with_both = relay(patience(Duration::from_millis(1_500))).await;
    let http1_first = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings_frame = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let hello = [&preface[..], &settings_frame].concat();
    // What is sent, and whether it is a head that has begun.
    let cases: [(&str, Vec<u8>, bool); 8] = [
        ("nothing", Vec::new(), true),
        ("half a first head", b"GET / HTTP/1.1\r\nho".to_vec(), true),
        ("half a preface", preface[..10].to_vec(), true),
        ("two bytes of it", preface[..2].to_vec(), true),
        ("half a second head", [&http1_first[..], b"GET /x"].concat(), true),
        ("half a frame", [&hello[..], &[0, 0, 9, 1]].concat(), true),
        ("one request", http1_first.to_vec(), false),
        ("a preface", hello, false),
    ];
    let mut waiting = JoinSet::new();
    for (what, bytes, begun) in cases {
        let addr = if begun { strict_with_heads.addr } else { strict_with_both.addr };
        waiting.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let before = Instant::now();
            // A second head in the same packet is read with the first one.
            let (first, rest) = bytes.split_at(bytes.len().min(http1_first.len()));
            stream.write_all(first).await.unwrap();
            if !rest.is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                stream.write_all(rest).await.unwrap();
            }
            let mut answer = Vec::new();
            drop(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the relay closes"));
            (what, begun, before.elapsed())
        });
    }
    while let Some(ended) = waiting.join_next().await {
        let (what, begun, after) = ended.unwrap();
        // How soon is a matter of load; that a rest may be longer than a head is not.
        assert!(begun || after >= Duration::from_millis(1_450), "{what}: {after:?}");
        assert!(after >= Duration::from_millis(250), "{what}: {after:?}");
    }
}
