use http::{HeaderValue, StatusCode};

use super::*;
use crate::class::EndpointClass;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn finished(connection: &str, model: &str, outcome: Outcome, took: Duration) -> Finished {
    Finished {
        request_id: HeaderValue::from_static("r"),
        started: SystemTime::UNIX_EPOCH + s(1000),
        ingress: Ingress::Local,
        caller: None,
        class: EndpointClass::Chat,
        connection: Some(Arc::from(connection)),
        model: Some(Arc::from(model)),
        outcome,
        error: (outcome == Outcome::Failed).then_some("backend_lost"),
        status: Some(StatusCode::OK),
        queued: Duration::ZERO,
        time_to_first_token: Some(took / 2),
        duration: took,
        bytes_in: 100,
        bytes_out: 6000,
        prompt_tokens: Some(10),
        completion_tokens: Some(120),
        tokens_per_s: None,
        cached_tokens: None,
        generation_time: None,
        prompt_time: None,
        load_time: None,
    }
}

/// Enters a request whose answer took all the time, and which ended at `end`.
fn enter(ledger: &mut Ledger, request: &Finished, end: Duration) {
    let arrival = end - request.duration;
    ledger.enter(request, Span { arrival, answer: arrival, end });
}

#[test]
fn sums_are_kept_per_connection_and_per_model() {
    let mut ledger = Ledger::default();
    enter(&mut ledger, &finished("a", "m", Outcome::Ok, s(2)), s(10));
    enter(&mut ledger, &finished("b", "m", Outcome::Ok, s(4)), s(10));
    enter(&mut ledger, &finished("b", "n", Outcome::Failed, s(60)), s(70));
    let snapshot = ledger.snapshot(&[], s(70));
    let shown: Vec<_> = snapshot.connections.iter().map(|c| (&*c.id, c.totals.requests())).collect();
    assert_eq!(shown, [("a", 1), ("b", 2)]);
    let shown: Vec<_> = snapshot.models.iter().map(|m| (&*m.name, m.totals.completion_tokens)).collect();
    assert_eq!(shown, [("m", 240), ("n", 120)]);
    assert_eq!((snapshot.totals.requests(), snapshot.totals.bytes_out), (3, 18_000));
    assert_eq!(snapshot.totals.duration, s(66));
    assert_eq!(snapshot.totals.error_rate(), 1.0 / 3.0);
    // What failed says nothing about how long answers take; its first token does.
    let latency = snapshot.latency.unwrap();
    assert_eq!(
        (latency.count, latency.p50.as_millis(), snapshot.time_to_first_token.unwrap().count),
        (2, 2007, 3)
    );
}

#[test]
fn failures_in_a_row_end_with_an_answer_and_with_nothing_else() {
    let mut ledger = Ledger::default();
    let row = |ledger: &Ledger| ledger.snapshot(&[], s(100)).connections[0].consecutive_failures;
    ledger.attempt_failed(&Arc::from("a"));
    enter(&mut ledger, &finished("a", "m", Outcome::Failed, s(1)), s(20));
    assert_eq!(row(&ledger), 2);
    for outcome in [Outcome::Cancelled, Outcome::Refused] {
        enter(&mut ledger, &finished("a", "m", outcome, s(1)), s(30));
        assert_eq!(row(&ledger), 2, "{outcome:?}");
    }
    for outcome in [Outcome::Ok, Outcome::Rejected] {
        enter(&mut ledger, &finished("a", "m", outcome, s(1)), s(40));
        assert_eq!(row(&ledger), 0, "{outcome:?}");
        ledger.attempt_failed(&Arc::from("a"));
    }
    let failure = LastFailure { at: SystemTime::UNIX_EPOCH + s(1001), code: "backend_lost" };
    let snapshot = ledger.snapshot(&[], s(100));
    assert_eq!((snapshot.last_failure, snapshot.connections[0].last_failure), (Some(failure), Some(failure)));
}

#[test]
fn what_runs_has_its_share_of_the_rates_and_nothing_is_counted_twice() {
    let mut ledger = Ledger::default();
    let span = |end| Span { arrival: s(100), answer: s(100), end };
    let live = Live { span: span(s(120)), bytes_in: 100, bytes_out: 2000, tokens: 40 };
    let before = ledger.snapshot(&[live], s(120));
    assert_eq!((before.in_flight, before.totals.bytes_out, before.totals.requests()), (1, 2000, 0));
    // 100 bytes and 2 tokens a second for 20 of the last 28 seconds.
    assert!((before.rates.bytes_out_per_s - 2000.0 / 28.0).abs() < 0.1, "{:?}", before.rates);
    assert!((before.rates.tokens_per_s - 40.0 / 28.0).abs() < 0.1, "{:?}", before.rates);
    assert_eq!(before.rates.requests_per_s, 0.0);
    // Looking changes nothing.
    assert_eq!(ledger.snapshot(&[live], s(120)), before);
    let done =
        Finished { bytes_out: 2000, completion_tokens: Some(40), ..finished("a", "m", Outcome::Ok, s(20)) };
    ledger.enter(&done, span(s(120)));
    let after = ledger.snapshot(&[], s(120));
    assert_eq!((after.in_flight, after.totals.bytes_out, after.totals.requests()), (0, 2000, 1));
    assert_eq!(after.rates.bytes_out_per_s, before.rates.bytes_out_per_s);
    assert!((after.rates.requests_per_s - 1.0 / 28.0).abs() < 0.001);
}
