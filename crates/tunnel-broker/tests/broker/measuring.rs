//! What is recorded of each LLM request, and what is not.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tunnel_broker::{
    BackendState, BoxError, CallerLabel, EndpointClass, Finished, Ingress, Outcome, RequestState,
};
use tunnel_runtime::metrics::{Exposition, page};

use crate::support::*;

/// A broker whose records the test reads.
fn measured(config: tunnel_broker::BrokerConfig) -> (Bench, mpsc::Receiver<Finished>) {
    let bench = start(config);
    let records = bench.broker.records(64).unwrap();
    (bench, records)
}

async fn record(records: &mut mpsc::Receiver<Finished>) -> Finished {
    tokio::time::timeout(SOON, records.recv()).await.expect("no record soon").unwrap()
}

const NDJSON: &str = "application/x-ndjson";
const SSE: &str = "text/event-stream";
const JSON: &str = "application/json; charset=utf-8";

const OLLAMA_STREAM: &str = concat!(
    r#"{"model":"m","message":{"role":"assistant","content":"Hi"},"done":false}"#,
    "\n",
    r#"{"model":"m","message":{"role":"assistant","content":" you"},"done":false}"#,
    "\n",
    r#"{"model":"m","message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":13,"eval_count":5,"eval_duration":500000000}"#,
    "\n",
);
const OLLAMA_DOCUMENT: &str = r#"{"model":"m","response":"Hi","done":true,"prompt_eval_count":13,"eval_count":5,"eval_duration":500000000}"#;
const OPENAI_STREAM: &str = concat!(
    r#"data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}"#,
    "\n\n",
    r#"data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}"#,
    "\n\n",
    r#"data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":9,"total_tokens":29}}"#,
    "\n\ndata: [DONE]\n\n",
);
const OPENAI_DOCUMENT: &str =
    r#"{"choices":[{"message":{"content":"Hi"}}],"usage":{"prompt_tokens":20,"completion_tokens":9}}"#;
const TIMED_STREAM: &str = concat!(
    r#"data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"Hi"}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"timings":{"prompt_n":7,"predicted_n":4,"predicted_ms":250.0}}"#,
    "\n\ndata: [DONE]\n\n",
);
const SILENT_STREAM: &str = concat!(
    r#"data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}"#,
    "\n\ndata: [DONE]\n\n",
);
const EMBEDDING: &str = r#"{"data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#;

#[tokio::test]
async fn tokens_are_as_each_server_reports_them_streamed_or_not() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let (bench, mut records) = measured(settings(vec![ollama(&fake, "a")]));
    bench.state("a", BackendState::Connected).await;
    for (path, content_type, answer, prompt, completion, speed) in [
        ("/api/chat", NDJSON, OLLAMA_STREAM, Some(13), Some(5), Some(10.0)),
        ("/api/generate", JSON, OLLAMA_DOCUMENT, Some(13), Some(5), Some(10.0)),
        ("/v1/chat/completions", SSE, OPENAI_STREAM, Some(20), Some(9), None),
        ("/v1/completions", JSON, OPENAI_DOCUMENT, Some(20), Some(9), None),
        ("/v1/chat/completions", SSE, TIMED_STREAM, Some(7), Some(4), Some(16.0)),
        ("/v1/chat/completions", SSE, SILENT_STREAM, None, Some(1), None),
        ("/v1/embeddings", JSON, EMBEDDING, Some(3), None, None),
    ] {
        for piece in [1, 50, answer.len()] {
            let sending = spawn_send(&bench, Ingress::Local, post(path, r#"{"model":"m"}"#));
            let mut exchange = arrival(&mut rx).await;
            exchange.body().await;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
            );
            exchange.write(head).await;
            let response = sending.await.unwrap();
            let writing = async {
                for piece in answer.as_bytes().chunks(piece) {
                    exchange.chunk(std::str::from_utf8(piece).unwrap()).await;
                }
                exchange.write("0\r\n\r\n").await;
            };
            let (passed, ()) = tokio::join!(text(response), writing);
            assert_eq!(passed, answer, "the answer is not touched");
            let finished = record(&mut records).await;
            assert_eq!(
                (finished.prompt_tokens, finished.completion_tokens),
                (prompt, completion),
                "{path} {piece}"
            );
            if let Some(speed) = speed {
                assert_eq!(finished.tokens_per_s, Some(speed), "{path}");
            }
            assert_eq!(finished.tokens_per_s.is_some(), completion.is_some());
            assert_eq!(finished.time_to_first_token.is_some(), content_type != JSON, "{path}");
            assert_eq!(
                (finished.outcome, finished.error, finished.status),
                (Outcome::Ok, None, Some(StatusCode::OK))
            );
            assert_eq!((finished.connection.as_deref(), finished.model.as_deref()), (Some("a"), Some("m")));
            assert_eq!((finished.bytes_in, finished.bytes_out), (13, answer.len() as u64));
            assert!(finished.duration >= finished.time_to_first_token.unwrap_or_default());
        }
    }
}

