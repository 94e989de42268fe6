//! Requests that wait for a slot: whose turn it is, what they see, and how they leave.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tunnel_broker::{
    BackendConfig, BackendState, Body, BrokerConfig, CallerLabel, Ingress, RequestState, RunningRequest,
};
use tunnel_runtime::metrics::{Exposition, page};

use crate::support::*;

fn slots(mut config: BackendConfig, n: u32) -> BackendConfig {
    config.max_concurrent = NonZeroU32::new(n);
    config
}

fn queue(mut config: BrokerConfig, max_waiting: usize, max_wait: Duration) -> BrokerConfig {
    config.queue.max_waiting = max_waiting;
    config.queue.max_wait = max_wait;
    config
}

fn from(key: &str, id: &str) -> Request<Full<Bytes>> {
    let mut request = chat("m");
    request.extensions_mut().insert(CallerLabel(key.into()));
    request.headers_mut().insert("x-request-id", id.parse().unwrap());
    request
}

/// A whole answer: a slot is taken until the answer has been read.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

type Sending = AbortOnDropHandle<Answer>;

/// Sends a request and reads its answer, while the test plays the backend.
fn send(bench: &Bench, request: Request<Full<Bytes>>) -> Sending {
    let broker = bench.broker.clone();
    let sending = async move { whole(broker.handle(Ingress::Tunnel, request).await).await };
    AbortOnDropHandle::new(TaskTracker::new().spawn(sending))
}

async fn whole(response: Response<Body>) -> Answer {
    let (head, body) = response.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Answer { status: head.status, headers: head.headers, text }
}

fn number(answer: &Answer, name: &str) -> Option<u64> {
    answer.headers.get(name).map(|value| value.to_str().unwrap().parse().unwrap())
}

impl Bench {
    fn shown(&self, id: &str) -> Option<RunningRequest> {
        self.broker.requests().into_iter().find(|request| request.id == id)
    }

    /// Sends a request and waits until it waits.
    async fn queued(&self, key: &str, id: &str) -> Sending {
        let sending = send(self, from(key, id));
        eventually(&format!("{id} waits"), || {
            self.shown(id).is_some_and(|request| request.queue_position.is_some())
        })
        .await;
        sending
    }

    fn positions(&self, ids: &[&str]) -> Vec<usize> {
        ids.iter().map(|id| self.shown(id).unwrap().queue_position.unwrap()).collect()
    }
}

fn page_of(bench: &Bench) -> String {
    let mut registry = Registry::default();
    bench.broker.register(&mut registry);
    page(&registry, Exposition::Text)
}

/// Reads what a server got, answers it, and returns its id.
async fn serve(mut exchange: Exchange) -> String {
    exchange.body().await;
    exchange.json("{}").await;
    exchange.header("x-request-id").unwrap().to_owned()
}

/// A broker with one backend of one slot, which is taken.
async fn taken(
    config: impl Fn(BackendConfig) -> BrokerConfig,
) -> (Bench, Fake, mpsc::Receiver<Exchange>, Exchange, Sending) {
    let (fake, mut rx) = Fake::manual(&["m"]).await;
    let bench = start(config(slots(ollama(&fake, "a"), 1)));
    bench.state("a", BackendState::Connected).await;
    let first = send(&bench, from("x", "first"));
    let exchange = arrival(&mut rx).await;
    (bench, fake, rx, exchange, first)
}

