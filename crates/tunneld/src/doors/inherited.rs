//! Sockets that the service manager passed, sorted by the door that they belong to.
//!
//! A socket is known by its address: a port equal to the configured one, the path of the control socket. The
//! manager's names for sockets are one a unit, so they would need a unit for each door and could contradict the
//! address, which cannot be mistaken.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tracing::warn;
use tunnel_api::{Config, Warning};
use tunnel_runtime::systemd::InheritedSockets;

/// A socket unit listens where no door is.
pub(crate) const SOCKET_UNUSED: &str = "socket_unused";

/// Passed sockets that have a door; all others are closed here and told.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(super) control: Vec<TcpListener>,
    pub(super) gateway: Vec<TcpListener>,
    /// The control socket and its path.
    pub(crate) socket: Option<(StdUnixListener, PathBuf)>,
    pub(crate) warnings: Vec<Warning>,
}

impl Inherited {
    /// Sorts `sockets` by `config`; `places` are the paths at which clients look for the control socket.
    ///
    /// A door that is switched off keeps its sockets, in case it is switched on.
    pub(crate) fn sort(sockets: InheritedSockets, config: &Config, places: &[PathBuf]) -> Self {
        let mut inherited = Self::default();
        for why in sockets.unusable {
            inherited.unused(&why);
        }
        for listener in sockets.tcp {
            inherited.sort_tcp(listener, config);
        }
        for listener in sockets.unix {
            inherited.sort_unix(listener, places);
        }
        inherited
    }

    fn sort_tcp(&mut self, listener: StdTcpListener, config: &Config) {
        let address = match listener.local_addr() {
            Ok(address) => address,
            Err(error) => {
                return self.unused(&format!("a socket of the socket unit has no address: {error}"));
            }
        };
        let listener = match ready(listener) {
            Ok(listener) => listener,
            Err(error) => {
                return self.unused(&format!("the socket unit's {address} cannot be served: {error}"));
            }
        };
        if !is_loopback(address) {
            return self.unused(&format!("the socket unit listens on {address}, which is not loopback"));
        }
        if address.port() == config.api_server_port.get() {
            self.control.push(listener);
        } else if address.port() == config.gateway_port.get() {
            self.gateway.push(listener);
        } else {
            self.unused(&format!(
                "the socket unit listens on {address}, where the configuration has no door; who connects there \
                 waits in vain"
            ));
        }
    }

    fn sort_unix(&mut self, listener: StdUnixListener, places: &[PathBuf]) {
        let address = listener.local_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname());
        match path {
            Some(path) if self.socket.is_none() && places.iter().any(|place| same(place, path)) => {
                self.socket = Some((listener, path.to_owned()));
            }
            path => {
                let name = path
                    .map_or_else(|| "a socket without a path".to_owned(), |path| path.display().to_string());
                self.unused(&format!("the socket unit listens on {name}, where no client looks"));
            }
        }
    }

    fn unused(&mut self, message: &str) {
        warn!(code = SOCKET_UNUSED, "{message}");
        let next_step =
            "change ListenStream= to match: systemctl --user edit --full tunneld.socket; then restart it";
        self.warnings.push(Warning::new(SOCKET_UNUSED, message, next_step));
    }
}

/// Only ever true of an address that other machines cannot reach.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Sets what our own listeners have; the rest is the manager's to set.
fn ready(listener: StdTcpListener) -> std::io::Result<TcpListener> {
    rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The runtime directory may be reached through a link.
fn same(place: &Path, path: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().ok();
    place == path || canonical(path).is_some_and(|path| canonical(place) == Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(control: u16, gateway: u16) -> Config {
        let keys = serde_json::json!({ "apiServerPort": control, "gatewayPort": gateway });
        let mut all = Config::default().to_map();
        all.extend(keys.as_object().unwrap().clone());
        Config::check(&all).unwrap()
    }

    fn listener(address: &str) -> (StdTcpListener, u16) {
        let listener = StdTcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn sockets_are_known_by_their_address() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("api.sock");
        let ((control, control_port), (gateway, gateway_port)) =
            (listener("127.0.0.1:0"), listener("127.0.0.1:0"));
        let sockets = InheritedSockets {
            tcp: vec![gateway, control],
            unix: vec![StdUnixListener::bind(&path).unwrap()],
            unusable: Vec::new(),
        };
        let inherited =
            Inherited::sort(sockets, &config(control_port, gateway_port), std::slice::from_ref(&path));
        let port = |listeners: &[TcpListener]| listeners[0].local_addr().unwrap().port();
        assert_eq!((port(&inherited.control), port(&inherited.gateway)), (control_port, gateway_port));
        assert_eq!(inherited.socket.unwrap().1, path);
        assert_eq!(inherited.warnings, []);
    }

    #[tokio::test]
    async fn socket_without_a_door_is_told() {
        let home = tempfile::tempdir().unwrap();
        let ((stray, _), (open, open_port)) = (listener("127.0.0.1:0"), listener("0.0.0.0:0"));
        let sockets = InheritedSockets {
            tcp: vec![stray, open],
            unix: vec![StdUnixListener::bind(home.path().join("other.sock")).unwrap()],
            unusable: vec!["socket 3 of the socket unit is a connection; use Accept=no".to_owned()],
        };
        let inherited = Inherited::sort(sockets, &config(open_port, 1), &[home.path().join("api.sock")]);
        assert!(inherited.control.is_empty() && inherited.gateway.is_empty() && inherited.socket.is_none());
        let told: Vec<&str> = inherited.warnings.iter().map(|warning| warning.message.as_str()).collect();
        assert_eq!(told.len(), 4, "{told:?}");
        for part in ["Accept=no", "waits in vain", "not loopback", "other.sock"] {
            assert!(told.iter().any(|message| message.contains(part)), "{part}: {told:?}");
        }
    }
}