#[tokio::test]
async fn what_asks_no_model_is_not_measured() {
    let fake = Fake::echo("a", &["m"]).await;
    let (bench, mut records) = measured(settings(vec![ollama(&fake, "a")]));
    bench.state("a", BackendState::Connected).await;
    for request in [
        get("/"),
        get("/api/tags"),
        get("/api/version"),
        get("/v1/models"),
        get("/v1/models/m"),
        post("/api/show", r#"{"model":"m"}"#),
        post("/api/pull", r#"{"model":"new"}"#),
        request(Method::DELETE, "/api/delete", r#"{"model":"m"}"#),
        get("/api/chat"),
    ] {
        text(bench.send(request).await).await;
    }
    bench.by(chat("m")).await;
    let finished = record(&mut records).await;
    assert_eq!((finished.class, finished.ingress), (EndpointClass::Chat, Ingress::Local));
    assert!(records.try_recv().is_err(), "one record of ten requests");
    let metrics = bench.broker.metrics();
    assert_eq!((metrics.totals.requests(), metrics.in_flight), (1, 0));
}

#[tokio::test]
async fn a_failover_is_one_request_and_a_failure_of_the_first_backend() {
    let a = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.reset();
        None
    })
    .await;
    let b = Fake::echo("b", &["m"]).await;
    let mut second = ollama(&b, "b");
    second.priority = 1;
    let (bench, mut records) = measured(settings(vec![ollama(&a, "a"), second]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    assert_eq!(bench.by(chat("m")).await, "b");
    let finished = record(&mut records).await;
    assert_eq!((finished.outcome, finished.connection.as_deref()), (Outcome::Ok, Some("b")));
    assert!(records.try_recv().is_err());
    let metrics = bench.broker.metrics();
    assert_eq!(metrics.totals.requests(), 1);
    let failures: Vec<_> =
        metrics.connections.iter().map(|c| (&*c.id, c.totals.requests(), c.consecutive_failures)).collect();
    assert_eq!(failures, [("a", 0, 1), ("b", 1, 0)]);
}

#[tokio::test]
async fn to_load_a_model_or_to_have_no_such_path_is_no_failure() {
    let a = Fake::start(&["m", "n"], |mut exchange| async move {
        let is_named = !exchange.body().await.is_empty();
        let (status, body) = if is_named { (503, LOADING) } else { (404, "{}") };
        exchange.answer(status, "application/json", body).await;
        Some(exchange)
    })
    .await;
    let b = Fake::echo("b", &["m"]).await;
    let mut second = openai(&b, "b");
    second.priority = 1;
    let (bench, _records) = measured(settings(vec![openai(&a, "a"), second]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    for request in [post("/v1/completions", r#"{"model":"m"}"#), post("/v1/embeddings", "")] {
        assert_eq!(bench.by(request).await, "b");
    }
    let failures: u32 = bench.broker.metrics().connections.iter().map(|c| c.consecutive_failures).sum();
    assert_eq!(failures, 0);
    assert_eq!(a.requests(), 2, "it was asked");
}

#[tokio::test]
async fn outcomes_tell_whose_fault_it_was() {
    let fake = Fake::start(&["m"], |mut exchange| async move {
        let body = exchange.body().await;
        let has = |word: &[u8]| body.windows(word.len()).any(|w| w == word);
        if has(b"reject") {
            exchange.answer(400, "application/json", r#"{"error":"no such option"}"#).await;
        } else if has(b"fail") {
            exchange.answer(500, "application/json", r#"{"error":"out of memory"}"#).await;
        } else if has(b"break") {
            exchange.write("HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n").await;
            exchange.chunk("{\"done\":false}\n").await;
            return None;
        } else {
            exchange.answer(200, NDJSON, "{\"error\":\"the runner has died\"}\n").await;
        }
        Some(exchange)
    })
    .await;
    let (bench, mut records) = measured(settings(vec![ollama(&fake, "a")]));
    bench.state("a", BackendState::Connected).await;
    for (word, outcome, error, status, failures) in [
        ("fail", Outcome::Failed, "backend_error", Some(500), 1),
        ("break", Outcome::Failed, "backend_lost", Some(200), 2),
        ("die", Outcome::Failed, "backend_error", Some(200), 3),
        ("reject", Outcome::Rejected, "backend_rejected", Some(400), 0),
    ] {
        let body = format!(r#"{{"model":"m","prompt":"{word}"}}"#);
        to_the_end(bench.send(post("/api/generate", body)).await.into_body()).await;
        let finished = record(&mut records).await;
        assert_eq!((finished.outcome, finished.error), (outcome, Some(error)), "{word}");
        assert_eq!(finished.status.map(|status| status.as_u16()), status);
        assert_eq!(bench.broker.metrics().connections[0].consecutive_failures, failures, "{word}");
    }
    let metrics = bench.broker.metrics();
    assert_eq!(metrics.last_failure.unwrap().code, "backend_error");
    assert_eq!((metrics.totals.of(Outcome::Failed), metrics.totals.error_rate()), (3, 0.75));
    // The connection's own figure, by which its quality is judged, says the same.
    assert!(bench.broker.snapshot()[0].error_rate > 0.5, "{:?}", bench.broker.snapshot());
}

#[tokio::test]
async fn a_refusal_shows_no_name_that_only_the_caller_knows() {
    let fake = Fake::echo("a", &["m"]).await;
    let (bench, mut records) = measured(settings(vec![ollama(&fake, "a")]));
    bench.state("a", BackendState::Connected).await;
    text(bench.send(chat("the-callers-secret")).await).await;
    let finished = record(&mut records).await;
    assert_eq!((finished.outcome, finished.error), (Outcome::Refused, Some("model_not_found")));
    assert_eq!((&finished.connection, &finished.model), (&None, &None));
    assert!(finished.time_to_first_token.is_none() && finished.status == Some(StatusCode::NOT_FOUND));
    let mut registry = Registry::with_prefix("tunneld");
    bench.broker.register(&mut registry);
    let page = page(&registry, Exposition::Text);
    let seen = format!("{finished:?} {:?} {page}", bench.broker.metrics());
    assert!(!seen.contains("secret"), "{seen}");
    let line = r#"tunneld_requests_total{ingress="local",backend="none",model="none",outcome="refused"} 1"#;
    assert!(page.contains(line), "{page}");
    // A model that is there, on a server that is not.
    fake.stop().await;
    bench.broker.probe("a").await.unwrap();
    eventually("down", || bench.broker.snapshot()[0].error.is_some()).await;
    text(bench.send(chat("m")).await).await;
    let finished = record(&mut records).await;
    assert_eq!(finished.model.as_deref(), Some("m"));
    assert_ne!(finished.outcome, Outcome::Ok);
}

#[tokio::test]
async fn a_caller_that_goes_away_is_recorded_at_each_phase() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let (bench, mut records) = measured(settings(vec![ollama(&fake, "a")]));
    bench.state("a", BackendState::Connected).await;

    // While it uploads.
    let (tx, rx_body) = mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(rx_body, |mut rx| async {
        rx.recv().await.map(|data| (Ok::<_, BoxError>(Frame::data(data)), rx))
    });
    let request = Request::post("/api/chat").body(StreamBody::new(Box::pin(frames))).unwrap();
    let broker = bench.broker.clone();
    let task = tokio_util::task::TaskTracker::new()
        .spawn(async move { broker.handle(Ingress::Tunnel, request).await });
    tx.send(Bytes::from_static(br#"{"model":"m","prompt":""#)).await.unwrap();
    let mut exchange = arrival(&mut rx).await;
    tx.send(Bytes::from_static(b"0123456789")).await.unwrap();
    eventually("counted", || bench.broker.requests()[0].bytes_in == 33).await;
    task.abort();
    exchange.closed().await;
    let finished = record(&mut records).await;
    assert_eq!((finished.outcome, finished.error), (Outcome::Cancelled, Some("caller_gone")));
    assert_eq!((finished.status, finished.bytes_in, finished.ingress), (None, 33, Ingress::Tunnel));
    assert_eq!(finished.connection.as_deref(), Some("a"));

    // While it waits for the headers.
    let sending = spawn_send(&bench, Ingress::Local, chat("m"));
    let mut exchange = arrival(&mut rx).await;
    exchange.body().await;
    drop(sending);
    exchange.closed().await;
    let finished = record(&mut records).await;
    assert_eq!((finished.outcome, finished.status, finished.bytes_out), (Outcome::Cancelled, None, 0));

    // In mid-stream, and once the last line is there but not the end of the response.
    for (n_lines, outcome) in [(1, Outcome::Cancelled), (3, Outcome::Ok)] {
        let sending = spawn_send(&bench, Ingress::Local, chat("m"));
        let mut exchange = arrival(&mut rx).await;
        exchange.body().await;
        exchange
            .write(
                "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .await;
        let mut response = sending.await.unwrap();
        for line in OLLAMA_STREAM.split_inclusive('\n').take(n_lines) {
            exchange.chunk(line).await;
            assert_eq!(next_text(response.body_mut()).await, line);
        }
        drop(response);
        exchange.closed().await;
        let finished = record(&mut records).await;
        assert_eq!((finished.outcome, finished.status), (outcome, Some(StatusCode::OK)));
        assert_eq!(finished.completion_tokens, Some(if n_lines == 1 { 1 } else { 5 }));
        assert!(finished.time_to_first_token.is_some() && finished.bytes_out > 0);
    }
    assert_eq!(bench.broker.in_flight(), 0);
}

#[tokio::test]
async fn a_request_is_listed_while_it_runs_and_its_bytes_are_counted() {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let mut config = settings(vec![ollama(&fake, "a")]);
    config.metrics_enabled = false;
    let (bench, mut records) = measured(config.clone());
    bench.state("a", BackendState::Connected).await;
    for enabled in [false, true] {
        config.metrics_enabled = enabled;
        bench.broker.reconfigure(config.clone());
        let mut request = post("/v1/chat/completions?key=secret", r#"{"model":"m"}"#);
        request.headers_mut().insert("x-request-id", "r-1".parse().unwrap());
        request.extensions_mut().insert(CallerLabel(Arc::from("laptop")));
        let sending = spawn_send(&bench, Ingress::Tunnel, request);
        let mut exchange = arrival(&mut rx).await;
        exchange.body().await;
        let [shown]: [_; 1] = bench.broker.requests().try_into().unwrap();
        assert_eq!((shown.id.as_str(), shown.state), ("r-1", RequestState::FirstByte));
        assert_eq!((shown.path.as_str(), shown.ingress), ("/v1/chat/completions", Ingress::Tunnel));
        assert_eq!((shown.connection.as_deref(), shown.model.as_deref()), (Some("a"), Some("m")));
        exchange
            .write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        let mut response = sending.await.unwrap();
        let (first, rest) = OPENAI_STREAM.split_at(OPENAI_STREAM.find("\n\n").unwrap() + 2);
        exchange.chunk(first).await;
        next_text(response.body_mut()).await;
        let shown = &bench.broker.requests()[0];
        assert_eq!((shown.state, shown.bytes_out), (RequestState::Streaming, first.len() as u64));
        assert_eq!(shown.tokens, u64::from(enabled));
        let metrics = bench.broker.metrics();
        assert_eq!(metrics.in_flight, usize::from(enabled));
        // What runs is counted already.
        assert_eq!(metrics.totals.bytes_out, if enabled { first.len() as u64 } else { 0 });
        exchange.chunk(rest).await;
        exchange.write("0\r\n\r\n").await;
        text(response).await;
        assert!(bench.broker.requests().is_empty());
        let metrics = bench.broker.metrics();
        assert_eq!(metrics.totals.requests(), u64::from(enabled));
        assert_eq!(metrics.latency.is_some(), enabled);
        if enabled {
            assert_eq!(metrics.totals.bytes_out, OPENAI_STREAM.len() as u64);
            assert!(metrics.rates.tokens_per_s > 0.0 && metrics.rates.requests_per_s > 0.0);
            assert_eq!(record(&mut records).await.caller, Some(CallerLabel(Arc::from("laptop"))));
        }
        assert!(records.try_recv().is_err());
    }
}

#[tokio::test]
async fn records_that_nobody_reads_are_dropped_and_counted() {
    let fake = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    let mut records = bench.broker.records(2).unwrap();
    assert!(bench.broker.records(2).is_none(), "they have one reader");
    for _ in 0..5 {
        bench.by(chat("m")).await;
    }
    assert_eq!(bench.broker.metrics().dropped_records, 3);
    record(&mut records).await;
    bench.by(chat("m")).await;
    assert_eq!(bench.broker.metrics().dropped_records, 3);
}

#[tokio::test]
async fn the_page_is_bounded_and_promtool_has_nothing_to_say() {
    let names: Vec<String> = (0..140).map(|n| format!("model\"{n}\\")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fake = Fake::start(&names, |mut exchange| async move {
        exchange.body().await;
        exchange.answer(200, NDJSON, OLLAMA_STREAM).await;
        Some(exchange)
    })
    .await;
    let bench = start(settings(vec![ollama(&fake, "a")]));
    bench.state("a", BackendState::Connected).await;
    for name in &names {
        text(bench.send_from(Ingress::Tunnel, chat(name)).await).await;
    }
    text(bench.send(chat("nope")).await).await;
    let mut registry = Registry::with_prefix("tunneld");
    bench.broker.register(&mut registry);
    let page = page(&registry, Exposition::Text);
    for line in [
        r#"tunneld_requests_total{ingress="tunnel",backend="a",model="other",outcome="ok"} 12"#,
        r#"tunneld_requests_total{ingress="tunnel",backend="a",model="model\"0\\",outcome="ok"} 1"#,
        r#"tunneld_tokens_total{direction="completion",backend="a",model="other"} 60"#,
        r#"tunneld_time_to_first_token_seconds_count{backend="a"} 140"#,
        r#"tunneld_request_duration_seconds_count{ingress="tunnel",backend="a",outcome="ok"} 140"#,
        r#"tunneld_backend_up{backend="a"} 1"#,
        "tunneld_requests_in_flight 0",
        "# TYPE tunneld_bytes_total counter",
        "# TYPE tunneld_time_to_first_token_seconds histogram",
    ] {
        assert!(page.lines().any(|have| have == line), "{line} is missing in\n{page}");
    }
    assert_eq!(page.lines().filter(|line| line.starts_with("tunneld_requests_total{")).count(), 130);
    assert_eq!(bench.broker.metrics().models.len(), 129);

    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) if std::env::var_os("E2E_REQUIRE_REAL").is_none_or(|value| value != "1") => {
            println!("skipped: no promtool here: {error}");
            return;
        }
        Err(error) => panic!("no promtool: {error}"),
    };
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let words = [said.stdout, said.stderr].concat();
    assert!(said.status.success() && words.is_empty(), "{}\n{page}", String::from_utf8_lossy(&words));
}

#[tokio::test]
async fn models_are_those_of_all_backends_that_are_up() {
    let (a, b) = (Fake::echo("a", &["m", "shared"]).await, Fake::echo("b", &["shared"]).await);
    let bench = start(settings(vec![ollama(&a, "a"), openai(&b, "b")]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let shown = |bench: &Bench| -> Vec<(String, Vec<String>, bool)> {
        bench.broker.models().into_iter().map(|m| (m.name, m.connections, m.loaded)).collect()
    };
    let names = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        shown(&bench),
        [("m".to_owned(), names(&["a"]), true), ("shared".to_owned(), names(&["a", "b"]), true)]
    );
    assert_eq!(bench.broker.models()[1].size_bytes, Some(7));
    // `shared` is in memory on b only.
    bench.broker.reconfigure(settings(vec![ollama(&a, "a")]));
    assert_eq!(shown(&bench)[1], ("shared".to_owned(), names(&["a"]), false));
}

#[tokio::test]
async fn a_probe_on_demand_says_how_the_backend_is_now() {
    let a = Fake::echo("a", &["m"]).await;
    let mut config = settings(vec![ollama(&a, "a")]);
    config.probe_failures = 1;
    let bench = start(config);
    let status = bench.broker.probe("a").await.unwrap();
    assert_eq!((status.state, status.models.len()), (BackendState::Connected, 1));
    a.set_models(&["m", "n"]);
    assert_eq!(bench.broker.probe("a").await.unwrap().models.len(), 2);
    a.fail_probes();
    assert_eq!(bench.broker.probe("a").await.unwrap().state, BackendState::Error);
    assert_eq!(bench.broker.probe("b").await, None);
    // Removed while it is waited for: at once, and not after the limit.
    let broker = bench.broker.clone();
    let (status, ()) = tokio::join!(broker.probe("a"), async {
        tokio::task::yield_now().await;
        bench.broker.reconfigure(settings(Vec::new()));
    });
    assert!(status.is_none_or(|status| status.id == "a"));
    assert!(tokio::time::timeout(Duration::from_secs(1), bench.broker.probe("a")).await.unwrap().is_none());
}

#[tokio::test]
async fn an_answer_without_a_body_is_an_answer() {
    let fake = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.write("HTTP/1.1 204 X\r\n\r\n").await;
        Some(exchange)
    })
    .await;
    let (bench, mut records) = measured(settings(vec![ollama(&fake, "a")]));
    let response = bench.send(chat("m")).await;
    let finished = record(&mut records).await;
    assert_eq!((finished.outcome, finished.bytes_out), (Outcome::Ok, 0));
    assert!(response.into_body().frame().await.is_none());
}
