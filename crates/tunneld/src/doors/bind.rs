//! Binding a door's port on loopback, and what to say when that fails.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket};
use tunnel_api::{Severity, Warning, warning};

use super::owner::PortOwner;
use super::{Door, Place};

/// Why a door could not be opened, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "the {} {address} is taken{}; {}",
        .door.name(), held_by(.owner.as_ref()), self.next_step()
    )]
    Taken { door: Door, address: SocketAddr, owner: Option<PortOwner> },
    #[error("the {} {address} may not be used by this user; {}", .door.name(), self.next_step())]
    Forbidden { door: Door, address: SocketAddr },
    #[error("cannot listen on the {} {address}", .door.name())]
    Other {
        door: Door,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl BindError {
    fn next_step(&self) -> String {
        match self {
            Self::Taken { door, address, owner } => {
                // Neither another user's program is seen nor, out of a sandbox with users of its own, any other.
                let look = match owner {
                    Some(_) => String::new(),
                    None => format!("see by whom with: ss -ltnp 'sport = :{}'; ", address.port()),
                };
                format!("{look}stop that program or set {} to a free port", door.key())
            }
            Self::Forbidden { door, .. } => format!("set {} to a port above 1023", door.key()),
            Self::Other { door: Door::Lan, .. } => {
                "set lanGateway.address to an address of this machine, see them with: ip address".to_owned()
            }
            Self::Other { door, .. } => format!("set {} to another port", door.key()),
        }
    }

    /// Finds out who has the port that is taken. Looks at all processes, which may take a while.
    pub(super) fn with_owner(self) -> Self {
        match self {
            Self::Taken { door, address, .. } => Self::Taken { door, address, owner: PortOwner::of(address) },
            other => other,
        }
    }

    /// Tells whether it is the same failure, whoever is to blame.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Taken { address, .. }, Self::Taken { address: same, .. })
            | (Self::Forbidden { address, .. }, Self::Forbidden { address: same, .. }) => address == same,
            (Self::Other { address, source, .. }, Self::Other { address: same, source: cause, .. }) => {
                address == same && source.raw_os_error() == cause.raw_os_error()
            }
            _ => false,
        }
    }

    /// As a warning of a daemon that runs: the door stays where it is.
    pub(super) fn warning(&self) -> Warning {
        let (code, message) = match self {
            Self::Taken { door, address, owner } => (
                warning::PORT_TAKEN,
                format!("the {} {address} is taken{}", door.name(), held_by(owner.as_ref())),
            ),
            Self::Forbidden { door, address } => {
                ("port_forbidden", format!("the {} {address} may not be used by this user", door.name()))
            }
            Self::Other { source, .. } => ("port_unusable", format!("{self}: {source}")),
        };
        Warning::new(code, format!("{message}, so the door stays as it was"), self.next_step())
            .with_severity(Severity::Error)
    }
}

fn held_by(owner: Option<&PortOwner>) -> String {
    owner.map_or_else(String::new, |owner| format!(" by {owner}"))
}

/// Connections that wait to be accepted, per listener; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Other machines vanish without a word. One that acknowledges nothing for so long, or reads nothing of what waits for it,
/// is given up.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// When a machine that has nothing to say is asked whether it is there, and how often.
const ASK_AFTER: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Listens on an address, or on 127.0.0.1 and, where there is IPv6, on [::1]; `held` are those of these that are open
/// already.
///
/// Returns the others. Never blocks: whose the port is that is taken, [`BindError::with_owner`] finds out.
pub(super) fn bind(door: Door, place: Place, held: &[TcpListener]) -> Result<Vec<TcpListener>, BindError> {
    let port = place.port;
    if let Some(address) = place.address.map(|address| SocketAddr::new(address, port)) {
        let listener = listen_to_network(address, false).map_err(|source| explain(door, address, source))?;
        return Ok(vec![listener]);
    }
    let mut listeners = Vec::new();
    let has = |address: SocketAddr| {
        held.iter().any(|listener| listener.local_addr().is_ok_and(|local| local == address))
    };
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if !has(v4) {
        listeners.push(listen(v4).map_err(|source| explain(door, v4, source))?);
    }
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    if !has(v6) {
        match listen(v6) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_without_ipv6(&error) => {
                tracing::debug!(address = %v6, %error, "no IPv6 loopback, going on without");
            }
            Err(source) => return Err(explain(door, v6, source)),
        }
    }
    Ok(listeners)
}

