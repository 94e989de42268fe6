use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tunnel_broker::{BackendState, BoxError, BrokerConfig, Ingress, RemotePaths};

use crate::support::*;

#[tokio::test]
async fn the_model_decides_and_the_path_is_kept() {
    let (a, b) = (Fake::echo("a", &["small:1b"]).await, Fake::echo("b", &["large", "x/y"]).await);
    let bench = start(settings(vec![ollama(&a, "a"), openai(&b, "b")]));
    let response = bench.send(post("/v1/chat/completions?q=%2F&r", r#"{"x":[1],"model":"large"}"#)).await;
    assert_eq!(response.headers()["x-tunnel-connection"], "b");
    assert_eq!(response.headers()["x-tunnel-model"], "large");
    let echo: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(echo["by"], "b");
    assert_eq!(echo["target"], "/v1/chat/completions?q=%2F&r");
    assert_eq!(echo["body"], r#"{"x":[1],"model":"large"}"#);
    assert_eq!(bench.by(post("/v1/embeddings", r#"{"model":"small:1b"}"#)).await, "a");
    assert_eq!(bench.by(chat("small:1b")).await, "a");
}

/// What official clients send for a question about an image: the model comes after it.
fn question(model: &str) -> String {
    let image = "iVBORw0KGgo+".repeat((5 << 20) / 12);
    format!(r#"{{"messages":[{{"role":"user","content":"{image}"}}],"model":"{model}"}}"#)
}

/// Sends a long body as it comes from a socket, and returns the answer.
async fn in_pieces(bench: &Bench, body: &str) -> String {
    let pieces: Vec<_> = body.as_bytes().chunks(64 << 10).map(Bytes::copy_from_slice).collect();
    let pieces = pieces.into_iter().map(|piece| Ok::<_, BoxError>(Frame::data(piece)));
    let request = Request::post("/v1/chat/completions").header("content-length", body.len());
    let request = request.body(StreamBody::new(futures_util::stream::iter(pieces))).unwrap();
    text(bench.broker.handle(Ingress::Local, request).await).await
}

#[tokio::test]
async fn a_model_that_comes_after_an_image_decides() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["late"]).await);
    let aliases = [("fast".to_owned(), "late".to_owned())].into_iter().collect();
    let bench = start(BrokerConfig { aliases, ..settings(vec![ollama(&a, "a"), ollama(&b, "b")]) });
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    for (name, model) in [("late", "late"), ("b/late", "late"), ("fast", "late")] {
        let body = question(name);
        let echo: serde_json::Value = serde_json::from_str(&in_pieces(&bench, &body).await).unwrap();
        assert_eq!(echo["by"], "b", "{name}");
        assert!(echo["body"] == question(model), "{name} is not passed on byte for byte");
    }
    assert!(in_pieces(&bench, &question("nope")).await.contains("model 'nope' not found"));
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_name_without_a_tag_means_latest() {
    let a = Fake::echo("a", &["llama3:latest"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    let response = bench.send(chat("llama3")).await;
    assert_eq!(response.headers()["x-tunnel-model"], "llama3:latest");
    // The name is sent as it came.
    assert!(text(response).await.contains(r#"\"model\":\"llama3\""#));
}

#[tokio::test]
async fn a_header_or_a_name_pins() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m", "ns/n"]).await);
    let mut first = ollama(&b, "b");
    first.priority = 5;
    let bench = start(settings(vec![ollama(&a, "a"), first]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    assert_eq!(bench.by(chat("m")).await, "a");
    let mut pinned = chat("m");
    pinned.headers_mut().insert("x-tunnel-connection", "b".parse().unwrap());
    assert_eq!(bench.by(pinned).await, "b");

    let mut named = post("/api/chat", r#"{"stream":false, "model" : "b\/m" ,"é":1}"#);
    named.headers_mut().insert("content-length", 42.into());
    let echo = bench.json(named).await;
    assert_eq!(
        (&echo["by"], &echo["body"]),
        (&"b".into(), &r#"{"stream":false, "model" : "m" ,"é":1}"#.into())
    );
    // A name with a slash that is known as a whole is no pin.
    assert_eq!(bench.json(chat("ns/n")).await["body"], r#"{"model":"ns/n"}"#);
    assert_eq!(bench.json(chat("b/ns/n")).await["body"], r#"{"model":"ns/n"}"#);

    let mut nobody = chat("m");
    nobody.headers_mut().insert("x-tunnel-connection", "c".parse().unwrap());
    let (status, text) = bench.text(nobody).await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::NOT_FOUND, r#"{"error":"no connection with the id 'c'"}"#)
    );
}

#[tokio::test]
async fn an_unknown_model_is_told_as_ollama_tells_it() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    let response = bench.send(chat("nope")).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
    assert_eq!(response.headers()["content-length"], "34");
    assert!(response.headers().contains_key("x-request-id"));
    assert_eq!(text(response).await, r#"{"error":"model 'nope' not found"}"#);

    let response = bench.send(post("/v1/chat/completions", r#"{"model":"nope"}"#)).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.headers()["content-type"], "application/json");
    let recorded = "{\"error\":{\"message\":\"model 'nope' not found\",\"type\":\"api_error\",\"param\":null,\"code\":null}}\n";
    assert_eq!(text(response).await, recorded);
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_model_that_was_just_pulled_is_found() {
    let a = Fake::echo("a", &["old"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    assert_eq!(bench.by(chat("old")).await, "a");
    a.set_models(&["old", "new"]);
    assert_eq!(bench.by(chat("new")).await, "a");
}

#[tokio::test]
async fn many_requests_for_unknown_models_cause_few_probes() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    bench.state("a", BackendState::Connected).await;
    let requests = (0..50).map(|n| bench.send(chat(&format!("nope{n}"))));
    for response in futures_util::future::join_all(requests).await {
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
    let probes = a.shared.probes.load(std::sync::atomic::Ordering::SeqCst);
    assert!(probes <= 4 * 3, "{probes} questions");
}

#[tokio::test]
async fn requests_without_a_model_go_to_the_first_backend() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m"]).await);
    let bench = start(settings(vec![openai(&a, "a"), ollama(&b, "b")]));
    for body in ["{", "", r#"{"messages":[]}"#, r#"{"model":5}"#, r#"{"model":""}"#] {
        assert_eq!(bench.json(post("/api/chat", body)).await["body"], body);
    }
    assert_eq!(bench.by(get("/api/nope")).await, "b");
    assert_eq!(bench.by(get("/api/chat")).await, "b");
    bench.state("a", BackendState::Connected).await;
    assert_eq!(bench.by(post("/v1/audio/speech", "--x")).await, "a");
}

#[tokio::test]
async fn management_goes_to_ollama_whatever_it_names() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m"]).await);
    let bench = start(settings(vec![openai(&a, "a"), ollama(&b, "b")]));
    for (method, path) in [
        (Method::POST, "/api/pull"),
        (Method::POST, "/api/create"),
        (Method::POST, "/api/copy"),
        (Method::POST, "/api/push"),
        (Method::DELETE, "/api/delete"),
        (Method::POST, "/api/blobs/sha256:00"),
    ] {
        let echo = bench.json(request(method, path, r#"{"model":"new"}"#)).await;
        assert_eq!((&echo["by"], &echo["body"]), (&"b".into(), &r#"{"model":"new"}"#.into()), "{path}");
    }
}

#[tokio::test]
async fn what_is_deleted_is_deleted_where_it_is() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m", "n"]).await);
    let bench = start(settings(vec![ollama(&a, "a"), ollama(&b, "b")]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let delete = |model: &str| request(Method::DELETE, "/api/delete", format!(r#"{{"model":"{model}"}}"#));
    assert_eq!(bench.by(delete("m")).await, "a");
    assert_eq!(bench.by(delete("n")).await, "b");
    assert_eq!(bench.by(post("/api/pull", r#"{"model":"n"}"#)).await, "a");
}

#[tokio::test]
async fn who_asks_from_elsewhere_for_what_is_in_the_cloud_is_told_of_the_model() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["big"]).await);
    let aliases = [("fast".to_owned(), "account/big".to_owned())].into_iter().collect();
    let account = b.config("account", tunnel_broker::BackendKind::Cloud);
    let bench = start(BrokerConfig { aliases, ..settings(vec![ollama(&a, "a"), account]) });
    bench.state("account", BackendState::Connected).await;
    for name in ["fast", "account/big", "nobody/big"] {
        let response = bench.send_from(Ingress::Tunnel, chat(name)).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let code = *response.extensions().get::<tunnel_broker::FailureCode>().unwrap();
        let told = text(response).await;
        assert_eq!(code.0, "model_not_found", "{name}");
        assert!(told.contains(&format!("model '{name}' not found")), "{told}");
    }
}

#[tokio::test]
async fn what_is_deleted_may_be_named_with_its_connection_and_not_by_an_alias() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m"]).await);
    let aliases = [("fast".to_owned(), "m".to_owned())].into_iter().collect();
    let bench = start(BrokerConfig { aliases, ..settings(vec![ollama(&a, "a"), ollama(&b, "b")]) });
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let delete = |model: &str| request(Method::DELETE, "/api/delete", format!(r#"{{"model":"{model}"}}"#));
    let echo = bench.json(delete("b/m")).await;
    assert_eq!((&echo["by"], &echo["body"]), (&"b".into(), &r#"{"model":"m"}"#.into()));
    let (status, text) = bench.text(delete("fast")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("'fast' is an alias") && text.contains("name the model itself, 'm'"), "{text}");
    assert_eq!((a.requests(), b.requests()), (0, 1));
}

#[tokio::test]
async fn what_asks_no_model_needs_no_slot_and_takes_none() {
    let (a, mut at_a) = Fake::manual(&["m"]).await;
    let mut one = ollama(&a, "a");
    one.max_concurrent = std::num::NonZeroU32::new(1);
    let bench = start(settings(vec![one]));
    bench.state("a", BackendState::Connected).await;
    let _pull = spawn_send(&bench, Ingress::Local, post("/api/pull", r#"{"model":"n"}"#));
    let _pulls = arrival(&mut at_a).await;
    let _chat = spawn_send(&bench, Ingress::Local, chat("m"));
    let chatting = arrival(&mut at_a).await;
    assert_eq!(chatting.target, "/api/chat");
    let mut held = Vec::new();
    let show = post("/api/show", r#"{"model":"m"}"#);
    for request in [show, get("/api/nope"), post("/tokenize", r#"{"model":"m"}"#)] {
        let target = request.uri().path().to_owned();
        let task = spawn_send(&bench, Ingress::Local, request);
        let exchange = arrival(&mut at_a).await;
        assert_eq!(exchange.target, target);
        held.push((task, exchange));
    }
    assert_eq!(bench.broker.snapshot()[0].in_flight, 1);
}

#[tokio::test]
async fn lists_are_current_after_management() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    assert_eq!(bench.json(get("/api/tags")).await["models"].as_array().unwrap().len(), 1);
    a.set_models(&["m", "n"]);
    bench.json(post("/api/pull", r#"{"model":"n"}"#)).await;
    let snapshot = || bench.broker.snapshot().remove(0).models.len() == 2;
    eventually("probed after the pull", snapshot).await;
}

#[tokio::test]
async fn a_caller_of_the_wrong_api_is_told_which_to_use() {
    let a = Fake::echo("a", &["gpt"]).await;
    let bench = start(settings(vec![openai(&a, "vllm")]));
    let (status, text) = bench.text(chat("gpt")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        text.contains("model 'gpt' is on connection 'vllm'") && text.contains("/v1/chat/completions"),
        "{text}"
    );
    assert_eq!(bench.text(get("/api/nope")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn equals_share_the_load() {
    let ((a, _at_a), (b, _at_b)) = (Fake::manual(&["m"]).await, Fake::manual(&["m"]).await);
    let bench = start(settings(vec![ollama(&a, "a"), ollama(&b, "b")]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let mut held = Vec::new();
    for n in 0..20 {
        held.push(spawn_send(&bench, Ingress::Local, chat("m")));
        eventually("arrived", || a.requests() + b.requests() == n + 1).await;
    }
    assert_eq!((a.requests(), b.requests()), (10, 10));
}

#[tokio::test]
async fn a_weight_is_a_share() {
    let ((a, mut at_a), (b, mut at_b)) = (Fake::manual(&["m"]).await, Fake::manual(&["m"]).await);
    let bench = start(settings(vec![weight(ollama(&a, "a"), 3), ollama(&b, "b")]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let mut held = Vec::new();
    for n in 0..8 {
        held.push(spawn_send(&bench, Ingress::Local, chat("m")));
        eventually("arrived", || a.requests() + b.requests() == n + 1).await;
    }
    assert_eq!((a.requests(), b.requests()), (6, 2));
    let statuses = bench.broker.snapshot();
    assert_eq!((statuses[0].in_flight, statuses[1].in_flight, bench.broker.in_flight()), (6, 2, 8));
    drop(held);
    eventually("all given back", || bench.broker.in_flight() == 0).await;
    assert!(at_a.try_recv().is_ok() && at_b.try_recv().is_ok());
}

#[tokio::test]
async fn a_full_backend_is_passed_over_and_all_full_is_429() {
    let ((a, mut at_a), b) = (Fake::manual(&["m"]).await, Fake::echo("b", &["m"]).await);
    let mut one = ollama(&a, "a");
    one.max_concurrent = std::num::NonZeroU32::new(1);
    let mut second = ollama(&b, "b");
    second.priority = 1;
    let bench = start(settings(vec![one.clone(), second]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let held = spawn_send(&bench, Ingress::Local, chat("m"));
    let _first = arrival(&mut at_a).await;
    assert_eq!(bench.by(chat("m")).await, "b");
    let mut alone = settings(vec![one]);
    alone.queue.max_waiting = 0;
    bench.broker.reconfigure(alone);
    let response = bench.send(chat("m")).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().contains_key("retry-after"));
    drop(held);
}

#[tokio::test]
async fn other_paths_go_to_the_first_server_that_has_them() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m"]).await);
    let bench = start(settings(vec![openai(&a, "a"), openai(&b, "b")]));
    bench.state("a", BackendState::Connected).await;
    assert_eq!(bench.json(get("/slots?x")).await["by"], "a");
    let mut pinned = get("/slots?x");
    pinned.headers_mut().insert("x-tunnel-connection", "b".parse().unwrap());
    let echo = bench.json(pinned).await;
    assert_eq!((&echo["by"], &echo["target"]), (&"b".into(), &"/slots?x".into()));
    // Errors of our own are problems in RFC 9457's form there.
    let response = bench.send(request(Method::OPTIONS, "*", "")).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    // Absolute form: the host is not looked at.
    assert_eq!(bench.json(post("http://evil.example/v1/x?y", "{}")).await["target"], "/v1/x?y");
}

#[tokio::test]
async fn the_policy_holds_for_the_tunnel_only() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    let pull = || post("/api/pull", r#"{"model":"n"}"#);
    assert_eq!(bench.send(pull()).await.status(), StatusCode::OK);
    let refused = bench.send_from(Ingress::Tunnel, pull()).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(text(refused).await.contains("remotePaths"));
    let refused = bench.send_from(Ingress::Tunnel, get("/v1/files")).await;
    assert!(text(refused).await.contains(r#""code":"path_not_allowed""#));
    assert_eq!(bench.send_from(Ingress::Tunnel, chat("m")).await.status(), StatusCode::OK);
    let rules = RemotePaths::Rules(vec!["POST /api/pull".parse().unwrap()]);
    let mut config = settings(vec![ollama(&a, "a")]);
    config.remote_paths = rules;
    bench.broker.reconfigure(config);
    assert_eq!(bench.send_from(Ingress::Tunnel, pull()).await.status(), StatusCode::OK);
    assert_eq!(bench.send_from(Ingress::Tunnel, chat("m")).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn no_backend_is_told() {
    let bench = start(settings(Vec::new()));
    let response = bench.send(chat("m")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text(response).await, r#"{"error":"no model server is configured"}"#);
    assert_eq!(bench.json(get("/api/tags")).await, serde_json::json!({ "models": [] }));
}

#[tokio::test]
async fn a_path_that_one_server_lacks_is_tried_on_the_next() {
    let a = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.answer(404, "text/plain", "404 page not found").await;
        Some(exchange)
    })
    .await;
    let b = Fake::echo("b", &["m"]).await;
    let mut second = openai(&b, "b");
    second.priority = 1;
    let bench = start(settings(vec![ollama(&a, "a"), second.clone()]));
    bench.state("b", BackendState::Connected).await;
    assert_eq!(bench.by(get("/v1/files")).await, "b");
    bench.broker.reconfigure(settings(vec![ollama(&a, "a")]));
    let (status, text) = bench.text(get("/v1/files")).await;
    assert_eq!((status, text.as_str()), (StatusCode::NOT_FOUND, "404 page not found"));
}

#[tokio::test]
async fn a_conversation_stays_with_the_backend_that_served_it() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["m"]).await);
    let bench = start(settings(vec![ollama(&a, "a"), ollama(&b, "b")]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let session = |name: &str| {
        let mut request = chat("m");
        request.headers_mut().insert("x-session-id", name.parse().unwrap());
        request
    };
    // Without a header, by how it begins.
    let talk = |who: usize, n: usize| {
        let said = format!("{who}{}", "x".repeat(n));
        post("/v1/chat/completions", serde_json::json!({ "messages": [said], "model": "m" }).to_string())
    };
    for conversation in 0..8 {
        let (first, began) =
            (bench.by(session(&format!("s{conversation}"))).await, bench.by(talk(conversation, 400)).await);
        for turn in 1..4 {
            assert_eq!(bench.by(session(&format!("s{conversation}"))).await, first);
            assert_eq!(bench.by(talk(conversation, 400 + 200 * turn)).await, began);
        }
        let query = tunnel_broker::Query {
            path: "/api/chat".to_owned(),
            model: Some("m".to_owned()),
            session: Some(format!("s{conversation}")),
            ..Default::default()
        };
        let explained = bench.broker.explain(&query);
        assert_eq!(explained.connection, Some(first));
        assert_eq!(explained.candidates[0].code, "session");
        assert!(explained.candidates[0].latency.is_some(), "it has answered");
    }
    // What it knows is used only as long as it does not cost more than it saves.
    let ((c, _at_c), (d, _at_d)) = (Fake::manual(&["m"]).await, Fake::manual(&["m"]).await);
    bench.broker.reconfigure(settings(vec![ollama(&c, "c"), ollama(&d, "d")]));
    bench.state("c", BackendState::Connected).await;
    bench.state("d", BackendState::Connected).await;
    let mut held = Vec::new();
    for n in 0..10 {
        held.push(spawn_send(&bench, Ingress::Local, session("s0")));
        eventually("arrived", || c.requests() + d.requests() == n + 1).await;
    }
    assert_eq!((c.requests(), d.requests()), (5, 5));
}
