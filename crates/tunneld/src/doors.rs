//! The listeners: control socket, control port, gateway port, and who stands at each.

pub(crate) mod accept;
mod bind;
mod head_timer;
pub(crate) mod heartbeat;
pub(crate) mod inherited;
mod owner;
pub(crate) mod peer;
pub(crate) mod socket;
mod stuck;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tunnel_api::Config;
use tunnel_runtime::CriticalTasks;

pub use self::bind::BindError;
use crate::api::ControlDoor;
use crate::gateway::Gateway;
use crate::guard::Guards;
use crate::warnings::Condition;
use accept::Ends;
use heartbeat::Places;
use inherited::Inherited;
use stuck::Stuck;

/// One of the two TCP doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The control API on `apiServerPort`.
    Control,
    /// The LLM data plane on `gatewayPort`.
    Gateway,
}

impl Door {
    /// Both of them.
    const ALL: [Self; 2] = [Self::Control, Self::Gateway];

    /// The config key that moves this door.
    pub fn key(self) -> &'static str {
        match self {
            Self::Control => "apiServerPort",
            Self::Gateway => "gatewayPort",
        }
    }

    /// The config key that opens and closes it.
    fn switch(self) -> &'static str {
        match self {
            Self::Control => "enableApiServer",
            Self::Gateway => "enableGateway",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Control => Self::Gateway,
            Self::Gateway => Self::Control,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Control => "control port",
            Self::Gateway => "gateway port",
        }
    }

    /// Its port, and whether it is to be open.
    fn wanted(self, config: &Config) -> (u16, bool) {
        match self {
            Self::Control => (config.api_server_port.get(), config.enable_api_server),
            Self::Gateway => (config.gateway_port.get(), config.enable_gateway),
        }
    }
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
    port: u16,
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
        let (port, open) = door.wanted(config);
        let inherited = !held.is_empty();
        let mut listeners = held;
        if open {
            let bound = bind::bind(door, port, &listeners).map_err(BindError::with_owner)?;
            listeners.extend(bound);
        }
        Ok(Self { port, listeners, inherited, open })
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
    places: watch::Sender<Places>,
    /// Locked for as long as a configuration is applied: one at a time.
    stuck: tokio::sync::Mutex<Stuck>,
}

#[derive(Debug)]
struct State {
    control: Standing,
    gateway: Standing,
}

/// How one door is.
#[derive(Debug)]
enum Standing {
    /// Accept loops run; they end with `dismissed`.
    Open { port: u16, addresses: Vec<SocketAddr>, inherited: bool, dismissed: CancellationToken },
    /// Nobody accepts; `spare` are the service manager's sockets for this door.
    Closed { port: u16, spare: Vec<TcpListener> },
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
        let nowhere = |listening: &Listening| Standing::Closed { port: listening.port, spare: Vec::new() };
        let state = State { control: nowhere(&control), gateway: nowhere(&gateway) };
        let doors = Self {
            rooms,
            tasks,
            ends,
            state: Mutex::new(state),
            places,
            stuck: tokio::sync::Mutex::default(),
        };
        let mut state = doors.lock();
        state.control = doors.stand(Door::Control, control);
        state.gateway = doors.stand(Door::Gateway, gateway);
        doors.tell_places(&state);
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
        let (restart_required, failed) = self.step_all(config);
        Applied { restart_required, conditions: stuck.update(failed).await }
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
            if let Err(error) = self.step(door, config, state.of(door), &mut restart_required) {
                failed.push((door, error));
            }
        }
        let (control, gateway) = (state.control.port(), state.gateway.port());
        self.rooms.guards.replace(control, gateway, &config.allowed_origins);
        self.tell_places(&state);
        (restart_required, failed)
    }

    fn step(
        &self,
        door: Door,
        config: &Config,
        standing: &mut Standing,
        restart_required: &mut Vec<String>,
    ) -> Result<(), BindError> {
        let (port, open) = door.wanted(config);
        match standing {
            Standing::Open { port: current, .. } if open && *current == port => {}
            Standing::Open { port: current, inherited: true, .. } => {
                if !open {
                    restart_required.push(door.switch().to_owned());
                }
                if *current != port {
                    restart_required.push(door.key().to_owned());
                }
            }
            Standing::Open { dismissed, .. } => {
                let dismissed = dismissed.clone();
                *standing = if open {
                    let listeners = bind::bind(door, port, &[])?;
                    info!(door = door.name(), port, "the door has moved");
                    self.stand(door, Listening { port, listeners, inherited: false, open })
                } else {
                    info!(door = door.name(), "the door is closed");
                    Standing::Closed { port, spare: Vec::new() }
                };
                dismissed.cancel();
            }
            Standing::Closed { port: current, spare } if open => {
                let kept = *current == port;
                let bound = bind::bind(door, port, if kept { spare } else { &[] })?;
                // Only now: a door that cannot be opened needs its spare listeners the next time.
                let mut listeners = if kept { std::mem::take(spare) } else { Vec::new() };
                let inherited = !listeners.is_empty();
                listeners.extend(bound);
                info!(door = door.name(), port, "the door is open");
                *standing = self.stand(door, Listening { port, listeners, inherited, open });
            }
            Standing::Closed { port: current, spare } => {
                if *current != port {
                    *current = port;
                    spare.clear();
                }
            }
        }
        Ok(())
    }

    /// Starts the accept loops of a door.
    fn stand(&self, door: Door, listening: Listening) -> Standing {
        let Listening { port, listeners, inherited, open } = listening;
        if !open {
            return Standing::Closed { port, spare: listeners };
        }
        let dismissed = self.ends.soft.child_token();
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
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
            }
        }
        Standing::Open { port, addresses, inherited, dismissed }
    }

    fn tell_places(&self, state: &State) {
        self.places.send_modify(|places| {
            places.control = state.control.addresses();
            places.gateway = state.gateway.addresses();
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before the next call that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells whether `door` wants to go where the other one still stands that is to leave.
    fn is_in_own_way(&self, door: Door, config: &Config) -> bool {
        let (mine, other) = match door {
            Door::Control => (&self.control, &self.gateway),
            Door::Gateway => (&self.gateway, &self.control),
        };
        let ((port, open), (other_port, other_open)) = (door.wanted(config), door.other().wanted(config));
        let stands_there = matches!(mine, Standing::Open { port: current, .. } if *current == port);
        open && !stands_there
            && matches!(other, Standing::Open { port: taken, .. } if *taken == port)
            && !(other_open && other_port == port)
    }

    fn of(&mut self, door: Door) -> &mut Standing {
        match door {
            Door::Control => &mut self.control,
            Door::Gateway => &mut self.gateway,
        }
    }
}

impl Standing {
    fn port(&self) -> u16 {
        match self {
            Self::Open { port, .. } | Self::Closed { port, .. } => *port,
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
