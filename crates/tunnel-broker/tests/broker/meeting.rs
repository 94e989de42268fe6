//! Where routing, health and queues meet: a limit beside a server that loads, is ejected, or is not known yet.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tunnel_broker::{
    BackendConfig, BackendState, BreakerState, Health, Ingress, RequestState, RunningRequest,
};

use crate::support::*;

fn one_slot(mut config: BackendConfig) -> BackendConfig {
    config.max_concurrent = NonZeroU32::new(1);
    config
}

fn completion(id: &str) -> Request<Full<Bytes>> {
    let mut request = post("/v1/completions", r#"{"model":"m"}"#);
    request.headers_mut().insert("x-request-id", id.parse().unwrap());
    request
}

/// Sends a request and reads its answer to the end: until then its slot is taken.
fn send(bench: &Bench, id: &str) -> AbortOnDropHandle<Response<Bytes>> {
    send_it(bench, completion(id))
}

/// The same with a pin.
fn send_to(bench: &Bench, connection: &str, id: &str) -> AbortOnDropHandle<Response<Bytes>> {
    let mut request = completion(id);
    request.headers_mut().insert("x-tunnel-connection", connection.parse().unwrap());
    send_it(bench, request)
}

fn send_it(bench: &Bench, request: Request<Full<Bytes>>) -> AbortOnDropHandle<Response<Bytes>> {
    let broker = bench.broker.clone();
    let sending = async move {
        let (head, body) = broker.handle(Ingress::Tunnel, request).await.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    };
    AbortOnDropHandle::new(TaskTracker::new().spawn(sending))
}

fn shown(bench: &Bench, id: &str) -> Option<RunningRequest> {
    bench.broker.requests().into_iter().find(|request| request.id == id)
}

/// Sends a request and waits until it waits for these.
async fn queued(bench: &Bench, id: &str, at: &[&str]) -> AbortOnDropHandle<Response<Bytes>> {
    let sending = send(bench, id);
    waits_for(bench, id, at).await;
    sending
}

async fn waits_for(bench: &Bench, id: &str, at: &[&str]) {
    eventually(&format!("{id} waits for {at:?}"), || {
        shown(bench, id).is_some_and(|mut request| {
            // Equals come in any order.
            request.waiting_for.sort();
            request.state == RequestState::Queued && request.waiting_for == at
        })
    })
    .await;
}

async fn serve(mut exchange: Exchange) -> String {
    exchange.body().await;
    exchange.json("{}").await;
    exchange.header("x-request-id").unwrap().to_owned()
}

async fn fail(mut exchange: Exchange) {
    exchange.body().await;
    exchange.answer(500, "text/plain", "no").await;
}

/// Two servers of one slot each, both up.
async fn two() -> (Bench, [Fake; 2], [mpsc::Receiver<Exchange>; 2]) {
    let ((a, at_a), (b, at_b)) = (Fake::manual(&["m"]).await, Fake::manual(&["m"]).await);
    let bench = start(settings(vec![one_slot(openai(&a, "a")), one_slot(openai(&b, "b"))]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    (bench, [a, b], [at_a, at_b])
}

#[tokio::test]
async fn one_that_is_not_known_yet_keeps_nobody_from_a_queue() {
    let (a, mut at_a) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![one_slot(openai(&a, "a"))]));
    bench.state("a", BackendState::Connected).await;
    let _first = send(&bench, "first");
    let running = arrival(&mut at_a).await;
    let _before = queued(&bench, "before", &["a"]).await;

    let b = Fake::echo("b", &["m"]).await;
    b.set_mood(Mood::Frozen);
    let mut unknown = openai(&b, "b");
    unknown.models = vec!["m".to_owned()];
    bench.broker.reconfigure(settings(vec![one_slot(openai(&a, "a")), unknown]));
    let after = queued(&bench, "after", &["a"]).await;
    serve(running).await;
    let running = arrival(&mut at_a).await;
    assert_eq!(running.header("x-request-id"), Some("before"), "its wait was not disturbed");
    b.set_mood(Mood::Well);
    assert_eq!(after.await.unwrap().headers()["x-tunnel-connection"], "b", "it has seen it come up");
}

#[tokio::test]
async fn a_model_that_is_loaded_anew_takes_no_time_from_those_that_queue() {
    let (a, mut at_a) = Fake::manual(&["m"]).await;
    let mut config = settings(vec![one_slot(openai(&a, "a"))]);
    config.queue.max_wait = Duration::from_secs(1);
    let bench = start(config);
    bench.state("a", BackendState::Connected).await;
    let _first = send(&bench, "first");
    let running = arrival(&mut at_a).await;
    let ids = ["1", "2", "3", "4", "5"];
    let mut waiting = Vec::new();
    for id in ids {
        waiting.push(queued(&bench, id, &["a"]).await);
    }
    let is = |health| bench.broker.snapshot()[0].health == health;
    a.set_mood(Mood::Loading);
    bench.broker.probe_now();
    eventually("it loads", || is(Health::Warming)).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    a.set_mood(Mood::Well);
    eventually("it is back", || is(Health::Busy)).await;
    for id in ids {
        waits_for(&bench, id, &["a"]).await;
    }
    serve(running).await;
    for id in ids {
        assert_eq!(serve(arrival(&mut at_a).await).await, id, "in the order in which they came");
    }
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn those_that_queue_see_an_ejected_one_come_back() {
    let (bench, _fakes, [mut at_a, mut at_b]) = two().await;
    let breaker = |bench: &Bench| bench.broker.snapshot()[0].breaker;
    for n in 0..5 {
        let mut request = completion(&format!("fails-{n}"));
        request.headers_mut().insert("x-tunnel-connection", "a".parse().unwrap());
        let sending = spawn_send(&bench, Ingress::Local, request);
        fail(arrival(&mut at_a).await).await;
        text(sending.await.unwrap()).await;
    }
    eventually("it is ejected, and shown so", || breaker(&bench) == BreakerState::Open).await;
    let _first = send(&bench, "first");
    let mut running = arrival(&mut at_b).await;
    // An answer that has begun: nobody has it probed in doubt.
    running.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await;
    let waits = queued(&bench, "waits", &["b"]).await;
    // By time alone: nothing probes it now, and the other one stays full.
    assert_eq!(serve(arrival(&mut at_a).await).await, "waits");
    assert_eq!(waits.await.unwrap().headers()["x-tunnel-connection"], "a");
    eventually("the trial has closed it, and that is shown", || breaker(&bench) == BreakerState::Closed)
        .await;
    drop(running);
}

#[tokio::test]
async fn a_line_survives_the_loss_of_one_of_its_servers() {
    let (bench, _fakes, [mut at_a, mut at_b]) = two().await;
    let _running = [send(&bench, "x"), send(&bench, "y")];
    let (on_a, on_b) = (arrival(&mut at_a).await, arrival(&mut at_b).await);
    let ids = ["1", "2", "3", "4", "5", "6", "7", "8"];
    let mut waiting = Vec::new();
    for id in ids {
        waiting.push(queued(&bench, id, &["a", "b"]).await);
    }
    // Each failure hands the slot to the next of the line, until the fifth opens the breaker. Those that have failed
    // go to the end of the other line.
    let mut exchange = on_a;
    for id in &ids[..4] {
        fail(exchange).await;
        exchange = arrival(&mut at_a).await;
        assert_eq!(exchange.header("x-request-id"), Some(*id));
    }
    fail(exchange).await;
    let _late = queued(&bench, "late", &["b"]).await;
    let mut running = on_b;
    for id in &ids[4..] {
        serve(running).await;
        running = arrival(&mut at_b).await;
        assert_eq!(running.header("x-request-id"), Some(*id), "it has kept its place");
    }
    drop(waiting);
}

#[tokio::test]
async fn one_that_says_again_and_again_that_it_loads_is_asked_now_and_then() {
    // Its probes know nothing of the model.
    let a = Fake::start(&["m"], |mut exchange| async move {
        exchange.body().await;
        exchange.answer(503, "application/json", LOADING).await;
        Some(exchange)
    })
    .await;
    let (b, mut at_b) = Fake::manual(&["m"]).await;
    let mut second = openai(&a, "a");
    second.priority = 1;
    let bench = start(settings(vec![second, one_slot(openai(&b, "b"))]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let _first = send(&bench, "first");
    let running = arrival(&mut at_b).await;
    let waits = send(&bench, "waits");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!((1..=4).contains(&a.requests()), "asked {} times", a.requests());
    serve(running).await;
    assert_eq!(serve(arrival(&mut at_b).await).await, "waits");
    assert_eq!(waits.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn one_that_keeps_saying_that_it_loads_costs_nobody_the_place_in_anothers_queue() {
    for models in [&["m"][..], &["m", "n"]] {
        let a = Fake::start(models, |mut exchange| async move {
            exchange.body().await;
            exchange.answer(503, "application/json", LOADING).await;
            Some(exchange)
        })
        .await;
        let (b, mut at_b) = Fake::manual(&["m"]).await;
        let mut second = one_slot(openai(&b, "b"));
        second.priority = 1;
        let bench = start(settings(vec![openai(&a, "a"), second]));
        bench.state("a", BackendState::Connected).await;
        bench.state("b", BackendState::Connected).await;
        let _first = send_to(&bench, "b", "first");
        let mut running = arrival(&mut at_b).await;
        let mut waiting = Vec::new();
        for id in ["1", "2", "3"] {
            waiting.push(send(&bench, id));
            eventually("it has asked twice where its probes may tell", || {
                a.requests() == waiting.len() * (3 - models.len())
            })
            .await;
            waits_for(&bench, id, &["b"]).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        for id in ["1", "2", "3"] {
            serve(running).await;
            running = arrival(&mut at_b).await;
            assert_eq!(running.header("x-request-id"), Some(id));
        }
        serve(running).await;
        for answer in waiting {
            assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
        }
        assert_eq!(a.requests(), 3 * (3 - models.len()));
    }
}

#[tokio::test]
async fn one_whose_turn_does_not_come_goes_back_to_the_one_that_loaded() {
    let loads = Arc::new(AtomicBool::new(true));
    let a = Fake::start(&["m", "n"], {
        let loads = Arc::clone(&loads);
        move |mut exchange| {
            let loads = loads.load(Ordering::SeqCst);
            async move {
                exchange.body().await;
                exchange.answer(if loads { 503 } else { 200 }, "application/json", LOADING).await;
                Some(exchange)
            }
        }
    })
    .await;
    let (b, mut at_b) = Fake::manual(&["m"]).await;
    let mut second = one_slot(openai(&b, "b"));
    second.priority = 1;
    let mut config = settings(vec![openai(&a, "a"), second]);
    config.queue.max_wait = Duration::from_millis(300);
    let bench = start(config);
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let _first = send_to(&bench, "b", "first");
    let _running = arrival(&mut at_b).await;
    let waits = queued(&bench, "waits", &["b"]).await;
    loads.store(false, Ordering::SeqCst);
    assert_eq!(waits.await.unwrap().headers()["x-tunnel-connection"], "a");
    assert_eq!(a.requests(), 2);
}

#[tokio::test]
async fn those_that_waited_for_a_model_get_the_slots_in_the_order_in_which_they_came() {
    let (a, mut at_a) = Fake::manual(&["m"]).await;
    let bench = start(settings(vec![one_slot(openai(&a, "a"))]));
    bench.state("a", BackendState::Connected).await;
    a.set_mood(Mood::Loading);
    bench.broker.probe_now();
    eventually("it loads", || bench.broker.snapshot()[0].health == Health::Warming).await;
    let ids = ["1", "2", "3", "4", "5", "6", "7", "8"];
    let mut waiting = Vec::new();
    for id in ids {
        waiting.push(queued(&bench, id, &["a"]).await);
    }
    a.set_mood(Mood::Well);
    for id in ids {
        assert_eq!(serve(arrival(&mut at_a).await).await, id);
    }
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
}
