use http::{Method, StatusCode};
use serde_json::json;
use tunnel_broker::BackendState;

use crate::support::*;

#[tokio::test]
async fn lists_are_merged_over_backends() {
    let a = Fake::echo("a", &["small:1b", "both:latest"]).await;
    let b = Fake::echo("b", &["both:latest", "more:2b"]).await;
    let c = Fake::echo("c", &["org/big"]).await;
    let bench = start(settings(vec![ollama(&a, "a"), ollama(&b, "b"), openai(&c, "c")]));
    let names = |list: &serde_json::Value, all: &str, name: &str| -> Vec<String> {
        list[all].as_array().unwrap().iter().map(|m| m[name].as_str().unwrap().to_owned()).collect()
    };
    let tags = bench.json(get("/api/tags")).await;
    assert_eq!(names(&tags, "models", "name"), ["small:1b", "both:latest", "more:2b"]);
    // Entries are passed on as they are.
    assert_eq!(tags["models"][0]["details"]["format"], "gguf");
    assert_eq!(names(&bench.json(get("/api/ps")).await, "models", "name"), ["small:1b", "both:latest"]);

    let response = bench.send(get("/v1/models")).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let models: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(models["object"], "list");
    assert_eq!(names(&models, "data", "id"), ["small:1b", "both:latest", "more:2b", "org/big"]);
    let described = json!({"id":"small:1b","object":"model","created":1_795_255_008,"owned_by":"library"});
    assert_eq!(models["data"][0], described);
    assert_eq!(bench.json(get("/v1/models/small%3A1b")).await, described);
    assert_eq!(bench.json(get("/v1/models/both")).await["id"], "both:latest");
    assert_eq!(bench.json(get("/v1/models/org%2Fbig")).await["owned_by"], "me");
    assert_eq!(bench.json(get("/v1/models/c/org/big")).await["owned_by"], "me");
    assert_eq!(bench.text(get("/v1/models/nope")).await.0, StatusCode::NOT_FOUND);

    let mut pinned = get("/api/tags");
    pinned.headers_mut().insert("x-tunnel-connection", "b".parse().unwrap());
    assert_eq!(names(&bench.json(pinned).await, "models", "name"), ["both:latest", "more:2b"]);
    assert_eq!([a.requests(), b.requests(), c.requests()], [0, 0, 0]);
}

#[tokio::test]
async fn the_root_says_that_ollama_runs() {
    let bench = start(settings(Vec::new()));
    let response = bench.send(get("/")).await;
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(text(response).await, "Ollama is running");
    let head = bench.send(request(Method::HEAD, "/", "")).await;
    assert_eq!((head.status(), &head.headers()["content-length"]), (StatusCode::OK, &"17".parse().unwrap()));
    assert_eq!(text(head).await, "");
}

#[tokio::test]
async fn the_version_is_ollamas_or_else_ours() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m"]).await);
    let bench = start(settings(vec![openai(&a, "a"), ollama(&b, "b")]));
    let (_, text) = bench.text(get("/api/version")).await;
    assert_eq!(text, r#"{"version":"0.12.0"}"#);
    let mut config = settings(vec![openai(&a, "a")]);
    config.version = "9.9".to_owned();
    bench.broker.reconfigure(config);
    assert_eq!(bench.json(get("/api/version")).await["version"], "9.9");
}

#[tokio::test]
async fn only_configured_models_are_offered() {
    let (a, b) = (Fake::echo("a", &["one:latest", "two:1b"]).await, Fake::echo("b", &[]).await);
    let (mut first, mut second) = (ollama(&a, "a"), openai(&b, "b"));
    first.models = vec!["one".to_owned()];
    second.models = vec!["unlisted".to_owned()];
    let bench = start(settings(vec![first, second]));
    bench.state("b", BackendState::Connected).await;
    let tags = bench.json(get("/api/tags")).await;
    assert_eq!(
        (tags["models"].as_array().unwrap().len(), &tags["models"][0]["name"]),
        (1, &"one:latest".into())
    );
    assert_eq!(bench.by(chat("one")).await, "a");
    assert_eq!(bench.text(chat("two:1b")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(bench.by(post("/v1/completions", r#"{"model":"unlisted"}"#)).await, "b");
    assert_eq!(bench.json(get("/v1/models/unlisted")).await["owned_by"], "b");
}

#[tokio::test]
async fn a_list_shows_what_was_pulled_elsewhere() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    bench.json(get("/api/tags")).await;
    a.set_models(&["m", "n"]);
    let limit = tokio::time::Instant::now() + SOON;
    while bench.json(get("/api/tags")).await["models"].as_array().unwrap().len() != 2 {
        assert!(tokio::time::Instant::now() < limit);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn there_is_no_list_while_all_servers_are_down() {
    let a = Fake::echo("a", &["m"]).await;
    a.stop().await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    let response = bench.send(get("/api/tags")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let text = text(response).await;
    assert!(text.contains(&format!("connection refused at {}", a.addr)), "{text}");
}
