use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tunnel_broker::{BackendConfig, BackendKind, BackendState};

use crate::support::*;

#[tokio::test]
async fn a_probe_shows_what_a_server_has() {
    let (a, b) = (Fake::echo("a", &["m", "n"]).await, Fake::echo("b", &["gpt"]).await);
    let bench = start(settings(vec![ollama(&a, "a"), openai(&b, "b")]));
    assert_eq!(bench.broker.snapshot()[0].state, BackendState::Connecting);
    bench.state("a", BackendState::Connected).await;
    bench.state("b", BackendState::Connected).await;
    let [first, second]: [_; 2] = bench.broker.snapshot().try_into().unwrap();
    assert_eq!((first.version.as_deref(), first.endpoint), (Some("0.12.0"), format!("http://{}", a.addr)));
    let models: Vec<_> = first.models.iter().map(|m| (m.name.as_str(), m.loaded, m.size_bytes)).collect();
    assert_eq!(models, [("m", true, Some(7)), ("n", false, Some(7))]);
    assert!(first.latency.is_some() && first.last_check.is_some() && first.error.is_none());
    assert_eq!((second.kind, second.models[0].name.as_str()), (BackendKind::OpenAi, "gpt"));
}

#[tokio::test]
async fn a_server_that_was_up_is_down_after_enough_failed_probes() {
    let a = Fake::echo("a", &["m"]).await;
    let mut config = settings(vec![ollama(&a, "a")]);
    config.probe_failures = 3;
    config.retry_delay = Duration::from_millis(50);
    let bench = start(config);
    bench.state("a", BackendState::Connected).await;
    let mut changes = bench.broker.status();
    changes.mark_unchanged();
    a.fail_probes();
    bench.broker.probe_now();
    let mut seen = Vec::new();
    for _ in 0..3 {
        tokio::time::timeout(SOON, changes.changed()).await.unwrap().unwrap();
        let status = changes.borrow_and_update()[0].clone();
        assert_eq!(status.error.as_deref(), Some("/api/version was answered with status 500"));
        seen.push(status.state);
    }
    assert_eq!(seen, [BackendState::Connected, BackendState::Connected, BackendState::Error]);
    a.set_models(&["m"]);
    bench.state("a", BackendState::Connected).await;
}

#[tokio::test]
async fn requests_before_the_first_probe_wait_for_it() {
    let a = Fake::echo("a", &["m"]).await;
    let bench = start(settings(vec![ollama(&a, "a")]));
    // At once, in the first moment.
    assert_eq!(bench.by(chat("m")).await, "a");
    let bench = start(settings(vec![ollama(&a, "a")]));
    assert_eq!(bench.json(get("/api/tags")).await["models"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_does_not_hold_requests_for_ever() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let mut config = settings(vec![BackendConfig::new("a", BackendKind::Ollama, url)]);
    config.connect_timeout = Duration::from_millis(200);
    let bench = start(config);
    let (status, text) = bench.text(chat("m")).await;
    assert_eq!(
        (status.as_u16(), text.as_str()),
        (503, r#"{"error":"connection 'a' is down: it has not answered yet"}"#)
    );
}

#[tokio::test]
async fn localhost_reaches_a_server_on_either_family() {
    for host in ["127.0.0.1", "[::1]"] {
        let Ok(listener) = TcpListener::bind((host.trim_matches(['[', ']']), 0)).await else { continue };
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let _fake = Fake::start_at(&format!("{host}:{port}"), &["m"], |mut exchange| async move {
            exchange.body().await;
            exchange.json("{}").await;
            Some(exchange)
        })
        .await;
        let url = format!("http://localhost:{port}").parse().unwrap();
        let bench = start(settings(vec![BackendConfig::new("a", BackendKind::Ollama, url)]));
        bench.state("a", BackendState::Connected).await;
    }
}

#[tokio::test]
async fn a_change_of_configuration_keeps_what_stays() {
    let (a, b) = (Fake::echo("a", &["m"]).await, Fake::echo("b", &["n"]).await);
    let bench = start(settings(vec![ollama(&a, "a")]));
    bench.by(chat("m")).await;
    let mut changed = ollama(&a, "a");
    changed.priority = 3;
    bench.broker.reconfigure(settings(vec![ollama(&b, "b"), changed]));
    assert_eq!(bench.broker.snapshot()[1].state, BackendState::Connected);
    assert_eq!(bench.by(chat("m")).await, "a");
    assert_eq!(bench.by(chat("n")).await, "b");
    assert_eq!(a.accepted(), 1, "its connection is kept");
    let mut off = ollama(&a, "a");
    off.enabled = false;
    bench.broker.reconfigure(settings(vec![ollama(&b, "b"), off]));
    assert_eq!(bench.text(chat("m")).await.0, http::StatusCode::NOT_FOUND);
    eventually("its connections are closed", || a.shared.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_server_without_health_is_asked_for_it_once() {
    let b = Fake::echo("b", &["gpt"]).await;
    let bench = start(settings(vec![openai(&b, "b")]));
    bench.state("b", BackendState::Connected).await;
    let before = b.shared.probes.load(Ordering::SeqCst);
    bench.broker.probe_now();
    eventually("probed again", || b.shared.probes.load(Ordering::SeqCst) > before).await;
    assert_eq!((before, b.shared.probes.load(Ordering::SeqCst)), (2, 3));
}

#[tokio::test]
async fn idle_connections_beyond_the_pool_are_closed_after_a_moment() {
    let (a, mut rx) = Fake::manual(&["m"]).await;
    let mut config = settings(vec![ollama(&a, "a")]);
    config.pool_size = 2;
    let bench = start(config);
    let sends: Vec<_> =
        (0..8).map(|_| spawn_send(&bench, tunnel_broker::Ingress::Local, chat("m"))).collect();
    let mut exchanges = Vec::new();
    for _ in 0..8 {
        exchanges.push(arrival(&mut rx).await);
    }
    for exchange in &mut exchanges {
        exchange.body().await;
        exchange.json("{}").await;
    }
    for send in sends {
        text(send.await.unwrap()).await;
    }
    let mut open = 8;
    let mut one = [0];
    eventually("surplus closed", || {
        open = exchanges.iter().filter(|e| e.stream.try_read(&mut one).is_err()).count();
        open <= 2
    })
    .await;
    assert!(open >= 1);
}
