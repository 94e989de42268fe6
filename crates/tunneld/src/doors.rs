//! The listeners: control socket, control port, gateway port, the gateway for other machines, and who stands at each.

pub(crate) mod accept;
mod address;
mod bind;
mod head_timer;
pub(crate) mod heartbeat;
pub(crate) mod inherited;
mod lan;
mod lan_tls;
mod owner;
pub(crate) mod peer;
pub(crate) mod socket;
mod stuck;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tunnel_api::{Config, Severity, Warning, warning};
use tunnel_runtime::CriticalTasks;

pub use self::bind::BindError;
pub(crate) use self::lan::Introduction;
use crate::api::ControlDoor;
use crate::gateway::Gateway;
use crate::guard::Guards;
use crate::warnings::Condition;
use accept::Ends;
use heartbeat::{LanPlace, Places};
use inherited::Inherited;
use lan::Crowd;
use lan_tls::{LanTls, Speaks};
use stuck::Stuck;

/// One of the TCP doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The control API on `apiServerPort`.
    Control,
    /// The LLM data plane on `gatewayPort`.
    Gateway,
    /// The LLM data plane for other machines, on `lanGateway.port`.
    Lan,
}

impl Door {
    /// All of them.
    const ALL: [Self; 3] = [Self::Control, Self::Gateway, Self::Lan];

    /// The config key that moves this door.
    pub fn key(self) -> &'static str {
        match self {
            Self::Control => "apiServerPort",
            Self::Gateway => "gatewayPort",
            Self::Lan => "lanGateway.port",
        }
    }

    /// The config key that opens and closes it.
    fn switch(self) -> &'static str {
        match self {
            Self::Control => "enableApiServer",
            Self::Gateway => "enableGateway",
            Self::Lan => "lanGateway.enabled",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Control => "control port",
            Self::Gateway => "gateway port",
            Self::Lan => "LAN gateway",
        }
    }

    /// Its place, and whether it is to be open.
    fn wanted(self, config: &Config) -> (Place, bool) {
        let loopback = |port: std::num::NonZeroU16| Place { address: None, port: port.get() };
        match self {
            Self::Control => (loopback(config.api_server_port), config.enable_api_server),
            Self::Gateway => (loopback(config.gateway_port), config.enable_gateway),
            Self::Lan => {
                let lan = &config.lan_gateway;
                (Place { address: Some(lan.address), port: lan.port.get() }, lan.enabled)
            }
        }
    }
}

/// Where a door is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// None: loopback, of IPv4 and IPv6.
    address: Option<IpAddr>,
    port: u16,
}

/// Ports that are bound, before anybody serves them: what can fail at the start.
#[derive(Debug)]
pub(crate) struct Bound {
    control: Listening,
    gateway: Listening,
}

/// The listeners of one door.
#[derive(Debug)]
struct Listening {
    place: Place,
    listeners: Vec<TcpListener>,
    /// They belong to the service manager: closing them here would leave callers waiting there.
    inherited: bool,
    /// The door is switched on. Inherited listeners are kept when it is not.
    open: bool,
}

impl Bound {
    /// Takes over the inherited sockets and binds what is missing.
    pub(crate) fn open(config: &Config, inherited: &mut Inherited) -> Result<Self, BindError> {
        let control = std::mem::take(&mut inherited.control);
        let gateway = std::mem::take(&mut inherited.gateway);
        Ok(Self {
            control: Listening::open(Door::Control, config, control)?,
            gateway: Listening::open(Door::Gateway, config, gateway)?,
        })
    }
}

impl Listening {
    fn open(door: Door, config: &Config, held: Vec<TcpListener>) -> Result<Self, BindError> {
        let (place, open) = door.wanted(config);
        let inherited = !held.is_empty();
        let mut listeners = held;
        if open {
            let bound = bind::bind(door, place, &listeners).map_err(BindError::with_owner)?;
            listeners.extend(bound);
        }
        Ok(Self { place, listeners, inherited, open })
    }
}