#[tokio::test]
async fn a_request_waits_for_a_slot_and_everybody_can_see_it() {
    let (bench, _fake, mut rx, running, first) = taken(|a| settings(vec![a])).await;
    let mut records = bench.broker.records(8).unwrap();
    let second = bench.queued("x", "second").await;
    let third = bench.queued("x", "third").await;

    let shown = bench.shown("second").unwrap();
    assert_eq!((shown.state, shown.queue_position), (RequestState::Queued, Some(1)));
    assert_eq!((shown.waiting_for, shown.connection), (vec!["a".to_owned()], None));
    assert_eq!(bench.positions(&["second", "third"]), [1, 2]);
    assert_eq!((bench.broker.snapshot()[0].in_flight, bench.broker.snapshot()[0].queued), (1, 2));
    let page = page_of(&bench);
    assert!(page.contains("queued{backend=\"a\"} 2\n"), "{page}");

    assert_eq!(serve(running).await, "first");
    let response = first.await.unwrap();
    assert_eq!(number(&response, "x-tunnel-queue-position"), None, "it never waited");
    assert_eq!(number(&response, "x-tunnel-queued-ms"), None);
    assert_eq!(records.recv().await.unwrap().queued, Duration::ZERO);

    assert_eq!(serve(arrival(&mut rx).await).await, "second");
    assert_eq!(serve(arrival(&mut rx).await).await, "third");
    drop(second);
    let response = third.await.unwrap();
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(number(&response, "x-tunnel-queue-position"), Some(2));
    let ms = number(&response, "x-tunnel-queued-ms").unwrap();
    let finished = loop {
        let finished = records.recv().await.unwrap();
        if finished.request_id == "third" {
            break finished;
        }
    };
    assert_eq!(finished.queued.as_millis() as u64, ms);
    assert!(finished.queued > Duration::ZERO && finished.queued <= finished.duration);
    assert_eq!(bench.broker.snapshot()[0].queued, 0);
    let page = page_of(&bench);
    assert!(page.contains("queue_wait_seconds_count{backend=\"a\"}"), "{page}");
}

