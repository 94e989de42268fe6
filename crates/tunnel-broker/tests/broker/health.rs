//! Backends that load their model, or do not accept our credential.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use tunnel_broker::{BackendState, BreakerState, FailureCode, Health, Ingress};

use crate::support::*;

async fn is(bench: &Bench, id: &str, health: Health) {
    eventually(&format!("{id} is {health:?}"), || {
        bench.broker.snapshot().iter().any(|status| status.id == id && status.health == health)
    })
    .await;
}

fn completion() -> http::Request<http_body_util::Full<bytes::Bytes>> {
    post("/v1/completions", r#"{"model":"m"}"#)
}

#[tokio::test]
async fn a_model_that_loads_is_waited_for() {
    let a = Fake::echo("a", &["m"]).await;
    a.set_mood(Mood::Loading);
    let bench = start(settings(vec![openai(&a, "a")]));
    is(&bench, "a", Health::Warming).await;
    assert_eq!(bench.broker.snapshot()[0].state, BackendState::Connecting);
    let waiting: Vec<_> = (0..3).map(|_| spawn_send(&bench, Ingress::Local, completion())).collect();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(waiting.iter().all(|task| !task.is_finished()), "they wait");
    assert_eq!(a.requests(), 0, "it is not asked before its probes say that it is there");
    a.set_mood(Mood::Well);
    for task in waiting {
        assert_eq!(task.await.unwrap().status(), StatusCode::OK);
    }
    is(&bench, "a", Health::Up).await;
}

#[tokio::test]
async fn a_request_that_finds_its_model_being_loaded_waits_or_goes_elsewhere() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![openai(&a, "a")]));
    is(&bench, "a", Health::Up).await;
    // It was restarted, and its prober does not know yet.
    a.set_mood(Mood::Loading);
    let task = spawn_send(&bench, Ingress::Local, completion());
    is(&bench, "a", Health::Warming).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let status = bench.broker.snapshot().remove(0);
    assert_eq!((status.breaker, status.error_rate, a.requests()), (BreakerState::Closed, 0.0, 1));
    a.set_mood(Mood::Well);
    let response = task.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(a.requests(), 2);

    let b = Fake::echo("b", &["m"]).await;
    let mut second = openai(&b, "b");
    second.priority = 1;
    let bench = start(settings(vec![openai(&a, "a"), second]));
    is(&bench, "a", Health::Up).await;
    is(&bench, "b", Health::Up).await;
    a.set_mood(Mood::Loading);
    assert_eq!(bench.by(completion()).await, "b");
    assert_eq!(bench.by(completion()).await, "b");
    assert_eq!(a.requests(), 3, "one of them has asked it");
}

#[tokio::test]
async fn a_model_that_loads_sends_nothing_out_of_the_house_and_keeps_no_other_waiting() {
    for models in [&["m", "n"][..], &["m"]] {
        let loads = Arc::new(AtomicBool::new(true));
        let a = Fake::start(models, {
            let loads = Arc::clone(&loads);
            move |mut exchange| {
                let loads = loads.load(Ordering::SeqCst);
                async move {
                    if loads && exchange.body().await.ends_with(br#""m"}"#) {
                        exchange.answer(503, "application/json", LOADING).await;
                    } else {
                        exchange.json(r#"{"by":"a"}"#).await;
                    }
                    Some(exchange)
                }
            }
        })
        .await;
        let cloud = Fake::echo("cloud", &["m", "n"]).await;
        let account = cloud.config("cloud", tunnel_broker::BackendKind::Cloud);
        let bench = start(settings(vec![openai(&a, "a"), account]));
        is(&bench, "a", Health::Up).await;
        is(&bench, "cloud", Health::Up).await;
        let told = spawn_send(&bench, Ingress::Local, completion());
        eventually("it is told", || a.requests() > 0).await;
        if models.len() > 1 {
            for _ in 0..50 {
                assert_eq!(bench.by(post("/v1/completions", r#"{"model":"n"}"#)).await, "a");
            }
        }
        // Nor to an account that a reload brings.
        let other = cloud.config("other", tunnel_broker::BackendKind::Cloud);
        bench.broker.reconfigure(settings(vec![openai(&a, "a"), other]));
        is(&bench, "other", Health::Up).await;
        let before = a.requests();
        eventually("it has asked again", || a.requests() > before).await;
        assert!(!told.is_finished());
        loads.store(false, Ordering::SeqCst);
        assert_eq!(told.await.unwrap().headers()["x-tunnel-connection"], "a");
        assert_eq!(cloud.requests(), 0, "{models:?}");
    }
}

#[tokio::test]
async fn a_wait_for_a_model_has_an_end() {
    let a = Fake::echo("a", &["m"]).await;
    let mut config = settings(vec![openai(&a, "a")]);
    config.first_byte_timeout = Duration::from_millis(800);
    let bench = start(config);
    is(&bench, "a", Health::Up).await;
    a.set_mood(Mood::Loading);
    // Who has asked it gets its words, who has not ours.
    let (status, text) = bench.text(completion()).await;
    assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, LOADING));
    let response = bench.send(completion()).await;
    assert_eq!(response.extensions().get(), Some(&FailureCode("backend_loading")));
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn a_503_of_another_meaning_is_not_waited_for() {
    let a = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange
            .answer(503, "application/json", r#"{"error":{"message":"no slot","type":"unavailable_error"}}"#)
            .await;
        Some(exchange)
    })
    .await;
    let bench = start(settings(vec![openai(&a, "a")]));
    let (status, text) = bench.text(completion()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, r#"{"error":{"message":"no slot","type":"unavailable_error"}}"#);
    assert_eq!(a.requests(), 1);
    assert!(bench.broker.snapshot()[0].error_rate > 0.0);
}

#[tokio::test]
async fn a_server_that_wants_a_credential_is_unauthorised() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    is(&bench, "a", Health::Up).await;
    a.set_mood(Mood::Locked);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // The request finds it, and the probe that it orders confirms it.
    assert_eq!(bench.text(chat("m")).await.0, StatusCode::UNAUTHORIZED);
    is(&bench, "a", Health::Unauthorised).await;
    assert_eq!(bench.broker.snapshot()[0].state, BackendState::Error);
    let probes = a.shared.probes.load(Ordering::SeqCst);
    assert_eq!(bench.text(chat("m")).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(a.shared.probes.load(Ordering::SeqCst) <= probes + 2);
    a.set_mood(Mood::Well);
    is(&bench, "a", Health::Up).await;
}
