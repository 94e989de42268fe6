//! Two relays behind one name: when the first is stopped, the second takes over, and nobody notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use e2e::{
    Api, Balancer, Caller, Daemon, DaemonOptions, FakeBackend, Lab, Latencies, Node, Relay, RelayOptions,
    Scope, Script, TokenRequest, eventually, measured, scenario, skipped, soak, soak_count,
};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::streams;

/// Requests a second that go on through all of it.
const REQUESTS_PER_S: u32 = 100;
const GRACE_S: u64 = 40;
const NOTICE_S: &str = "2";

struct World {
    balancer: Balancer,
    relays: [Relay; 2],
    daemons: Vec<Daemon>,
    callers: Vec<Caller>,
    _backend: FakeBackend,
}

impl World {
    /// Two relays with one key behind a balancer, and as many desktops, all at the first relay. None where there is no
    /// balancer.
    async fn start(lab: &mut Lab, n: usize) -> Result<Option<Self>> {
        let Some(program) = Balancer::program() else {
            skipped("handover", "HAProxy is not installed; cargo xtask setup unpacks it")?;
            return Ok(None);
        };
        let options = RelayOptions {
            grace_s: Some(GRACE_S),
            args: vec!["--drain-notice".to_owned(), NOTICE_S.to_owned()],
            ..RelayOptions::default()
        };
        let first = lab.relay(options.clone()).await?;
        let second = lab.relay(RelayOptions { data_dir: Some(first.data_dir()), ..options }).await?;
        let node = |relay: &Relay| Node { listen: relay.listen(), admin: relay.admin() };
        let folder = lab.folder("haproxy", "haproxy.log")?;
        let balancer = Balancer::start(&program, &folder, node(&first), node(&second)).await?;
        let backend = FakeBackend::ollama().await?;
        let (mut daemons, mut callers) = (Vec::new(), Vec::new());
        let tunnel = first.token(&TokenRequest::new("alice", Scope::Tunnel))?;
        let inference = first.token(&TokenRequest::new("alice", Scope::Inference))?;
        for number in 0..n {
            let device = format!("desk-{number}");
            callers.push(Caller::new(balancer.addr()).bearer(&inference).header("tunnel-device", &device));
            let options = DaemonOptions {
                ollama: Some(backend.addr()),
                relay: Some(balancer.url()),
                token: Some(tunnel.clone()),
                device,
                ..DaemonOptions::default()
            };
            daemons.push(lab.daemon(options).await?);
        }
        for daemon in &daemons {
            daemon.wait_for_tunnel("connected", Duration::from_secs(20)).await?;
            daemon.wait_for_backend("ollama", Duration::from_secs(20)).await?;
        }
        Ok(Some(Self { balancer, relays: [first, second], daemons, callers, _backend: backend }))
    }
}

/// What the requests of a hand-over came to.
#[derive(Default)]
struct Outcome {
    took: Latencies,
    faults: Vec<String>,
}

/// Asks one desktop after the other, evenly, until told to stop.
async fn ask_steadily(callers: Vec<Caller>, stop: Arc<AtomicBool>) -> Outcome {
    let mut asking = JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / REQUESTS_PER_S);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tick.tick().await;
        let caller = callers[number % callers.len()].clone();
        asking.spawn(async move {
            let begin = Instant::now();
            let reply = caller.get("/api/version").send().await.map_err(|error| format!("{error:#}"))?;
            let status = reply.status();
            let text = reply.text().await.map_err(|error| format!("{error:#}"))?;
            if status == 200 { Ok(begin.elapsed()) } else { Err(format!("{status}: {text}")) }
        });
    }
    let mut outcome = Outcome::default();
    while let Some(asked) = asking.join_next().await {
        match asked {
            Ok(Ok(took)) => outcome.took.record(took),
            Ok(Err(fault)) => outcome.faults.push(fault),
            Err(error) => outcome.faults.push(error.to_string()),
        }
    }
    outcome
}

/// Stops `old` under load, and tells what became of requests and streams.
async fn hand_over(
    callers: &[Caller],
    n_streams: usize,
    old: &mut Relay,
    serves: &Relay,
    n_devices: usize,
) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut asking = JoinSet::new();
    asking.spawn(ask_steadily(callers.to_vec(), Arc::clone(&stop)));
    // They begin before the end is ordered, while it is under way, and outlast the move of their desktop.
    let script = Script::tokens(150, 10.0);
    let mut running = JoinSet::new();
    let broken = Arc::new(AtomicUsize::new(0));
    for number in 0..n_streams {
        let (caller, script, broken) =
            (callers[number % callers.len()].clone(), script.clone(), Arc::clone(&broken));
        running.spawn(async move {
            tokio::time::sleep(Duration::from_millis(6_000 * number as u64 / n_streams as u64)).await;
            let whole = async {
                let reply = streams::open(&caller, Api::OpenAiChat, &script).await?;
                streams::exact(reply, Api::OpenAiChat, &script).await
            };
            let outcome = whole.await;
            broken.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
            outcome
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ordered = Instant::now();
    old.terminate();
    let moved = eventually("all desktops are at the next relay", Duration::from_secs(GRACE_S), async || {
        sessions(serves).await == Some(n_devices)
    });
    let moved = moved.await?;
    let mut first_break = None;
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended? {
            first_break.get_or_insert(error);
        }
    }
    let status = old.process().wait(Duration::from_secs(GRACE_S)).await?;
    let gone = ordered.elapsed();
    // The next one serves alone for a while.
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let Some(outcome) = asking.join_next().await else { return Ok(()) };
    let Outcome { took, faults } = outcome?;
    measured(
        "handed over to a second relay, behind HAProxy",
        format!(
            "{n_devices} desktops moved after {:.1} s, old relay gone after {:.1} s; {} of {} requests failed ({took}); {} of \
             {n_streams} streams broke",
            moved.as_secs_f64(),
            gone.as_secs_f64(),
            faults.len(),
            took.len() as usize + faults.len(),
            broken.load(Ordering::Relaxed),
        ),
    );
    ensure!(faults.is_empty(), "{} requests failed; the first: {}", faults.len(), faults[0]);
    if let Some(error) = first_break {
        return Err(error.context("a stream broke"));
    }
    ensure!(status.success(), "the old relay ended with {status}");
    Ok(())
}

async fn sessions(relay: &Relay) -> Option<usize> {
    let metrics = relay.metrics().await.ok()?;
    metrics.lines().find_map(|line| line.strip_prefix("tunnel_relay_sessions ")?.parse().ok())
}

#[test]
fn a_relay_hands_over_to_the_next_and_loses_nothing() -> Result<()> {
    scenario(async |lab| {
        let (n, n_streams) = (soak_count(4, 50), soak_count(8, 50));
        let Some(mut world) = World::start(lab, n).await? else { return Ok(()) };
        let [first, second] = &mut world.relays;
        hand_over(&world.callers, n_streams, first, second, n).await?;
        if soak() {
            // And back: neither is the preferred one.
            first.restart().await?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            hand_over(&world.callers, n_streams, second, first, n).await?;
        }
        for daemon in &world.daemons {
            daemon.wait_for_tunnel("connected", Duration::from_secs(2)).await?;
        }
        drop(world.balancer);
        Ok(())
    })
}
