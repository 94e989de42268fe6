//! Three backends under load, one after the other killed, hung and filled again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio_util::task::TaskTracker;
use tunnel_broker::{BackendState, Ingress};

use crate::support::*;

/// What became of the requests.
#[derive(Default)]
struct Tally {
    served: AtomicUsize,
    failed: AtomicUsize,
    slowest_ms: AtomicUsize,
}

/// Sends 200 requests a second for a while.
async fn load(bench: &Bench, tally: &Arc<Tally>, tracker: &TaskTracker, time: Duration) {
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < time {
        let (broker, tally) = (bench.broker.clone(), Arc::clone(tally));
        tracker.spawn(async move {
            let sent = Instant::now();
            let response = broker.handle(Ingress::Local, chat("m")).await;
            let status = response.status();
            let good = status == StatusCode::OK && !to_the_end(response.into_body()).await.1;
            let count = if good { &tally.served } else { &tally.failed };
            count.fetch_add(1, Ordering::SeqCst);
            tally.slowest_ms.fetch_max(sent.elapsed().as_millis() as usize, Ordering::SeqCst);
        });
        n += 1;
        tokio::time::sleep((Duration::from_millis(5) * n).saturating_sub(began.elapsed())).await;
    }
}

async fn server(address: &str) -> Fake {
    Fake::start_at(address, &["m"], |mut exchange| async move {
        exchange.body().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        exchange.json("{}").await;
        Some(exchange)
    })
    .await
}

#[tokio::test]
async fn no_request_fails_while_a_backend_is_up() {
    let mut fakes = Vec::new();
    for _ in 0..3 {
        fakes.push(server("127.0.0.1:0").await);
    }
    let ids = ["a", "b", "c"];
    let mut config = settings(fakes.iter().zip(ids).map(|(fake, id)| ollama(fake, id)).collect());
    config.first_byte_timeout = Duration::from_secs(4);
    let bench = start(config);
    for id in ids {
        bench.state(id, BackendState::Connected).await;
    }
    let (tally, tracker) = (Arc::new(Tally::default()), TaskTracker::new());
    load(&bench, &tally, &tracker, Duration::from_millis(500)).await;
    for at in 0..2 {
        // Killed: its connections break, its port refuses.
        fakes[at].stop().await;
        load(&bench, &tally, &tracker, Duration::from_millis(700)).await;
        let address = fakes[at].addr.to_string();
        fakes[at] = server(&address).await;
        let refilled = Instant::now();
        while fakes[at].requests() == 0 {
            assert!(refilled.elapsed() < Duration::from_secs(4), "{} is not back in rotation", ids[at]);
            load(&bench, &tally, &tracker, Duration::from_millis(50)).await;
        }
        println!("{} got requests {:?} after it was there again", ids[at], refilled.elapsed());
    }
    // Hung: it takes what comes, and says nothing.
    fakes[2].set_mood(Mood::Frozen);
    load(&bench, &tally, &tracker, Duration::from_secs(4)).await;
    fakes[2].set_mood(Mood::Well);
    let (thawed, before) = (Instant::now(), fakes[2].requests());
    while fakes[2].requests() < before + 20 {
        assert!(thawed.elapsed() < Duration::from_secs(4), "c is not back in rotation");
        load(&bench, &tally, &tracker, Duration::from_millis(50)).await;
    }
    println!("c got requests {:?} after it went on", thawed.elapsed());
    tracker.close();
    tracker.wait().await;
    let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    println!(
        "{} requests were served, {} failed; the slowest took {} ms",
        count(&tally.served),
        count(&tally.failed),
        count(&tally.slowest_ms)
    );
    assert_eq!(count(&tally.failed), 0);
}
