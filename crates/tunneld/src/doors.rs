//! The listeners: control socket, control port, gateway port, and who stands at each.

pub(crate) mod accept;
mod head_timer;
mod owner;
pub(crate) mod peer;
pub(crate) mod socket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use owner::PortOwner;

/// One of the two TCP doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The control API on `apiServerPort`.
    Control,
    /// The LLM data plane on `gatewayPort`.
    Gateway,
}

impl Door {
    /// The config key that moves this door.
    pub fn key(self) -> &'static str {
        match self {
            Self::Control => "apiServerPort",
            Self::Gateway => "gatewayPort",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Control => "control port",
            Self::Gateway => "gateway port",
        }
    }
}

/// Why a door could not be opened, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "the {} {address} is taken{}; stop that program or set {} to a free port",
        .door.name(), held_by(.owner.as_ref()), .door.key()
    )]
    Taken { door: Door, address: SocketAddr, owner: Option<PortOwner> },
    #[error("the {} {address} may not be used by this user; set {} to a port above 1023", .door.name(), .door.key())]
    Forbidden { door: Door, address: SocketAddr },
    #[error("cannot listen on the {} {address}", .door.name())]
    Other {
        door: Door,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

fn held_by(owner: Option<&PortOwner>) -> String {
    owner.map_or_else(String::new, |owner| format!(" by {owner}"))
}

/// Connections that wait to be accepted, per listener; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Listens on 127.0.0.1 and, where there is IPv6, on [::1].
pub(crate) fn bind(door: Door, port: u16) -> Result<Vec<TcpListener>, BindError> {
    let v4 = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .map_err(|source| explain(door, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), source))?;
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    match listen(address) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) if is_without_ipv6(&error) => {
            tracing::debug!(%address, %error, "no IPv6 loopback, going on without");
            Ok(vec![v4])
        }
        Err(source) => Err(explain(door, address, source)),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
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
        io::ErrorKind::AddrInUse => BindError::Taken { door, address, owner: PortOwner::of(address) },
        io::ErrorKind::PermissionDenied => BindError::Forbidden { door, address },
        _ => BindError::Other { door, address, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn taken_port_names_the_port_its_owner_and_the_way_out() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let error = bind(Door::Gateway, port).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(error.contains(&format!("pid {pid}")), "{error}");
        assert!(error.contains("gatewayPort"), "{error}");
    }

    #[tokio::test]
    async fn both_loopback_addresses_are_bound() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
        assert_eq!(bind(Door::Control, port).unwrap().len(), if has_ipv6 { 2 } else { 1 });
    }

    #[tokio::test]
    async fn connections_inherit_nodelay() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listeners = bind(Door::Control, port).unwrap();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (served, _) = listeners[0].accept().await.unwrap();
        assert!(served.nodelay().unwrap());
    }
}
