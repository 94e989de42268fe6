//! The daemon: opens the doors, starts the parts, joins them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};
use tunnel_api::tunnel::Target;
use tunnel_api::{Status, Warning};
use tunnel_broker::{BackendState, Broker};
use tunnel_runtime::systemd::InheritedSockets;
use tunnel_runtime::telemetry::LogPlace;
use tunnel_runtime::{Lifecycle, LogLevel};

use crate::alerts::{ConnectionFigures, Figures};
use crate::api::ws::Clients;
use crate::api::{self, Api, ControlDoor, Entrance};
use crate::boot::Boot;
use crate::config::{ConfigHandle, ConfigState, Loaded, Options, TokenSink};
use crate::detect::{Detector, usual_ports};
use crate::diagnosis::{Examiner, Subjects};
use crate::doors::accept::{self, Ends};
use crate::doors::heartbeat::{Heartbeat, Places};
use crate::doors::inherited::Inherited;
use crate::doors::socket::{ControlSocket, SocketError, SocketFile};
use crate::doors::{BindError, Bound, Doors, Rooms};
use crate::gateway::Gateway;
use crate::guard::Guards;
use crate::keys::Keys;
use crate::notify::{LeftToClients, Notifier};
use crate::plugins::Backends;
use crate::reload::{Consumers, Reloader};
use crate::resources::{ResourceMeter, SharedReading};
use crate::secrets::{self, Credentials, SessionBus, TokenHandle, Vault};
use crate::status::{Sources, StatusHub};
use crate::store::{BootId, Opened, RecorderHandle, Store, target_at_start};
use crate::surroundings::{open_socket, socket_places, state_dir};
use crate::warnings::{Condition, Listener, Reports, Transition};
use crate::{alerts, chronicle, login, notify, page, plugins, scribe, tunnel, unit_status, world};

/// A daemon that runs. It ends with the [`Lifecycle`] that it was started on.
#[derive(Debug)]
pub struct Daemon {
    places: watch::Receiver<Places>,
    _socket: Option<SocketFile>,
    status: watch::Receiver<Arc<Status>>,
    stop_scribe: CancellationToken,
    scribes: JoinSet<()>,
    /// Before the recorders: it says that they may end.
    stop_recorder: DropGuard,
    recorders: JoinSet<()>,
    /// Kept to the end: a recorder that nobody can tell anything any more ends by itself.
    _record: RecorderHandle,
}

/// What a daemon gets from its process.
#[derive(Debug, Default)]
pub struct Deps {
    /// Changed when the configuration is reloaded.
    pub log_level: Option<LogLevel>,
    /// None where the log is not ours, as in a test.
    pub log_place: Option<LogPlace>,
    /// What the service manager listens on.
    pub sockets: InheritedSockets,
}

/// An answer to whether the daemon serves.
pub type Beat = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Another daemon of this user runs already.
    #[error(transparent)]
    AlreadyRunning(SocketError),
}

impl StartError {
    /// The exit code: 9 where another program is in the way.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Bind(BindError::Taken { .. }) | Self::AlreadyRunning(_) => 9,
            Self::Bind(BindError::Forbidden { .. } | BindError::Other { .. }) => 1,
        }
    }
}