/// What stands behind the doors. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Rooms {
    pub(crate) control: ControlDoor,
    pub(crate) gateway: Gateway,
    pub(crate) guards: Arc<Guards>,
}

/// The one owner of the TCP doors: opens, moves and closes them while the daemon runs.
///
/// Connections of a door that moves or closes finish the request that they are at.
#[derive(Debug)]
pub(crate) struct Doors {
    rooms: Rooms,
    tasks: CriticalTasks,
    ends: Ends,
    /// Locked for moments, by whoever applies a configuration.
    state: Mutex<State>,
    /// What the network is spoken to in.
    lan_tls: Arc<LanTls>,
    /// Who is connected from there; connections outlast the listener that they came through.
    crowd: Crowd,
    places: watch::Sender<Places>,
    /// Locked for as long as a configuration is applied: one at a time.
    stuck: tokio::sync::Mutex<Stuck>,
}

#[derive(Debug)]
struct State {
    control: Standing,
    gateway: Standing,
    lan: Standing,
}

/// How one door is.
#[derive(Debug)]
enum Standing {
    /// Accept loops run; they end with `dismissed`.
    Open {
        place: Place,
        addresses: Vec<SocketAddr>,
        inherited: bool,
        dismissed: CancellationToken,
        /// That of the door to the network, while somebody accepts.
        listener: Weak<TcpListener>,
    },
    /// Nobody accepts; `spare` are the service manager's sockets for this door.
    Closed { place: Place, spare: Vec<TcpListener> },
}

/// What came of applying a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Keys that the service manager's sockets, or two doors that want each other's place, keep from taking effect.
    pub(crate) restart_required: Vec<String>,
    /// Doors that could not be moved, and why.
    pub(crate) conditions: Vec<Condition>,
}

impl Doors {
    /// Begins to accept. `ends` is what the connections of all doors heed; `places` starts without ports.
    pub(crate) fn serve(
        bound: Bound,
        rooms: Rooms,
        tasks: CriticalTasks,
        ends: Ends,
        places: watch::Sender<Places>,
    ) -> Self {
        let Bound { control, gateway } = bound;
        let nowhere = |place: Place| Standing::Closed { place, spare: Vec::new() };
        let state = State {
            control: nowhere(control.place),
            gateway: nowhere(gateway.place),
            // Opened when the configuration is first applied: that it cannot be is no reason not to start.
            lan: nowhere(Place { address: None, port: 0 }),
        };
        let doors = Self {
            rooms,
            tasks,
            ends,
            state: Mutex::new(state),
            lan_tls: Arc::default(),
            crowd: Crowd::default(),
            places,
            stuck: tokio::sync::Mutex::default(),
        };
        let mut state = doors.lock();
        state.control = doors.stand(Door::Control, control);
        state.gateway = doors.stand(Door::Gateway, gateway);
        doors.tell_places(&state, &[]);
        drop(state);
        doors
    }

    /// Brings the doors and their guards in step with `config`.
    ///
    /// A door that moves is open at its new place before it closes at the old one; if it cannot be opened there,
    /// it stays. Never blocks: binding on loopback is a matter of microseconds, and who is in the way is looked for
    /// elsewhere.
    pub(crate) async fn apply(&self, config: &Config) -> Applied {
        let mut stuck = self.stuck.lock().await;
        let speaks = self.lan_tls.speaks();
        let fault = self.lan_tls.refresh(&config.lan_gateway).await;
        if !self.lan_tls.speaks_like(&speaks) {
            self.greet_the_network_anew();
        }
        let before = self.lock().lan.listener();
        let (restart_required, failed) = self.step_all(config);
        self.wait_until_closed(before).await;
        let mut conditions = stuck.update(failed).await;
        conditions.extend(fault.map(|fault| self.without_certificate(&fault)));
        Applied { restart_required, conditions }
    }

