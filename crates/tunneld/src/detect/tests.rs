//! Detection against scripted servers on loopback.

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::Empty;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tunnel_api::detect::Product;

use super::site::MAX_ANSWER_BYTES;
use super::*;
use crate::exchange::exchange;

/// Runs a server on `listener` for as long as the set is there.
fn serve(tasks: &mut JoinSet<()>, listener: TcpListener, router: Router) {
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
}

async fn port(ip: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Returns one port of both loopback addresses. None on a machine without IPv6, which has nothing to tell apart.
async fn one_port_of_both() -> Option<(TcpListener, TcpListener, u16)> {
    if TcpListener::bind("[::1]:0").await.is_err() {
        let demanded = std::env::var_os("E2E_REQUIRE_REAL").is_some_and(|value| value == "1");
        assert!(!demanded, "this machine has no IPv6");
        return None;
    }
    loop {
        let (v4, port) = port("127.0.0.1").await;
        // Another program may have it there.
        if let Ok(v6) = TcpListener::bind(("::1", port)).await {
            return Some((v4, v6, port));
        }
    }
}

fn ollama() -> Router {
    Router::new()
        .route("/", get(|| async { "Ollama is running" }))
        .route("/api/version", get(|| async { r#"{"version":"0.12.0"}"# }))
        .route("/api/tags", get(|| async { r#"{"models":[{"name":"smollm2:135m"}]}"# }))
}

fn vllm() -> Router {
    let list = r#"{"object":"list","data":[{"id":"qwen","owned_by":"vllm"}]}"#;
    Router::new().route("/v1/models", get(move || async move { list }))
}

async fn products(ports: Vec<u16>, config: &Config) -> Vec<Product> {
    let detected = Detector::new(ports).detect(config).await;
    detected.servers.iter().map(|server| server.product).collect()
}

#[tokio::test]
async fn servers_are_found_in_the_order_of_the_ports_and_what_is_no_model_server_is_not() {
    let mut tasks = JoinSet::new();
    let (first, ollama_port) = port("127.0.0.1").await;
    let (second, web_port) = port("127.0.0.1").await;
    let (third, vllm_port) = port("127.0.0.1").await;
    serve(&mut tasks, first, ollama());
    serve(&mut tasks, second, Router::new().route("/", get(|| async { "hello" })));
    serve(&mut tasks, third, vllm());
    let detector = Detector::new([vllm_port, web_port, 1, ollama_port]);
    let detected = detector.detect(&Config::default()).await;
    let found: Vec<_> = detected.servers.iter().map(|server| (server.product, server.url.clone())).collect();
    let url = |port| format!("http://127.0.0.1:{port}");
    assert_eq!(found, [(Product::Vllm, url(vllm_port)), (Product::Ollama, url(ollama_port))]);
    assert_eq!(detected.servers[1].models, ["smollm2:135m"]);
    assert_eq!(detected.servers[1].version.as_deref(), Some("0.12.0"));
}

#[tokio::test]
async fn server_on_both_addresses_is_one_and_two_different_ones_are_two() {
    let mut tasks = JoinSet::new();
    for (other, hosts) in [(ollama(), vec!["127.0.0.1"]), (vllm(), vec!["127.0.0.1", "[::1]"])] {
        let Some((v4, v6, port)) = one_port_of_both().await else { return };
        serve(&mut tasks, v4, ollama());
        serve(&mut tasks, v6, other);
        let detected = Detector::new([port]).detect(&Config::default()).await;
        let urls: Vec<&str> = detected.servers.iter().map(|server| server.url.as_str()).collect();
        let expected: Vec<String> = hosts.iter().map(|host| format!("http://{host}:{port}")).collect();
        assert_eq!(urls, expected);
    }
}

#[tokio::test]
async fn own_doors_are_not_asked_and_another_daemons_gateway_is_not_taken_for_a_server() {
    let mut tasks = JoinSet::new();
    let (listener, own) = port("127.0.0.1").await;
    serve(&mut tasks, listener, ollama());
    let config = json!({ "gatewayPort": own });
    let config = Config::check(config.as_object().unwrap()).unwrap();
    assert_eq!(products(vec![own], &config).await, []);
    // A door that is closed is nobody's.
    let config = json!({ "gatewayPort": own, "enableGateway": false });
    let config = Config::check(config.as_object().unwrap()).unwrap();
    assert_eq!(products(vec![own], &config).await, [Product::Ollama]);

    // Answers as Ollama does, and serves only connections that it has.
    let broker = tunnel_broker::Broker::start(
        tunnel_broker::BrokerConfig::default(),
        &tokio_util::task::TaskTracker::new(),
        tokio_util::sync::CancellationToken::new(),
    );
    let gateway = Router::new().fallback(move |request: axum::extract::Request| {
        let broker = broker.clone();
        async move { broker.handle(tunnel_broker::Ingress::Local, request).await.map(axum::body::Body::new) }
    });
    let (listener, foreign) = port("127.0.0.1").await;
    serve(&mut tasks, listener, gateway);
    let version = exchange(
        TcpStream::connect(("127.0.0.1", foreign)).await.unwrap(),
        Request::get("/api/version").header(HOST, "localhost").body(Empty::<Bytes>::new()).unwrap(),
        MAX_ANSWER_BYTES,
    );
    assert!(version.await.unwrap().status().is_success(), "it is no gateway");
    assert_eq!(products(vec![foreign], &Config::default()).await, []);
}

#[tokio::test]
async fn server_that_accepts_and_says_nothing_costs_the_limit_and_hides_nobody() {
    let mut tasks = JoinSet::new();
    let (silent, silent_port) = port("127.0.0.1").await;
    let (listener, port) = port("127.0.0.1").await;
    serve(&mut tasks, listener, vllm());
    let begun = Instant::now();
    assert_eq!(products(vec![silent_port, port], &Config::default()).await, [Product::Vllm]);
    // The rest is for a machine that is busy with other things.
    let limit = CONNECT_LIMIT + ANSWER_LIMIT + Duration::from_secs(3);
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    drop(silent);
}

#[tokio::test]
async fn answer_without_an_end_is_not_read() {
    let mut tasks = JoinSet::new();
    let (listener, port) = port("127.0.0.1").await;
    let endless =
        futures_util::stream::repeat(Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b' '; 4096])));
    let answer = get(move || async move { axum::body::Body::from_stream(endless.clone()) });
    serve(&mut tasks, listener, Router::new().route("/v1/models", answer));
    assert_eq!(products(vec![port], &Config::default()).await, []);
}

#[tokio::test]
async fn one_address_is_looked_at_whatever_its_port_and_below_whatever_path() {
    let mut tasks = JoinSet::new();
    let (listener, port) = port("127.0.0.1").await;
    serve(&mut tasks, listener, Router::new().nest("/gpu", vllm()));
    let detector = Detector::new([]);
    let config = Config::default();
    for path in ["/gpu", "/gpu/", "/gpu/v1"] {
        let url: Url = format!("http://localhost:{port}{path}").parse().unwrap();
        let detected = detector.detect_at(url.clone(), &config).await;
        let found: Vec<_> =
            detected.servers.iter().map(|server| (server.product, server.url.as_str())).collect();
        assert_eq!(found, [(Product::Vllm, url.as_str().trim_end_matches('/'))]);
    }
    let elsewhere = format!("http://localhost:{port}/").parse().unwrap();
    assert_eq!(detector.detect_at(elsewhere, &config).await.servers, []);
    // Reserved by RFC 6761: nobody has such a name.
    let nobody = "https://server.invalid".parse().unwrap();
    assert_eq!(detector.detect_at(nobody, &config).await.servers, []);
}