impl Daemon {
    /// Opens the doors and starts all parts on `lifecycle`. Nothing is left behind if it fails.
    pub async fn start(
        options: Options,
        loaded: Loaded,
        lifecycle: &Lifecycle,
        deps: Deps,
    ) -> Result<Self, StartError> {
        let Deps { log_level, log_place, sockets } = deps;
        let (started, started_at) = (Instant::now(), Timestamp::now());
        let (tracker, soft, critical) = (lifecycle.tracker(), lifecycle.soft(), lifecycle.critical_tasks());
        let config = &loaded.config;
        let mut missing = Vec::new();
        let state_dir = state_dir(&options, &mut missing);
        let places = socket_places(&options, state_dir.as_deref(), &mut missing);
        let mut inherited = Inherited::sort(sockets, config, &places);
        let socket = open_socket(places, inherited.socket.take(), &mut missing)?;
        let bound = Bound::open(config, &mut inherited)?;
        missing.append(&mut inherited.warnings);
        for name in &loaded.unknown_variables {
            warn!(variable = name, "environment variable is no configuration key, ignored");
        }
        if let Some(name) = loaded.unusable_variable {
            warn!(
                variable = name,
                "environment variable names a proxy of a kind that cannot be used, ignored"
            );
        }
        let Opened { store, recorder, handle: record, found, warnings } =
            Store::open(state_dir.as_deref(), started_at).await;
        missing.extend(warnings);

        let (control_port, gateway_port) = (config.api_server_port.get(), config.gateway_port.get());
        let guards = Arc::new(Guards::new(
            control_port,
            gateway_port,
            &config.allowed_origins,
            &config.lan_gateway.allowed_hosts,
        ));
        let secret_places = secrets::Places::of(&options, state_dir.clone());
        let vault = Vault::start(secret_places.clone(), soft.clone(), &critical);
        let mut equipped = loaded.broker.clone();
        vault.equip(config, &mut equipped);
        let broker = Broker::start(equipped.clone(), tracker, soft.clone());
        let backends = Backends::new(broker.clone(), equipped);
        let (settings, settings_reader) = watch::channel(Arc::new(loaded.tunnel.clone()));
        let (state, state_reader) = watch::channel(Arc::new(loaded.state(Vec::new())));
        let token = secrets::start(secret_places, settings.subscribe(), soft.clone(), &critical);
        let wanted =
            target_at_start(found.target.as_ref(), BootId::read().as_ref(), config.auto_start_tunnel);
        let keys = Keys::new(
            found.keys,
            settings.subscribe(),
            token.clone(),
            record.clone(),
            broker.clone(),
            tracker.clone(),
        );
        tracker.spawn(keys.clone().keep(soft.clone()));
        let tunnel = tunnel::start(
            tunnel::Deps {
                settings: settings_reader,
                wanted: wanted == Target::Up,
                token: token.clone(),
                broker: broker.clone(),
                ring: keys.ring(),
                record: record.clone(),
                wakes: world::listen(options.var("DBUS_SYSTEM_BUS_ADDRESS"), tracker, &soft),
                soft: soft.clone(),
                hard: lifecycle.hard(),
            },
            &critical,
        );
        let login =
            login::start(settings.subscribe(), token.clone(), record.clone(), soft.clone(), &critical);
        let reports = Reports::new();
        let (notifications, for_notifier) = Listener::with_room(notify::ROOM);
        let (events, for_chronicle) = Listener::with_room(chronicle::ROOM);
        let (placing, places) = watch::channel(Places::default());
        let (hub, status) = StatusHub::new(Sources {
            backends: broker.status(),
            tunnel: tunnel.reports(),
            config: state_reader.clone(),
            places: places.clone(),
            said: reports.follow(),
            missing,
            former: found.warnings,
            listeners: vec![notifications, events],
            soft: soft.clone(),
        });
        lifecycle.spawn_critical("status", hub.run());
        let left_to_clients = LeftToClients::default();
        let watchers = Watchers {
            options: &options,
            lifecycle,
            status: &status,
            config: &state_reader,
            broker: &broker,
            reports: &reports,
            record: &record,
            left_to_clients: &left_to_clients,
        };
        watchers.start(for_notifier, for_chronicle);
        tracker.spawn(plugins::keep(plugins::Deps {
            config: state_reader.clone(),
            place: plugins::Place::of(&options),
            launcher: plugins::Launcher::of(&options),
            broker: broker.clone(),
            backends: backends.clone(),
            reports: reports.clone(),
            tracker: tracker.clone(),
            soft: soft.clone(),
            hard: lifecycle.hard(),
        }));
        tracker.spawn(report(store.health(), "state", reports.clone(), soft.clone()));
        tracker.spawn(report(token.warnings(), "secrets", reports.clone(), soft.clone()));
        let (stop_scribe, mut scribes) = (CancellationToken::new(), JoinSet::new());
        if let Some(finished) = broker.records(scribe::ROOM) {
            scribes.spawn(scribe::carry(finished, record.clone(), stop_scribe.clone()));
        }
        let stop_recorder = CancellationToken::new();
        let mut recorders = JoinSet::new();
        // Outlives all that it hears from, so it is none of the lifecycle's own.
        let recording = recorder.run(stop_recorder.clone());
        recorders.spawn(critical.guarded("recorder", stop_recorder.clone(), recording));

        let options = Arc::new(options);
        let (config, orders) =
            ConfigHandle::new(Arc::clone(&options), state_reader, token_sink(token.clone()));
        let resources = SharedReading::default();
        let examiner = Examiner::new(Subjects {
            status: status.clone(),
            config: config.follow(),
            settings: settings.subscribe(),
            broker: broker.clone(),
            tunnel: tunnel.clone(),
            token: token.clone(),
            state_dir,
        });
        let ring = keys.ring();
        let router = api::router(Api {
            status: status.clone(),
            config,
            tunnel,
            relay: settings.subscribe(),
            token,
            vault: vault.clone(),
            login,
            keys,
            broker: broker.clone(),
            guards: Arc::clone(&guards),
            page: Arc::new(page::registry(&broker, status.clone(), store.clone(), resources.clone())),
            store,
            recorder: record.clone(),
            resources,
            last_answer: Arc::default(),
            clients: Clients::new(left_to_clients.clone()),
            detector: Detector::new(usual_ports()),
            examiner,
            log_level: log_level.clone(),
            log_place,
            started,
            started_at,
            tracker: tracker.clone(),
            stopping: soft.clone(),
            hard: lifecycle.hard(),
        });
        let ends = Ends { soft: soft.clone(), hard: lifecycle.hard(), tracker: tracker.clone() };
        let socket = socket.map(|ControlSocket { listener, file }| {
            let door = ControlDoor::new(router.clone(), Entrance::Socket);
            lifecycle.spawn_critical("control socket", accept::unix(listener, door, ends.clone()));
            placing.send_modify(|places| places.socket = Some(file.path().to_owned()));
            file
        });
        let rooms = Rooms {
            control: ControlDoor::new(router, Entrance::Port),
            gateway: Gateway::new(broker.clone(), Arc::clone(&guards), ring, record.clone()),
            guards,
        };
        let doors = Some(Doors::serve(bound, rooms, critical, ends, placing));
        let consumers = Consumers { doors, reports, backends, vault, settings, log_level };
        let reloader = Reloader { options, consumers, state, orders };
        lifecycle.spawn_critical("reloader", reloader.run(lifecycle.hangups(), soft));
        let stop_recorder = stop_recorder.drop_guard();
        let daemon = Self {
            places,
            _socket: socket,
            status,
            stop_scribe,
            scribes,
            stop_recorder,
            recorders,
            _record: record,
        };
        daemon.announce();
        Ok(daemon)
    }

