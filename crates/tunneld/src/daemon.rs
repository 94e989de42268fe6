//! The daemon: opens the doors, starts the parts, joins them.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};
use tunnel_api::{Status, Warning, paths};
use tunnel_broker::Broker;
use tunnel_runtime::{Lifecycle, LogLevel};

use crate::api::{self, Api, ControlDoor, Entrance};
use crate::config::{Loaded, Options};
use crate::doors::accept::{self, Ends};
use crate::doors::socket::{ControlSocket, SocketError, SocketFile};
use crate::doors::{self, BindError, Door};
use crate::gateway::Gateway;
use crate::guard::Guards;
use crate::reload::Reloader;
use crate::status::{Sources, StatusHub};
use crate::tunnel::{self, TokenSource};
use crate::unit_status;

/// A daemon that runs. It ends with the [`Lifecycle`] that it was started on.
#[derive(Debug)]
pub struct Daemon {
    control: Vec<SocketAddr>,
    gateway: Vec<SocketAddr>,
    socket: Option<SocketFile>,
    status: watch::Receiver<Arc<Status>>,
}

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
    ///
    /// `log_level` is changed when the configuration is reloaded.
    pub fn start(
        options: Options,
        loaded: Loaded,
        lifecycle: &Lifecycle,
        log_level: Option<LogLevel>,
    ) -> Result<Self, StartError> {
        let started = Instant::now();
        let config = &loaded.config;
        let mut missing = Vec::new();
        let socket = open_socket(&options, &mut missing)?;
        let bind_if = |enabled: bool, door, port: std::num::NonZeroU16| {
            if enabled { doors::bind(door, port.get()) } else { Ok(Vec::new()) }
        };
        let control = bind_if(config.enable_api_server, Door::Control, config.api_server_port)?;
        let gateway = bind_if(config.enable_gateway, Door::Gateway, config.gateway_port)?;
        for name in &loaded.unknown_variables {
            warn!(variable = name, "environment variable is no configuration key, ignored");
        }

        let (control_port, gateway_port) = (config.api_server_port.get(), config.gateway_port.get());
        let guards = Arc::new(Guards::new(control_port, gateway_port, &config.allowed_origins));
        let broker = Broker::start(loaded.broker.clone(), lifecycle.tracker(), lifecycle.soft());
        let (settings, settings_reader) = watch::channel(Arc::new(loaded.tunnel.clone()));
        let (state, state_reader) = watch::channel(Arc::new(loaded.state(Vec::new())));
        let credentials = options.var("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let token = TokenSource::new(options.token_file.as_deref(), credentials.as_deref());
        let deps = tunnel::Deps {
            settings: settings_reader,
            token,
            broker: broker.clone(),
            soft: lifecycle.soft(),
            hard: lifecycle.hard(),
        };
        let tunnel = tunnel::start(deps, lifecycle.tracker());
        let (hub, status) = StatusHub::new(Sources {
            backends: broker.status(),
            tunnel: tunnel.reports(),
            config: state_reader,
            missing,
            soft: lifecycle.soft(),
        });
        lifecycle.tracker().spawn(hub.run());
        lifecycle.tracker().spawn(unit_status::follow(status.clone(), lifecycle.soft()));

        let api = Api {
            status: status.clone(),
            tunnel,
            broker: broker.clone(),
            guards: Arc::clone(&guards),
            started,
            stopping: lifecycle.soft(),
        };
        let router = api::router(api);
        let ends =
            Ends { soft: lifecycle.soft(), hard: lifecycle.hard(), tracker: lifecycle.tracker().clone() };
        let daemon = Self {
            control: addresses(&control),
            gateway: addresses(&gateway),
            socket: socket.map(|ControlSocket { listener, file }| {
                let door = ControlDoor::new(router.clone(), Entrance::Socket);
                lifecycle.spawn_critical("control socket", accept::unix(listener, door, ends.clone()));
                file
            }),
            status,
        };
        for listener in control {
            let door = ControlDoor::new(router.clone(), Entrance::Port);
            lifecycle.spawn_critical("control port", accept::tcp(listener, door, ends.clone()));
        }
        for listener in gateway {
            let door = Gateway::new(broker.clone(), Arc::clone(&guards));
            lifecycle.spawn_critical("gateway", accept::tcp(listener, door, ends.clone()));
        }
        let reloader =
            Reloader { options, running: loaded.config, broker, guards, settings, state, log_level };
        lifecycle.tracker().spawn(reloader.run(lifecycle.hangups(), lifecycle.soft()));
        daemon.announce();
        Ok(daemon)
    }

    /// The addresses of the control port; empty when it is switched off.
    pub fn control(&self) -> &[SocketAddr] {
        &self.control
    }

    /// The addresses of the gateway; empty when it is switched off.
    pub fn gateway(&self) -> &[SocketAddr] {
        &self.gateway
    }

    /// Where the control socket is; `None` where there was no place for it.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_ref().map(SocketFile::path)
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
            gateway = list(&self.gateway),
            control = list(&self.control),
            socket = self.socket().map(|path| path.display().to_string()),
            "listening"
        );
    }
}

fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

/// Finds a place for the control socket. Without one the control port is left; that is worth a warning.
fn open_socket(options: &Options, missing: &mut Vec<Warning>) -> Result<Option<ControlSocket>, StartError> {
    let state_dir = state_dir(options, missing);
    if options.var("XDG_RUNTIME_DIR").is_none() {
        tell(missing, "no_runtime_dir", "XDG_RUNTIME_DIR is not set", "set it, or use tunnelctl --url");
    }
    let uid = rustix::process::geteuid().as_raw();
    // The first is in the runtime directory; what follows there knows nothing of `--state-dir`.
    let in_runtime_dir = paths::api_sockets(|name| options.var(name), uid).into_iter().next();
    let mut places: Vec<PathBuf> = in_runtime_dir.into_iter().filter(|place| may_hold(place)).collect();
    places.extend(state_dir.map(|directory| directory.join("api.sock")));
    for place in places {
        match ControlSocket::bind(&place) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error @ SocketError::AlreadyRunning { .. }) => return Err(StartError::AlreadyRunning(error)),
            Err(error) => warn!(error = %chain(&error), "no control socket there"),
        }
    }
    tell(
        missing,
        "no_control_socket",
        "there is no directory for the control socket, the control port is the only way in",
        "set XDG_RUNTIME_DIR or --state-dir to a directory that this user can write",
    );
    Ok(None)
}

/// `/run/user/<uid>` is the login manager's to make; as root we would make it behind its back.
fn may_hold(place: &Path) -> bool {
    let runtime_dir = place.parent().and_then(Path::parent);
    !place.starts_with("/run/user") || runtime_dir.is_some_and(Path::is_dir)
}

/// Makes the state directory; `None` if there is none that can be written.
fn state_dir(options: &Options, missing: &mut Vec<Warning>) -> Option<PathBuf> {
    let directory = paths::state_dir(options.state_dir.as_deref(), |name| options.var(name));
    let next_step = "name one that this user can write: --state-dir DIR";
    let Some(directory) = directory else {
        tell(missing, "no_state_dir", "there is no home and no state directory, nothing is kept", next_step);
        return None;
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    let writable = made.and_then(|()| {
        let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(&directory, wanted).map_err(Into::into)
    });
    match writable {
        Ok(()) => Some(directory),
        Err(error) => {
            let message = format!(
                "the state directory {} cannot be written, nothing is kept: {error}",
                directory.display()
            );
            tell(missing, "no_state_dir", &message, next_step);
            None
        }
    }
}

/// Says once, in log and status, that something is missing that the daemon can do without.
fn tell(missing: &mut Vec<Warning>, code: &str, message: &str, next_step: &str) {
    warn!(code, "{message}");
    missing.push(Warning::new(code, message, next_step));
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
