//! The notifier against a scripted notification service on a private bus.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use tunnel_api::warning::{CONFIG_INVALID, REPLACED, TOKEN_EXPIRED};
use tunnel_api::{Config, Severity, Tunnel, TunnelState, Warning};
use zbus::zvariant::OwnedValue;

use super::plan::Teller;
use super::*;
use crate::private_bus::PrivateBus;
use crate::warnings::{Listener, Turn};

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Call {
    app: String,
    replaces: u32,
    summary: String,
    body: String,
    urgency: u8,
}

#[derive(Clone, Default)]
struct Service {
    calls: Arc<Mutex<Vec<Call>>>,
}

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Service {
    #[expect(clippy::too_many_arguments, reason = "the specification's")]
    fn notify(
        &self,
        app_name: String,
        replaces_id: u32,
        _app_icon: String,
        summary: String,
        body: String,
        _actions: Vec<String>,
        hints: HashMap<String, OwnedValue>,
        _expire_timeout: i32,
    ) -> u32 {
        let urgency = u8::try_from(&hints["urgency"]).unwrap();
        let mut calls = self.calls.lock().unwrap();
        calls.push(Call { app: app_name, replaces: replaces_id, summary, body, urgency });
        if replaces_id == 0 { 40 + u32::try_from(calls.len()).unwrap() } else { replaces_id }
    }
}

impl Service {
    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    async fn serve(&self, bus: &PrivateBus) -> zbus::Connection {
        let builder = zbus::connection::Builder::address(bus.address()).unwrap();
        let builder = builder.serve_at("/org/freedesktop/Notifications", self.clone()).unwrap();
        builder.name("org.freedesktop.Notifications").unwrap().build().await.unwrap()
    }
}

struct Bench {
    listener: Listener,
    status: watch::Sender<Arc<Status>>,
    config: watch::Sender<Arc<ConfigState>>,
    left_to_clients: LeftToClients,
    soft: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
}

fn bench(bus: SessionBus) -> Bench {
    let (listener, arriving) = Listener::with_room(ROOM);
    let (status, status_reader) = watch::channel(Arc::default());
    let (config, config_reader) = watch::channel(Arc::new(ConfigState::defaults()));
    let soft = CancellationToken::new();
    let left_to_clients = LeftToClients::default();
    let notifier = Notifier {
        arriving,
        status: status_reader,
        config: config_reader,
        bus,
        left_to_clients: left_to_clients.clone(),
        soft: soft.clone(),
    };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(notifier.run());
    Bench { listener, status, config, left_to_clients, soft, tasks }
}

fn transition(turn: Turn, code: &str) -> Transition {
    let warning =
        Warning::new(code, "relay <b>& co</b> says no", "get a new one").with_severity(Severity::Error);
    Transition { turn, subject: String::new(), warning, at: Timestamp::UNIX_EPOCH }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.unwrap_or_else(|_| panic!("{what} did not come"));
}

#[tokio::test]
async fn refused_tunnel_and_its_return_are_one_notification() {
    let Some(bus) = PrivateBus::start() else { return };
    let service = Service::default();
    let _serving = service.serve(&bus).await;
    let bench = bench(SessionBus::at(bus.address()));
    bench.listener.tell(&transition(Turn::Raised, TOKEN_EXPIRED));
    eventually("a notification", || service.calls().len() == 1).await;
    let tunnel = Tunnel { state: TunnelState::Connected, ..Tunnel::default() };
    bench.status.send_replace(Arc::new(Status { tunnel, ..Status::default() }));
    bench.listener.tell(&transition(Turn::Cleared, TOKEN_EXPIRED));
    eventually("its end", || service.calls().len() == 2).await;

    let calls = service.calls();
    assert_eq!((calls[0].app.as_str(), calls[0].replaces, calls[0].urgency), ("tunneld", 0, 1));
    assert_eq!(calls[0].summary, "The tunnel is down");
    assert_eq!(calls[0].body, "relay &lt;b&gt;&amp; co&lt;/b&gt; says no\nget a new one");
    assert_eq!((calls[1].replaces, calls[1].summary.as_str()), (41, "The tunnel is back"));
    assert_eq!(calls[1].urgency, 0);
}

#[tokio::test]
async fn nothing_is_shown_while_notifications_are_switched_off() {
    let Some(bus) = PrivateBus::start() else { return };
    let service = Service::default();
    let _serving = service.serve(&bus).await;
    let bench = bench(SessionBus::at(bus.address()));
    let switch = |on| {
        bench.config.send_modify(|state| {
            let config = Config { show_notifications: on, ..Config::clone(&state.config) };
            *state = Arc::new(ConfigState { config: config.into(), ..ConfigState::clone(state) });
        });
    };
    switch(false);
    bench.listener.tell(&transition(Turn::Raised, "first"));
    eventually("the notifier's attention", || bench.listener.is_heard()).await;
    switch(true);
    bench.listener.tell(&transition(Turn::Raised, "second"));
    eventually("the second", || !service.calls().is_empty()).await;
    assert_eq!(service.calls().len(), 1);
}

#[tokio::test]
async fn what_a_client_has_taken_over_is_left_to_it_until_it_goes() {
    let Some(bus) = PrivateBus::start() else { return };
    let service = Service::default();
    let _serving = service.serve(&bus).await;
    let bench = bench(SessionBus::at(bus.address()));
    let taken = bench.left_to_clients.take();
    bench.listener.tell(&transition(Turn::Raised, TOKEN_EXPIRED));
    bench.listener.tell(&transition(Turn::Raised, CONFIG_INVALID));
    eventually("the one that is the daemon's", || service.calls().len() == 1).await;
    assert_eq!(service.calls()[0].summary, "The configuration has faults");
    drop(taken);
    bench.listener.tell(&transition(Turn::Raised, REPLACED));
    eventually("the first after the client has gone", || service.calls().len() == 2).await;
    assert_eq!(service.calls()[1].summary, "The tunnel is down");
}

#[tokio::test]
async fn desktop_without_a_service_or_without_a_bus_is_survived() {
    let Some(bus) = PrivateBus::start() else { return };
    let mut with_bus = bench(SessionBus::at(bus.address()));
    with_bus.listener.tell(&transition(Turn::Raised, "unheard"));
    eventually("the notifier's attention", || with_bus.listener.is_heard()).await;
    let service = Service::default();
    let _serving = service.serve(&bus).await;
    with_bus.listener.tell(&transition(Turn::Raised, "heard"));
    eventually("the one that found a service", || !service.calls().is_empty()).await;
    with_bus.soft.cancel();
    with_bus.tasks.join_next().await.unwrap().unwrap();

    let mut without = bench(SessionBus::none());
    without.listener.tell(&transition(Turn::Raised, "nobody sees it"));
    eventually("the notifier's attention", || without.listener.is_heard()).await;
    without.soft.cancel();
    without.tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn service_that_hangs_costs_three_seconds_and_nothing_else() {
    // Accepts and says nothing, as a bus that is stopped does.
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bus");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut plan = Plan::default();
    plan.hear(transition(Turn::Raised, "x"), &Status::default(), std::time::Instant::now());
    let note = plan.take(Teller::Daemon, std::time::Instant::now()).unwrap();
    let begun = Instant::now();
    let address = format!("unix:path={}", socket.display());
    let error = tokio::time::timeout(LIMIT, bus::notify(Some(&address), &note)).await.unwrap().unwrap_err();
    assert!(matches!(error, bus::NotifyError::Timeout), "{error:?}");
    assert!(begun.elapsed() >= Duration::from_millis(2900));
}