    /// The addresses of the control port; empty when it is switched off.
    pub fn control(&self) -> Vec<SocketAddr> {
        self.places.borrow().control.clone()
    }

    /// The addresses of the gateway; empty when it is switched off.
    pub fn gateway(&self) -> Vec<SocketAddr> {
        self.places.borrow().gateway.clone()
    }

    /// Where the control socket is; `None` where there was no place for it.
    pub fn socket(&self) -> Option<PathBuf> {
        self.places.borrow().socket.clone()
    }

    /// Returns what tells whether the daemon serves, for [`Lifecycle::run_while`].
    pub fn heartbeat(&self) -> impl Fn() -> Beat + Send + use<> {
        let heartbeat = Heartbeat::new(self.places.clone());
        move || Box::pin(heartbeat.clone().beats())
    }

    /// Writes down what was counted last. To be called when all else has ended; takes 2 seconds at most.
    ///
    /// A daemon that is dropped without it loses what was counted in its last moment.
    pub async fn finish(mut self) {
        self.stop_scribe.cancel();
        while self.scribes.join_next().await.is_some() {}
        drop(self.stop_recorder);
        while self.recorders.join_next().await.is_some() {}
    }

    /// Follows the status.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    fn announce(&self) {
        let list = |addresses: &[SocketAddr]| {
            addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" ")
        };
        info!(
            version = env!("CARGO_PKG_VERSION"),
            gateway = list(&self.gateway()),
            control = list(&self.control()),
            socket = self.socket().map(|path| path.display().to_string()),
            "listening"
        );
    }
}