#[tokio::test]
async fn a_key_that_floods_does_not_keep_others_waiting() {
    for max_waiting in [64, 2000] {
        let (fake, mut rx) = Fake::manual(&["m"]).await;
        let config = settings(vec![slots(openai(&fake, "a"), 2)]);
        let bench = start(queue(config, max_waiting, Duration::from_secs(60)));
        bench.state("a", BackendState::Connected).await;
        let request = |key: &str, id: String| {
            let mut request = post("/v1/chat/completions", r#"{"model":"m"}"#);
            request.extensions_mut().insert(CallerLabel(key.into()));
            request.headers_mut().insert("x-request-id", id.parse().unwrap());
            request
        };
        const FLOOD: usize = 300;
        let mut flood: Vec<Sending> =
            (0..FLOOD).map(|n| send(&bench, request("flood", format!("flood-{n}")))).collect();
        let waiting = max_waiting.min(FLOOD - 2);
        eventually("the flood waits", || bench.broker.snapshot()[0].queued == waiting).await;
        eventually("the rest is refused", || bench.broker.in_flight() == waiting + 2).await;
        let mut running = [arrival(&mut rx).await, arrival(&mut rx).await].map(Some);

        for round in 0..5 {
            let id = format!("other-{round}");
            let mut others = send(&bench, request("other", id.clone()));
            eventually("it waits", || bench.shown(&id).is_some_and(|shown| shown.queue_position.is_some()))
                .await;
            // One round of the two that run is one service time; it has to be among the next two.
            let mut next = Vec::new();
            for slot in &mut running {
                serve(slot.take().unwrap()).await;
                let exchange = arrival(&mut rx).await;
                next.push(exchange.header("x-request-id").unwrap().to_owned());
                *slot = Some(exchange);
            }
            assert!(next.contains(&id), "{max_waiting}, round {round}: {next:?}");
            for slot in &mut running {
                if slot.as_ref().unwrap().header("x-request-id") == Some(&id) {
                    serve(slot.take().unwrap()).await;
                    *slot = Some(arrival(&mut rx).await);
                }
            }
            assert_eq!((&mut others).await.unwrap().status, StatusCode::OK);
        }
        if max_waiting < FLOOD {
            // The last of the flood found no room.
            let refused = flood.pop().unwrap().await.unwrap();
            assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
            let retry = number(&refused, "retry-after").unwrap();
            assert!((1..=60).contains(&retry), "{retry}");
            let text = refused.text;
            assert!(text.contains(r#""code":"queue_full""#), "{text}");
            assert!(text.contains("all 2 slots of connection 'a' are taken, and 64 requests wait"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_full_line_makes_room_for_another_key() {
    let (bench, _fake, mut rx, running, _first) =
        taken(|a| queue(settings(vec![a]), 2, Duration::from_secs(60))).await;
    let _older = bench.queued("x", "older").await;
    let newest = bench.queued("x", "newest").await;
    let refused = send(&bench, from("x", "refused")).await.unwrap();
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.text.starts_with("{\"error\":"), "Ollama's form");
    let _other = bench.queued("y", "other").await;
    let displaced = newest.await.unwrap();
    assert_eq!(displaced.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(number(&displaced, "x-tunnel-queue-position"), Some(2));
    serve(running).await;
    let mut order = Vec::new();
    for _ in 0..2 {
        order.push(serve(arrival(&mut rx).await).await);
    }
    order.sort();
    assert_eq!(order, ["older", "other"]);
}

#[tokio::test]
async fn a_request_that_waits_can_be_cancelled_and_left() {
    let (bench, _fake, mut rx, running, _first) = taken(|a| settings(vec![a])).await;
    let mut records = bench.broker.records(8).unwrap();
    let cancelled = bench.queued("x", "cancelled").await;
    let left = bench.queued("x", "left").await;
    let stays = bench.queued("x", "stays").await;
    assert_eq!(bench.positions(&["cancelled", "left", "stays"]), [1, 2, 3]);
    assert!(bench.broker.cancel("cancelled"));
    assert_eq!(cancelled.await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bench.positions(&["left", "stays"]), [1, 2]);
    drop(left);
    eventually("it has left", || bench.broker.snapshot()[0].queued == 1).await;
    for id in ["cancelled", "left"] {
        let finished = records.recv().await.unwrap();
        assert!(finished.request_id == id && finished.queued > Duration::ZERO, "{finished:?}");
    }
    serve(running).await;
    assert_eq!(serve(arrival(&mut rx).await).await, "stays");
    assert_eq!(stays.await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_slot_that_comes_free_as_its_waiter_leaves_goes_to_the_next() {
    let (bench, _fake, mut rx, running, first) = taken(|a| settings(vec![a])).await;
    let leaves = bench.queued("x", "leaves").await;
    let _stays = bench.queued("x", "stays").await;
    serve(running).await;
    assert_eq!(first.await.unwrap().text, "{}");
    // It may have been granted the slot by now, and not have fetched it.
    leaves.abort();
    drop(leaves);
    let mut exchange = arrival(&mut rx).await;
    if exchange.header("x-request-id") == Some("leaves") {
        exchange = arrival(&mut rx).await;
    }
    assert_eq!(serve(exchange).await, "stays");
    eventually("all over", || bench.broker.snapshot()[0].in_flight == 0).await;
}

#[tokio::test]
async fn it_waits_for_any_that_would_do() {
    let ((a, mut at_a), (b, mut at_b)) = (Fake::manual(&["m"]).await, Fake::manual(&["m"]).await);
    let bench = start(settings(vec![slots(ollama(&a, "a"), 1), slots(ollama(&b, "b"), 1)]));
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let _running = [from("x", "1"), from("x", "2")].map(|r| send(&bench, r));
    let (_at_a, at_b_first) = (arrival(&mut at_a).await, arrival(&mut at_b).await);
    let waits = bench.queued("x", "waits").await;
    let mut waiting_for = bench.shown("waits").unwrap().waiting_for;
    // Equals come in any order.
    waiting_for.sort();
    assert_eq!(waiting_for, ["a", "b"]);
    let queued: Vec<usize> = bench.broker.snapshot().iter().map(|status| status.queued).collect();
    assert_eq!(queued, [1, 1], "it counts for each");
    serve(at_b_first).await;
    assert_eq!(serve(arrival(&mut at_b).await).await, "waits");
    assert_eq!(waits.await.unwrap().headers["x-tunnel-connection"], "b");
    assert_eq!(bench.broker.snapshot()[0].queued, 0);
}

#[tokio::test]
async fn waiting_has_an_end() {
    let wait = Duration::from_millis(50);
    let (bench, _fake, _rx, _running, _first) = taken(|a| queue(settings(vec![a]), 8, wait)).await;
    let response = send(&bench, from("x", "waits")).await.unwrap();
    assert_eq!(response.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(number(&response, "x-tunnel-queue-position"), Some(1));
    assert!(number(&response, "x-tunnel-queued-ms").unwrap() >= 50);
    assert!((1..=60).contains(&number(&response, "retry-after").unwrap()));
    let text = response.text;
    assert!(text.contains("waited 0.05 s (queue.maxWait)") && text.contains("the only slot"), "{text}");
    assert_eq!(bench.broker.snapshot()[0].queued, 0);
}

#[tokio::test]
async fn a_change_of_the_number_of_slots_holds_at_once() {
    let (bench, fake, mut rx, running, _first) = taken(|a| settings(vec![a])).await;
    let waits = [bench.queued("x", "1").await, bench.queued("x", "2").await, bench.queued("x", "3").await];
    bench.broker.reconfigure(settings(vec![slots(ollama(&fake, "a"), 3)]));
    let more = [arrival(&mut rx).await, arrival(&mut rx).await];
    assert_eq!(bench.positions(&["3"]), [1]);
    // Fewer: those that run go on, and the next one comes when they are few enough.
    bench.broker.reconfigure(settings(vec![slots(ollama(&fake, "a"), 1)]));
    let [one, two] = more;
    for (exchange, left) in [(running, 2), (one, 1)] {
        serve(exchange).await;
        eventually("it has ended", || bench.broker.snapshot()[0].in_flight == left).await;
        assert_eq!(bench.positions(&["3"]), [1]);
    }
    serve(two).await;
    assert_eq!(serve(arrival(&mut rx).await).await, "3");
    drop(waits);
}

#[tokio::test]
async fn those_that_wait_for_a_backend_that_goes_are_routed_anew() {
    let (bench, fake, _rx, _running, _first) = taken(|a| settings(vec![a])).await;
    let other = Fake::echo("b", &["m"]).await;
    let waits = bench.queued("x", "waits").await;
    // Another one that is free.
    bench.broker.reconfigure(settings(vec![slots(ollama(&fake, "a"), 1), ollama(&other, "b")]));
    let response = waits.await.unwrap();
    assert_eq!(response.headers["x-tunnel-connection"], "b");
    // None at all.
    bench.broker.reconfigure(settings(vec![slots(ollama(&fake, "a"), 1)]));
    let waits = bench.queued("x", "waits").await;
    bench.broker.reconfigure(settings(vec![]));
    let response = waits.await.unwrap();
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.text.contains("no model server is configured"));
}

#[tokio::test]
async fn those_that_wait_for_a_backend_that_dies_are_told_why() {
    let (bench, fake, rx, running, _first) = taken(|mut a| {
        a.id = "a".to_owned();
        BrokerConfig { probe_failures: 1, ..settings(vec![a]) }
    })
    .await;
    let waits = bench.queued("x", "waits").await;
    // The one that runs goes on, so that no slot becomes free.
    fake.fail_probes();
    bench.broker.probe_now();
    let response = waits.await.unwrap();
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.text.contains("connection 'a' is down"));
    drop((running, rx));
}

#[tokio::test]
async fn a_body_that_waits_is_not_read_further() {
    let (bench, _fake, mut rx, running, _first) = taken(|a| settings(vec![a])).await;
    let (tx, body) = mpsc::channel::<Result<http_body::Frame<Bytes>, std::convert::Infallible>>(1);
    let frames = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let body = StreamBody::new(Box::pin(frames));
    let request = Request::post("/api/chat").header("x-request-id", "large").body(body).unwrap();
    let broker = bench.broker.clone();
    let sending =
        TaskTracker::new().spawn(async move { whole(broker.handle(Ingress::Tunnel, request).await).await });
    let sending = AbortOnDropHandle::new(sending);
    let piece = || Ok(http_body::Frame::data(Bytes::from(vec![b' '; 64 << 10])));
    tx.send(Ok(http_body::Frame::data(Bytes::from_static(br#"{"model":"m","#)))).await.unwrap();
    let mut sent = 0;
    while let Ok(Ok(())) = tokio::time::timeout(Duration::from_millis(200), tx.send(piece())).await {
        sent += 64 << 10;
        assert!(sent <= 2 << 20, "the body of a request that waits is read on and on");
    }
    assert_eq!(bench.positions(&["large"]), [1]);
    serve(running).await;
    let mut exchange = arrival(&mut rx).await;
    let sending_rest = async {
        tx.send(Ok(http_body::Frame::data(Bytes::from_static(b"\"a\":1}")))).await.unwrap();
        drop(tx);
    };
    let (body, ()) = tokio::join!(exchange.body(), sending_rest);
    assert!(body.len() > sent);
    exchange.json("{}").await;
    assert_eq!(sending.await.unwrap().text, "{}");
}
