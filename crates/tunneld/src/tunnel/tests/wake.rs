//! What a change of the world does to the tunnel, in each of its states.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::world::Cause;

/// A path to the relay on which nothing moves while it is stalled.
struct Path {
    address: SocketAddr,
    stalled: watch::Sender<bool>,
    _tasks: tokio::task::JoinSet<()>,
}

impl Path {
    async fn to(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stalled = watch::Sender::new(false);
        let readers = stalled.subscribe();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut pumps = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let far = tokio::net::TcpStream::connect(relay).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                pumps.spawn(pump(near_read, far_write, readers.clone()));
                pumps.spawn(pump(far_read, near_write, readers.clone()));
            }
        });
        Self { address, stalled, _tasks: tasks }
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if stalled.wait_for(|stalled| !stalled).await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

fn broken() -> Response<Full<Bytes>> {
    Response::builder().status(502).body(Full::default()).unwrap()
}

fn busy() -> Response<Full<Bytes>> {
    let mut busy = problem(StatusCode::SERVICE_UNAVAILABLE, "draining");
    busy.headers_mut().insert("retry-after", "500".parse().unwrap());
    busy
}

/// Wakes again and again until the relay has seen `n` dials; the back-off alone would need about ten seconds.
async fn wake_until_dials(desktop: &Desktop, relay: &Relay, n: usize) {
    let begun = Instant::now();
    while relay.dials().len() < n {
        desktop.wake(Cause::Network);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn network_that_comes_cuts_the_wait_before_a_dial_short() {
    let relay = Relay::start().await;
    (0..14).for_each(|_| relay.refuse(broken));
    let desktop = Desktop::start(&relay);
    wake_until_dials(&desktop, &relay, 15).await;
    desktop.until_state(TunnelState::Connected).await;
}

#[tokio::test]
async fn network_that_comes_cuts_the_wait_before_a_resume_short() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    (0..14).for_each(|_| relay.refuse(broken));
    relay.cut();
    wake_until_dials(&desktop, &relay, 16).await;
    let report = desktop.until("a resume", |report| report.tunnel.resumes == 1).await;
    assert_eq!(report.tunnel.reconnects, 0);
}

#[tokio::test]
async fn wait_that_the_relay_asked_for_is_kept_whatever_the_network_does() {
    let relay = Relay::start().await;
    relay.refuse(busy);
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Backoff).await;
    desktop.wake(Cause::Network);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(relay.dials().len(), 1);

    desktop.handle.give(Order::Start).await.unwrap();
    desktop.until_state(TunnelState::Connected).await;
    relay.refuse(busy);
    relay.cut();
    desktop.until_state(TunnelState::Backoff).await;
    eventually("the refused resume", || relay.dials().len() == 3).await;
    desktop.wake(Cause::Resume);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(relay.dials().len(), 3);
    desktop.handle.give(Order::Start).await.unwrap();
    desktop.until("a resume", |report| report.tunnel.resumes == 1).await;
}

#[tokio::test]
async fn link_that_looks_up_after_a_sleep_has_to_prove_it() {
    let relay = Relay::start().await;
    let path = Path::to(relay.address).await;
    let desktop = Desktop::start_with(path.address, Some("first.token.x"));
    desktop.until("a round trip", |report| report.tunnel.state == TunnelState::Connected).await;
    eventually("a session", || relay.n_sessions() == 1).await;
    relay.session(0).send(get("/api/version")).await.unwrap();

    path.stalled.send_replace(true);
    desktop.wake(Cause::Resume);
    // By the heartbeat alone it would be 25 s.
    desktop.until("doubt", |report| report.tunnel.state != TunnelState::Connected).await;
    path.stalled.send_replace(false);
    let report = desktop.until("a resume", |report| report.tunnel.resumes == 1).await;
    assert_eq!(report.tunnel.reconnects, 0);
}

#[tokio::test]
async fn link_that_answers_stays_as_it_is() {
    let relay = Relay::start().await;
    let desktop = Desktop::start(&relay);
    desktop.until_state(TunnelState::Connected).await;
    desktop.wake(Cause::Network);
    // Longer than a probe may take.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let report = desktop.handle.report();
    assert_eq!((report.tunnel.state, report.tunnel.resumes), (TunnelState::Connected, 0));
    assert_eq!(relay.dials().len(), 1);
}

#[tokio::test]
async fn dial_that_the_old_network_swallowed_begins_anew() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let desktop = Desktop::start_with(silent.local_addr().unwrap(), Some("a.b.c"));
    let _first = silent.accept().await.unwrap();
    desktop.change(|settings| settings.connect_timeout = Duration::from_secs(300));
    let _with_the_longer_limit = silent.accept().await.unwrap();
    desktop.wake(Cause::Network);
    tokio::time::timeout(LIMIT, silent.accept()).await.expect("another attempt").unwrap();
}

#[tokio::test]
async fn refusal_over_the_clock_is_asked_again_once_the_clock_is_set() {
    let relay = Relay::start().await;
    relay.refuse(|| {
        let mut expired = problem(StatusCode::UNAUTHORIZED, "token_expired");
        expired.headers_mut().insert("date", "Fri, 01 Jan 2100 00:00:00 GMT".parse().unwrap());
        expired
    });
    // Holds until 2096 by this machine's clock.
    let desktop = Desktop::start_with(relay.address, Some("e30.eyJleHAiOjQwMDAwMDAwMDB9.x"));
    let report = desktop.until_state(TunnelState::Refused).await;
    assert_eq!(report.warning.unwrap().code, warning::CLOCK_SKEW);
    desktop.wake(Cause::Network);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(relay.dials().len(), 1, "the network is not to blame");
    desktop.wake(Cause::Clock);
    desktop.until_state(TunnelState::Connected).await;
}