/// The tasks that only look: at the status, the configuration, the broker.
struct Watchers<'a> {
    options: &'a Options,
    lifecycle: &'a Lifecycle,
    status: &'a watch::Receiver<Arc<Status>>,
    config: &'a watch::Receiver<Arc<ConfigState>>,
    broker: &'a Broker,
    reports: &'a Reports,
    record: &'a RecorderHandle,
    left_to_clients: &'a LeftToClients,
}

impl Watchers<'_> {
    fn start(&self, for_notifier: mpsc::Receiver<Transition>, for_chronicle: mpsc::Receiver<Transition>) {
        let Self { options, lifecycle, status, config, broker, reports, record, left_to_clients } = *self;
        let tracker = lifecycle.tracker();
        let notifier = Notifier {
            arriving: for_notifier,
            status: status.clone(),
            config: config.clone(),
            bus: SessionBus::of(options),
            left_to_clients: left_to_clients.clone(),
            soft: lifecycle.soft(),
        };
        tracker.spawn(notifier.run());
        tracker.spawn(unit_status::follow(status.clone(), lifecycle.soft()));
        tracker.spawn(chronicle::keep(status.clone(), for_chronicle, record.clone(), lifecycle.soft()));
        let figures = figures(broker.clone());
        tracker.spawn(alerts::watch(figures, config.clone(), reports.clone(), lifecycle.soft()));
        tracker.spawn(Boot::new(options, config.clone(), reports.clone()).run(lifecycle.soft()));
    }
}

/// Shows in the status what a part says is wrong with it, until `soft` ends.
async fn report<W>(
    mut wrong: watch::Receiver<W>,
    part: &'static str,
    reports: Reports,
    soft: CancellationToken,
) where
    W: Clone + IntoIterator<Item = Warning> + Send + Sync + 'static,
{
    loop {
        let now = wrong.borrow_and_update().clone();
        reports.set(part, told_apart(now));
        tokio::select! {
            changed = wrong.changed() => if changed.is_err() { return },
            () = soft.cancelled() => return,
        }
    }
}

/// Makes several warnings of one code, such as two files that cannot be read, conditions of their own.
fn told_apart(warnings: impl IntoIterator<Item = Warning>) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = Vec::new();
    for warning in warnings {
        let earlier = conditions.iter().filter(|other| other.warning.code == warning.code).count();
        // A part says them in a steady order.
        let subject = if earlier == 0 { String::new() } else { (earlier + 1).to_string() };
        conditions.push(Condition::of(subject, warning));
    }
    conditions
}

/// Stores a token that came with an imported file.
fn token_sink(token: TokenHandle) -> TokenSink {
    TokenSink::new(move |relay, text| {
        let token = token.clone();
        async move {
            let text = secrets::parse_token(text).ok_or(secrets::ChangeError::NotAToken)?;
            let login = Credentials::bare(text, Timestamp::now().as_second());
            token.set_for(&relay, login).await.map(drop)
        }
    })
}

/// Returns what the alerts are judged by.
fn figures(broker: Broker) -> impl FnMut() -> Figures + Send {
    let mut meter = ResourceMeter::default();
    move || {
        let measured = broker.metrics();
        let failures_in_a_row = |id: &str| {
            let connection = measured.connections.iter().find(|connection| *connection.id == *id);
            connection.map_or(0, |connection| connection.consecutive_failures)
        };
        let connections = broker.snapshot().into_iter().map(|backend| ConnectionFigures {
            latency: backend.latency.filter(|_| backend.state == BackendState::Connected),
            error_rate: Some(backend.error_rate),
            failures_in_a_row: failures_in_a_row(&backend.id),
            id: backend.id,
        });
        Figures { connections: connections.collect(), memory_bytes: meter.read(Instant::now()).memory_bytes }
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_one_code_are_conditions_of_their_own() {
        let of = |code, message| Warning::new(code, message, "");
        let conditions = told_apart([of("file", "one"), of("other", "x"), of("file", "two")]);
        let told: Vec<_> =
            conditions.iter().map(|told| (told.subject.as_str(), told.warning.message.as_str())).collect();
        assert_eq!(told, [("", "one"), ("", "x"), ("2", "two")]);
    }
}
