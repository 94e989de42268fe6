//! Aliases, and models in and out of memory.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tunnel_broker::{
    BackendConfig, BackendKind, BackendState, BrokerConfig, CallerScope, KeepAlive, LoadOrder, MoveError,
    RemotePaths, WarmState,
};

use crate::support::*;

fn with_aliases(config: BrokerConfig, aliases: &[(&str, &str)]) -> BrokerConfig {
    let aliases = aliases.iter().map(|(name, target)| ((*name).to_owned(), (*target).to_owned())).collect();
    BrokerConfig { aliases, ..config }
}

fn order(model: &str) -> LoadOrder {
    LoadOrder { model: model.to_owned(), connection: None, keep_alive: None }
}

#[tokio::test]
async fn an_alias_reaches_its_model_and_the_server_gets_its_own_name() {
    let (a, b) = (Fake::echo("a", &["qwen3:8b"]).await, Fake::echo("b", &["qwen3:8b", "org/big"]).await);
    let config = settings(vec![ollama(&a, "a"), ollama(&b, "b")]);
    let bench =
        start(with_aliases(config, &[("gpt-4o", "qwen3:8b"), ("fast", "b/qwen3:8b"), ("big", "org/big")]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    for path in ["/api/chat", "/v1/chat/completions", "/api/show", "/api/embed", "/v1/embeddings"] {
        for name in ["fast", "FAST:latest"] {
            let body = format!(r#"{{"model": "{name}", "messages": []}}"#);
            let response = bench.send(post(path, body)).await;
            assert_eq!(response.headers()["x-tunnel-connection"], "b", "{path}");
            assert_eq!(response.headers()["x-tunnel-model"], "qwen3:8b", "{path}");
            let echo: Value = serde_json::from_str(&text(response).await).unwrap();
            assert_eq!(echo["body"], r#"{"model": "qwen3:8b", "messages": []}"#);
        }
    }
    let echo = bench.json(chat("big")).await;
    assert_eq!((&echo["by"], &echo["body"]), (&json!("b"), &json!(r#"{"model":"org/big"}"#)));
    let mut pinned = chat("gpt-4o");
    pinned.headers_mut().insert("x-tunnel-connection", "a".parse().unwrap());
    assert_eq!(bench.by(pinned).await, "a");
    assert_eq!(bench.by(chat("b/gpt-4o")).await, "b");
}

#[tokio::test]
async fn a_pinned_alias_is_open_to_a_key_by_the_aliass_own_name_alone() {
    let a = Fake::echo("a", &["qwen3:8b"]).await;
    let bench = start(with_aliases(settings(vec![ollama(&a, "llamacpp")]), &[("big", "qwen3:8b")]));
    bench.state("llamacpp", BackendState::Connected).await;
    for (models, name, status) in [
        ("llama*", "llamacpp/big", StatusCode::FORBIDDEN),
        ("llama*", "big", StatusCode::FORBIDDEN),
        ("big", "llamacpp/big", StatusCode::OK),
        ("qwen3:8b", "llamacpp/big", StatusCode::OK),
    ] {
        let mut request = chat(name);
        let scope = CallerScope { models: vec![models.to_owned()], paths: RemotePaths::Inference };
        request.extensions_mut().insert(Arc::new(scope));
        assert_eq!(bench.send(request).await.status(), status, "{models} {name}");
    }
}

#[tokio::test]
async fn a_router_whose_load_fails_is_not_asked_on_and_on() {
    let server = Fake::bare(|mut exchange| async move {
        exchange.body().await;
        match exchange.target.as_str() {
            "/v1/models" => {
                let status = json!({ "value": "unloaded", "failed": true, "exit_code": 1 });
                exchange.json(&json!({ "data": [{ "id": "m", "status": status }] }).to_string()).await;
            }
            "/models/load" => exchange.json(r#"{"success":true}"#).await,
            _ => exchange.answer(404, "text/plain", "").await,
        }
        Some(exchange)
    })
    .await;
    let bench = start(settings(vec![server.config("a", BackendKind::LlamaCpp)]));
    bench.state("a", BackendState::Connected).await;
    let begun = Instant::now();
    assert_eq!(bench.broker.load(&order("m")).await, Err(MoveError::Failed("a".to_owned())));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_alias_without_its_model_is_an_unknown_model_by_both_names() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(with_aliases(settings(vec![ollama(&a, "a")]), &[("gpt-4o", "gone:1")]));
    let (status, body) = bench.text(chat("gpt-4o")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(body, r#"{"error":"model 'gpt-4o', an alias of 'gone:1' not found"}"#);
}

#[tokio::test]
async fn aliases_are_listed_where_their_models_are() {
    let (a, b) = (Fake::echo("a", &["llama3:latest"]).await, Fake::echo("b", &["org/big"]).await);
    let config = settings(vec![ollama(&a, "a"), openai(&b, "b")]);
    let names = [("fast", "llama3"), ("gpt-4o", "org/big"), ("gone", "nobody"), ("Llama3", "org/big")];
    let bench = start(with_aliases(config, &names));
    bench.state("b", BackendState::Connected).await;
    let tags = bench.json(get("/api/tags")).await;
    let listed: Vec<&str> =
        tags["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(listed, ["llama3:latest", "fast"], "Ollama's API cannot reach the other server");
    assert_eq!((&tags["models"][1]["model"], &tags["models"][1]["size"]), (&json!("fast"), &json!(7)));
    let models = bench.json(get("/v1/models")).await;
    let listed: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(listed, ["llama3:latest", "org/big", "fast", "gpt-4o"], "a real name is not listed twice");
    assert_eq!(bench.json(get("/v1/models/gpt-4o")).await, models["data"][3]);
    assert_eq!(bench.text(get("/v1/models/gone")).await.0, StatusCode::NOT_FOUND);

    let offered = bench.broker.models();
    let fast = offered.iter().find(|model| model.name == "fast").unwrap();
    assert_eq!((fast.alias_of.as_deref(), &fast.connections), (Some("llama3:latest"), &vec!["a".to_owned()]));
    let aliases = bench.broker.aliases();
    let stands =
        |name: &str| aliases.iter().find(|a| a.name == name).map(|a| (a.available, a.shadowed)).unwrap();
    assert_eq!(
        [stands("fast"), stands("gone"), stands("Llama3")],
        [(true, false), (false, false), (false, true)]
    );
    b.fail_probes();
}

#[tokio::test]
async fn a_thousand_callers_of_a_list_share_its_probes() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = Arc::new(start(settings(vec![ollama(&a, "a")])));
    bench.state("a", BackendState::Connected).await;
    let before = a.shared.probes.load(std::sync::atomic::Ordering::SeqCst);
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let bench = Arc::clone(&bench);
        callers.spawn(async move {
            // A second round when the first one is stale.
            for _ in 0..2 {
                assert_eq!(bench.send(get("/api/tags")).await.status(), StatusCode::OK);
                tokio::time::sleep(Duration::from_millis(1200)).await;
            }
        });
    }
    callers.join_all().await;
    let seconds = begun.elapsed().as_secs_f64();
    let probes = (a.shared.probes.load(std::sync::atomic::Ordering::SeqCst) - before) as f64 / 3.0;
    assert!(probes >= 1.0 && probes <= seconds + 2.0, "{probes} probes in {seconds} s");
    assert_eq!(a.requests(), 0);
    println!("figure: 2000 GET /api/tags of 1000 callers in {seconds:.2} s: {probes} probes");
}

/// A scripted Ollama that loads what it is told; it has nothing in memory at first.
struct Ollama {
    asked: Arc<Mutex<Vec<Value>>>,
    fake: Fake,
}

impl Ollama {
    /// `answer`: status and body for a load.
    async fn start(models: &[&str], answer: fn(&Value) -> (u16, Value)) -> Self {
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let notes = Arc::clone(&asked);
        let fake = Fake::start(models, move |mut exchange| {
            let notes = Arc::clone(&notes);
            async move {
                let body: Value = serde_json::from_slice(&exchange.body().await).unwrap();
                let (status, text) = answer(&body);
                notes.lock().unwrap().push(json!({ "path": exchange.target, "body": body }));
                exchange.answer(status, "application/json", &text.to_string()).await;
                Some(exchange)
            }
        })
        .await;
        Self { asked, fake }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

fn loads(body: &Value) -> (u16, Value) {
    (200, json!({ "model": body["model"], "response": "", "done": true, "done_reason": "load" }))
}

#[tokio::test]
async fn a_model_is_loaded_and_unloaded_by_its_servers_own_name() {
    let server = Ollama::start(&["first:1", "llama3:latest"], loads).await;
    let config = with_aliases(settings(vec![ollama(&server.fake, "a")]), &[("fast", "llama3")]);
    let bench = start(config);
    bench.state("a", BackendState::Connected).await;
    let records = bench.broker.records(8).unwrap();
    let asked_for = LoadOrder { keep_alive: Some(KeepAlive::Text("30m".to_owned())), ..order("fast") };
    let moved = bench.broker.load(&asked_for).await.unwrap();
    assert_eq!(
        (moved.model.as_str(), moved.connection.as_str(), moved.changed),
        ("llama3:latest", "a", true)
    );
    // The scripted server says that the first one of its models is in memory.
    let moved = bench.broker.unload("first:1", None).await.unwrap();
    assert_eq!(moved.len(), 1);
    assert_eq!(bench.broker.unload("llama3", Some("a")).await.unwrap(), [], "it is not in memory");
    let body = |model: &str, keep_alive: Value| json!({ "path": "/api/generate", "body": { "model": model, "stream": false, "keep_alive": keep_alive } });
    assert_eq!(server.asked(), [body("llama3:latest", json!("30m")), body("first:1", json!(0))]);
    assert_eq!(records.len(), 0, "nobody has asked the model for anything");
    assert_eq!(bench.broker.metrics().totals.requests(), 0);
}

#[tokio::test]
async fn what_cannot_be_loaded_says_why() {
    fn refuses(_: &Value) -> (u16, Value) {
        (500, json!({ "error": "model requires more system memory (9.1 GiB) than is available (3.2 GiB)" }))
    }
    let (server, one) = (Ollama::start(&["m"], refuses).await, Fake::echo("b", &["only"]).await);
    let bench = start(settings(vec![ollama(&server.fake, "a"), openai(&one, "b")]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let told = |error: MoveError| format!("{}: {error}", error.code());
    assert_eq!(
        told(bench.broker.load(&order("m")).await.unwrap_err()),
        "backend_rejected: connection 'a' answered with status 500: model requires more system memory (9.1 GiB) than is available (3.2 GiB)"
    );
    assert!(told(bench.broker.load(&order("nope")).await.unwrap_err()).starts_with("model_not_found: "));
    let elsewhere = LoadOrder { connection: Some("c".to_owned()), ..order("m") };
    assert!(told(bench.broker.load(&elsewhere).await.unwrap_err()).starts_with("unknown_connection: "));
    let loaded = bench.broker.load(&order("only")).await.unwrap();
    assert!(!loaded.changed, "a server with one model has it in memory");
    let refused = told(bench.broker.unload("only", None).await.unwrap_err());
    assert!(refused.starts_with("not_supported: connection 'b' cannot unload: "), "{refused}");
}

#[tokio::test]
async fn a_load_is_listed_and_can_be_cancelled() {
    let (server, mut exchanges) = Fake::manual(&["m", "n"]).await;
    let bench = Arc::new(start(settings(vec![ollama(&server, "a")])));
    bench.state("a", BackendState::Connected).await;
    let loading = tokio_util::task::TaskTracker::new().spawn({
        let bench = Arc::clone(&bench);
        async move { bench.broker.load(&order("n")).await }
    });
    let mut exchange = exchanges.recv().await.unwrap();
    let running = bench.broker.requests();
    assert_eq!((running[0].path.as_str(), running[0].model.as_deref()), ("/api/models/load", Some("n")));
    assert_eq!(running[0].class, None);
    assert!(bench.broker.cancel(&running[0].id));
    assert_eq!(loading.await.unwrap(), Err(MoveError::Cancelled));
    exchange.closed().await;
    assert_eq!(bench.broker.in_flight(), 0);
}

#[tokio::test]
async fn a_model_is_kept_warm_and_loaded_again_when_it_has_left() {
    let server = Ollama::start(&["first", "kept"], loads).await;
    let config =
        BrokerConfig { keep_warm: vec!["a/kept".to_owned()], ..settings(vec![ollama(&server.fake, "a")]) };
    let bench = start(config.clone());
    eventually("loaded at start", || !server.asked().is_empty()).await;
    assert_eq!(server.asked()[0]["body"], json!({ "model": "kept", "stream": false, "keep_alive": 1800 }));
    server.fake.set_models(&["kept", "first"]);
    bench.broker.probe("a").await.unwrap();
    let stands =
        || bench.broker.kept_warm().borrow().first().map(|kept| (kept.state, kept.connection.clone()));
    eventually("shown as loaded", || stands() == Some((WarmState::Loaded, Some("a".to_owned())))).await;
    assert!(bench.broker.models().iter().any(|model| model.name == "kept" && model.kept_warm));
    let n_loads = server.asked().len();
    server.fake.set_models(&["first", "kept"]);
    bench.broker.probe("a").await.unwrap();
    eventually("loaded again", || server.asked().len() > n_loads).await;
    // Not kept any more.
    bench.broker.reconfigure(BrokerConfig { keep_warm: Vec::new(), ..config });
    eventually("forgotten", || bench.broker.kept_warm().borrow().is_empty()).await;
}

#[tokio::test]
async fn a_model_that_cannot_be_kept_warm_says_so_and_is_not_tried_all_the_time() {
    fn refuses(_: &Value) -> (u16, Value) {
        (500, json!({ "error": "no room" }))
    }
    let server = Ollama::start(&["first", "kept"], refuses).await;
    let config = settings(vec![ollama(&server.fake, "a")]);
    let bench = start(BrokerConfig { keep_warm: vec!["kept".to_owned(), "nobodys".to_owned()], ..config });
    let failed = || {
        let kept = bench.broker.kept_warm();
        let kept = kept.borrow();
        let why = |at: usize| kept.get(at).and_then(|kept| kept.error.clone()).unwrap_or_default();
        kept.len() == 2
            && kept[0].state == WarmState::Failed
            && why(0).ends_with("no room")
            && why(1).contains("nobodys")
    };
    eventually("told", failed).await;
    for _ in 0..5 {
        bench.broker.probe("a").await.unwrap();
    }
    assert_eq!(server.asked().len(), 1, "it waits before it tries again");
}

#[tokio::test]
async fn nothing_is_loaded_while_its_server_works() {
    let (server, mut exchanges) = Fake::manual(&["first", "kept"]).await;
    let config = settings(vec![ollama(&server, "a")]);
    let bench = Arc::new(start(config.clone()));
    bench.state("a", BackendState::Connected).await;
    let request = tokio_util::task::TaskTracker::new().spawn({
        let bench = Arc::clone(&bench);
        async move { bench.text(chat("first")).await }
    });
    let mut asked = exchanges.recv().await.unwrap();
    assert_eq!(asked.target, "/api/chat");
    bench.broker.reconfigure(BrokerConfig { keep_warm: vec!["kept".to_owned()], ..config });
    eventually("it waits", || {
        bench.broker.kept_warm().borrow().first().is_some_and(|kept| kept.state == WarmState::Waiting)
    })
    .await;
    assert!(exchanges.try_recv().is_err());
    asked.body().await;
    asked.json("{}").await;
    request.await.unwrap();
    // A probe is a reason to look again.
    bench.broker.probe_now();
    let load = tokio::time::timeout(SOON, exchanges.recv()).await.unwrap().unwrap();
    assert_eq!(load.target, "/api/generate");
}

#[tokio::test]
async fn what_is_in_memory_is_renewed_while_its_server_works_on_another_model() {
    let (server, mut exchanges) = Fake::manual(&["kept", "other"]).await;
    let config = settings(vec![ollama(&server, "a")]);
    let bench = Arc::new(start(config.clone()));
    bench.state("a", BackendState::Connected).await;
    let request = tokio_util::task::TaskTracker::new().spawn({
        let bench = Arc::clone(&bench);
        async move { bench.text(chat("other")).await }
    });
    let mut asked = exchanges.recv().await.unwrap();
    assert_eq!(asked.target, "/api/chat");
    // The scripted server has the first one in memory.
    bench.broker.reconfigure(BrokerConfig { keep_warm: vec!["kept".to_owned()], ..config });
    let renewal = tokio::time::timeout(SOON, exchanges.recv()).await.unwrap().unwrap();
    assert_eq!(renewal.target, "/api/generate");
    asked.body().await;
    asked.json("{}").await;
    request.await.unwrap();
}

#[tokio::test]
async fn a_model_is_loaded_where_requests_go_and_not_where_nothing_can_be_loaded() {
    let server = Ollama::start(&["first", "m"], loads).await;
    let account = Fake::echo("account", &["m"]).await;
    let local = BackendConfig { priority: 10, ..ollama(&server.fake, "workstation") };
    let config = settings(vec![account.config("account", BackendKind::Cloud), local]);
    let bench = start(BrokerConfig { keep_warm: vec!["m".to_owned()], ..config });
    bench.state("account", BackendState::Connected).await;
    bench.state("workstation", BackendState::Connected).await;
    assert_eq!(bench.broker.load(&order("m")).await.unwrap().connection, "workstation");
    let by = || bench.broker.kept_warm().borrow().first().and_then(|kept| kept.connection.clone());
    eventually("kept at home", || by().as_deref() == Some("workstation")).await;
}

#[tokio::test]
async fn a_load_on_a_server_that_is_removed_or_falls_down_ends() {
    let router = || async {
        let asked = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let begun = Arc::clone(&asked);
        let fake = Fake::bare(move |mut exchange| {
            let begun = Arc::clone(&begun);
            async move {
                exchange.body().await;
                if exchange.target == "/models/load" {
                    begun.store(true, std::sync::atomic::Ordering::SeqCst);
                }
                let state =
                    if begun.load(std::sync::atomic::Ordering::SeqCst) { "loading" } else { "unloaded" };
                exchange
                    .json(&json!({ "data": [{ "id": "m", "status": { "value": state } }] }).to_string())
                    .await;
                Some(exchange)
            }
        })
        .await;
        (fake, asked)
    };
    for removed in [true, false] {
        let (fake, asked) = router().await;
        let config = settings(vec![openai(&fake, "a")]);
        let bench = Arc::new(start(config.clone()));
        bench.state("a", BackendState::Connected).await;
        let loading = tokio_util::task::TaskTracker::new().spawn({
            let bench = Arc::clone(&bench);
            async move { bench.broker.load(&order("m")).await }
        });
        eventually("asked", || asked.load(std::sync::atomic::Ordering::SeqCst)).await;
        if removed {
            bench.broker.reconfigure(BrokerConfig { backends: Vec::new(), ..config });
        } else {
            fake.stop().await;
        }
        let ended = tokio::time::timeout(2 * SOON, loading).await.expect("no longer than that").unwrap();
        let code = ended.unwrap_err().code();
        assert_eq!(code, if removed { "backend_lost" } else { "backend_down" });
    }
}

#[tokio::test]
async fn a_list_in_the_cloud_does_not_take_over_an_alias() {
    let (home, account) =
        (Fake::echo("home", &["llama3:latest"]).await, Fake::echo("account", &["gpt-4o"]).await);
    let config = settings(vec![ollama(&home, "home"), account.config("account", BackendKind::Cloud)]);
    let bench = start(with_aliases(config, &[("gpt-4o", "llama3")]));
    bench.state("home", BackendState::Connected).await;
    bench.state("account", BackendState::Connected).await;
    assert_eq!(bench.by(chat("gpt-4o")).await, "home");
    assert_eq!(bench.by(chat("account/gpt-4o")).await, "account");
    let ids = |models: &Value| -> Vec<String> {
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
    };
    let models = bench.json(get("/v1/models")).await;
    assert_eq!(ids(&models), ["llama3:latest", "gpt-4o"], "the name is listed as what it means");
    assert_eq!(bench.json(get("/v1/models/gpt-4o")).await, models["data"][1]);
    let offered = bench.broker.models();
    let alias = offered.iter().find(|model| model.name == "gpt-4o").unwrap();
    assert_eq!(alias.alias_of.as_deref(), Some("llama3:latest"));
    assert!(!bench.broker.aliases()[0].shadowed);
    let mut pinned = get("/v1/models");
    pinned.headers_mut().insert("x-tunnel-connection", "account".parse().unwrap());
    assert_eq!(ids(&bench.json(pinned).await), ["gpt-4o"]);
}

#[tokio::test]
async fn models_that_are_newly_declared_of_a_server_without_a_list_count_at_once() {
    let server = Fake::bare(|mut exchange| async move {
        exchange.answer(404, "text/plain", "no such path").await;
        Some(exchange)
    })
    .await;
    let config = BrokerConfig {
        probe_interval: Duration::from_secs(600),
        retry_delay: Duration::from_secs(600),
        ..settings(vec![openai(&server, "a")])
    };
    let bench = start(config.clone());
    bench.state("a", BackendState::Error).await;
    let declared = BackendConfig { models: vec!["m".to_owned()], ..openai(&server, "a") };
    bench.broker.reconfigure(BrokerConfig { backends: vec![declared], ..config });
    bench.state("a", BackendState::Connected).await;
}