    /// Waits until the loop of a listener to the network that was dismissed has closed it: the next one could not be bound
    /// beside it.
    async fn wait_until_closed(&self, before: Weak<TcpListener>) {
        /// The loop needs one turn.
        const LIMIT: Duration = Duration::from_secs(1);
        if before.ptr_eq(&self.lock().lan.listener()) {
            return;
        }
        let closed = async {
            while before.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(LIMIT, closed).await.is_err() {
            warn!("the listener of a LAN gateway that has moved is still open");
        }
    }

    /// Dismisses who came in before TLS was switched on or off: their connections would stay as they are.
    fn greet_the_network_anew(&self) {
        let mut state = self.lock();
        if let Standing::Open { dismissed, listener, .. } = &mut state.lan
            && let Some(open) = listener.upgrade()
        {
            dismissed.cancel();
            *dismissed = self.ends.soft.child_token();
            self.accept_the_network(open, dismissed);
        }
    }

    fn without_certificate(&self, fault: &str) -> Condition {
        let so =
            if self.lan_tls.is_ready() { "the one before stays in force" } else { "the door stays closed" };
        let message = format!("the LAN gateway cannot take its certificate, so {so}: {fault}");
        let next_step =
            "mend the files of lanGateway.certFile and lanGateway.keyFile; they are read anew by themselves";
        Condition::new(
            Warning::new(warning::LAN_GATEWAY_TLS, message, next_step).with_severity(Severity::Error),
        )
    }

    /// Returns the keys that need a restart, and the doors that could not be opened.
    fn step_all(&self, config: &Config) -> (Vec<String>, Vec<(Door, BindError)>) {
        let (mut restart_required, mut failed) = (Vec::new(), Vec::new());
        let mut state = self.lock();
        let own_ways = Door::ALL.map(|door| state.is_in_own_way(door, config));
        for (door, in_own_way) in Door::ALL.into_iter().zip(own_ways) {
            if in_own_way {
                // The place is free once the other door has left it: the next look sees that, unless both wait so.
                restart_required.push(door.key().to_owned());
                continue;
            }
            if let Err(error) = self.step(door, config, state.of_mut(door), &mut restart_required) {
                failed.push((door, error));
            }
        }
        let (control, gateway) = (state.control.place().port, state.gateway.place().port);
        let lan_hosts = &config.lan_gateway.allowed_hosts;
        self.rooms.guards.replace(control, gateway, &config.allowed_origins, lan_hosts);
        self.tell_places(&state, lan_hosts);
        (restart_required, failed)
    }

    fn step(
        &self,
        door: Door,
        config: &Config,
        standing: &mut Standing,
        restart_required: &mut Vec<String>,
    ) -> Result<(), BindError> {
        let (place, open) = door.wanted(config);
        let port = place.port;
        let open = open && (door != Door::Lan || self.lan_tls.is_ready());
        match standing {
            Standing::Open { place: current, .. } if open && *current == place => {}
            Standing::Open { place: current, inherited: true, .. } => {
                if !open {
                    restart_required.push(door.switch().to_owned());
                }
                if *current != place {
                    restart_required.push(door.key().to_owned());
                }
            }
            Standing::Open { place: current, dismissed, listener, .. } => {
                let dismissed = dismissed.clone();
                let beside = listener.upgrade().filter(|_| current.port == port);
                *standing = if open {
                    let listeners = match (beside, place.address) {
                        (Some(beside), Some(address)) => {
                            vec![bind::bind_beside(door, SocketAddr::new(address, port), &beside)?]
                        }
                        _ => bind::bind(door, place, &[])?,
                    };
                    info!(door = door.name(), port, "the door has moved");
                    self.stand(door, Listening { place, listeners, inherited: false, open })
                } else {
                    info!(door = door.name(), "the door is closed");
                    Standing::Closed { place, spare: Vec::new() }
                };
                dismissed.cancel();
            }
            Standing::Closed { place: current, spare } if open => {
                let kept = *current == place;
                let bound = bind::bind(door, place, if kept { spare } else { &[] })?;
                // Only now: a door that cannot be opened needs its spare listeners the next time.
                let mut listeners = if kept { std::mem::take(spare) } else { Vec::new() };
                let inherited = !listeners.is_empty();
                listeners.extend(bound);
                info!(door = door.name(), port, "the door is open");
                *standing = self.stand(door, Listening { place, listeners, inherited, open });
            }
            Standing::Closed { place: current, spare } => {
                if *current != place {
                    *current = place;
                    spare.clear();
                }
            }
        }
        Ok(())
    }

    /// Starts the accept loops of a door.
    fn stand(&self, door: Door, listening: Listening) -> Standing {
        let Listening { place, listeners, inherited, open } = listening;
        if !open {
            return Standing::Closed { place, spare: listeners };
        }
        let dismissed = self.ends.soft.child_token();
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let mut to_network = Weak::new();
        for listener in listeners {
            let ends = Ends { soft: dismissed.clone(), ..self.ends.clone() };
            match door {
                Door::Control => {
                    let accepting = accept::tcp(listener, self.rooms.control.clone(), ends);
                    self.tasks.spawn(door.name(), dismissed.clone(), accepting);
                }
                Door::Gateway => {
                    let accepting = accept::tcp(listener, self.rooms.gateway.clone(), ends);
                    self.tasks.spawn(door.name(), dismissed.clone(), accepting);
                }
                Door::Lan => {
                    let listener = Arc::new(listener);
                    to_network = Arc::downgrade(&listener);
                    self.accept_the_network(listener, &dismissed);
                }
            }
        }
        Standing::Open { place, addresses, inherited, dismissed, listener: to_network }
    }

    fn accept_the_network(&self, listener: Arc<TcpListener>, dismissed: &CancellationToken) {
        let ends = Ends { soft: dismissed.clone(), ..self.ends.clone() };
        let (gateway, tls) = (self.rooms.gateway.clone(), Arc::clone(&self.lan_tls));
        let accepting = lan::serve(listener, gateway, tls, self.crowd.clone(), ends);
        self.tasks.spawn(Door::Lan.name(), dismissed.clone(), accepting);
    }

    /// Told at each look at the configuration, twice a minute: the network may have given this machine another address.
    fn tell_places(&self, state: &State, lan_hosts: &[String]) {
        self.places.send_modify(|places| {
            places.control = state.control.addresses();
            places.gateway = state.gateway.addresses();
            let tls = matches!(self.lan_tls.speaks(), Speaks::Tls(_));
            places.lan = state.lan.addresses().first().map(|&address| {
                let at = address::of_this_machine(address);
                let name = self.lan_tls.name_of(lan_hosts, at.ip()).filter(|_| tls);
                let shown = name.map_or_else(|| at.to_string(), |name| format!("{name}:{}", at.port()));
                LanPlace { address, shown, tls }
            });
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before the next call that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells whether `door` wants to go where another one still stands that is to leave.
    fn is_in_own_way(&self, door: Door, config: &Config) -> bool {
        let (place, open) = door.wanted(config);
        let stands_there =
            matches!(self.of(door), Standing::Open { place: current, .. } if *current == place);
        let leaves = |other: Door| {
            let (other_place, other_open) = other.wanted(config);
            matches!(self.of(other), Standing::Open { place: taken, .. } if taken.port == place.port)
                && !(other_open && other_place.port == place.port)
        };
        open && !stands_there && Door::ALL.into_iter().any(|other| other != door && leaves(other))
    }

    fn of(&self, door: Door) -> &Standing {
        match door {
            Door::Control => &self.control,
            Door::Gateway => &self.gateway,
            Door::Lan => &self.lan,
        }
    }

    fn of_mut(&mut self, door: Door) -> &mut Standing {
        match door {
            Door::Control => &mut self.control,
            Door::Gateway => &mut self.gateway,
            Door::Lan => &mut self.lan,
        }
    }
}

impl Standing {
    fn place(&self) -> Place {
        match self {
            Self::Open { place, .. } | Self::Closed { place, .. } => *place,
        }
    }

    /// Never alive but for an open door to the network.
    fn listener(&self) -> Weak<TcpListener> {
        match self {
            Self::Open { listener, .. } => Weak::clone(listener),
            Self::Closed { .. } => Weak::new(),
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Open { addresses, .. } => addresses.clone(),
            Self::Closed { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