/// Listens on an address while `standing` is open on another one of the same port.
///
/// One that stands for all addresses is in the way of each of them, unless both sockets share the port. They do so for the
/// moment of binding only: whoever else wants the port is told that it is taken.
pub(super) fn bind_beside(
    door: Door,
    address: SocketAddr,
    standing: &TcpListener,
) -> Result<TcpListener, BindError> {
    let failed = |source: io::Error| explain(door, address, source);
    sockopt::set_socket_reuseport(standing, true).map_err(|error| failed(error.into()))?;
    let listener = listen_to_network(address, true);
    sockopt::set_socket_reuseport(standing, false).map_err(|error| failed(error.into()))?;
    listener.map_err(failed)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    start(socket_for(address)?, address)
}

fn listen_to_network(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = socket_for(address)?;
    socket.set_reuseport(shared)?;
    // All of these are inherited by each connection.
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, ASK_AFTER)?;
    sockopt::set_tcp_keepintvl(&socket, ASK_EVERY)?;
    sockopt::set_tcp_user_timeout(&socket, u32::try_from(GONE_AFTER.as_millis()).unwrap_or(u32::MAX))?;
    let listener = start(socket, address)?;
    sockopt::set_socket_reuseport(&listener, false)?;
    Ok(listener)
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }
}

fn start(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    // Connections of an earlier run in TIME_WAIT must not keep the port from a restart.
    socket.set_reuseaddr(true)?;
    // Inherited by each connection: a token must not wait for the acknowledgement of the one before.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(errno, Some(rustix::io::Errno::ADDRNOTAVAIL | rustix::io::Errno::AFNOSUPPORT))
}

fn explain(door: Door, address: SocketAddr, source: io::Error) -> BindError {
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { door, address, owner: None },
        io::ErrorKind::PermissionDenied => BindError::Forbidden { door, address },
        _ => BindError::Other { door, address, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn loopback(port: u16) -> Place {
        Place { address: None, port }
    }

    #[tokio::test]
    async fn taken_port_names_the_port_its_owner_and_the_way_out() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let error = bind(Door::Gateway, loopback(port), &[]).unwrap_err().with_owner();
        let (told, warning) = (error.to_string(), error.warning());
        let pid = format!("pid {}", std::process::id());
        for part in [format!("127.0.0.1:{port}"), pid.clone(), "gatewayPort".to_owned()] {
            assert!(told.contains(&part), "{part}: {told}");
        }
        assert_eq!((warning.code.as_str(), warning.severity), (warning::PORT_TAKEN, Severity::Error));
        assert!(warning.message.contains(&pid) && warning.next_step.contains("gatewayPort"), "{warning:?}");
    }

    #[test]
    fn owner_that_is_not_seen_can_be_looked_for() {
        let address = "127.0.0.1:11435".parse().unwrap();
        let error = BindError::Taken { door: Door::Gateway, address, owner: None };
        assert_eq!(
            error.to_string(),
            "the gateway port 127.0.0.1:11435 is taken; see by whom with: ss -ltnp 'sport = :11435'; \
             stop that program or set gatewayPort to a free port"
        );
    }

    #[tokio::test]
    async fn both_loopback_addresses_are_bound() {
        let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
        let listeners = bind(Door::Control, loopback(free_port()), &[]).unwrap();
        assert_eq!(listeners.len(), if has_ipv6 { 2 } else { 1 });
    }

    #[tokio::test]
    async fn address_that_is_held_is_not_bound_again() {
        let mut held = bind(Door::Control, loopback(free_port()), &[]).unwrap();
        let n_before = held.len();
        let port = held[0].local_addr().unwrap().port();
        held.truncate(1);
        assert_eq!(bind(Door::Control, loopback(port), &held).unwrap().len(), n_before - 1);
    }

    #[tokio::test]
    async fn connections_inherit_nodelay() {
        let port = free_port();
        let listeners = bind(Door::Control, loopback(port), &[]).unwrap();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (served, _) = listeners[0].accept().await.unwrap();
        assert!(served.nodelay().unwrap());
    }
    #[tokio::test]
    async fn connections_of_the_network_notice_who_has_vanished() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let place = Place { address: Some(address.ip()), port: address.port() };
        let listeners = bind(Door::Lan, place, &[]).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (served, _) = listeners[0].accept().await.unwrap();
        assert!(sockopt::socket_keepalive(&served).unwrap() && served.nodelay().unwrap());
        assert_eq!(sockopt::tcp_keepidle(&served).unwrap(), ASK_AFTER);
        assert_eq!(u128::from(sockopt::tcp_user_timeout(&served).unwrap()), GONE_AFTER.as_millis());
    }

    #[tokio::test]
    async fn port_is_shared_for_the_moment_of_a_move_only() {
        let port = free_port();
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let standing = listen_to_network(here, false).unwrap();
        let beside = bind_beside(Door::Lan, everywhere, &standing).unwrap();
        for listener in [&standing, &beside] {
            assert!(!sockopt::socket_reuseport(listener).unwrap());
        }
        let elsewhere = SocketAddr::from(([127, 0, 0, 9], port));
        assert_eq!(listen_to_network(elsewhere, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
