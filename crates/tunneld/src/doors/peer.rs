//! Whose process is at the other end of a loopback connection: asked of the kernel, once per connection.
//!
//! `SO_PEERCRED` exists for Unix sockets only. For TCP the kernel's `sock_diag` looks up the *client's* socket by
//! its exact four addresses and says which uid owns it. A socket of another network namespace (a container) is
//! not found, and one that no process holds any more has no owner: both are refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use tracing::warn;

/// Tells who owns the client's end of a connection. One per accept loop: it reuses its netlink socket.
#[derive(Debug)]
pub(crate) struct PeerLookup {
    own_uid: u32,
    diag: Option<SockDiag>,
}

/// What the guard needs to know about the process at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// It runs as the same user as this daemon.
    SameUser,
    /// It runs as another user, or nobody can say whose it is.
    Stranger,
}

impl PeerLookup {
    /// Opens the netlink socket; without one (a sandbox that forbids it) `/proc/net/tcp` is read, more slowly.
    pub(crate) fn open() -> Self {
        let diag = match SockDiag::open().and_then(|mut diag| diag.probe().map(|()| diag)) {
            Ok(diag) => Some(diag),
            Err(error) => {
                warn!(%error, "sock_diag is not available, /proc/net/tcp is read for each connection");
                None
            }
        };
        Self { own_uid: rustix::process::geteuid().as_raw(), diag }
    }

    /// Like [`PeerLookup::open`], for the daemon of another user.
    #[cfg(test)]
    pub(crate) fn of_another_user() -> Self {
        let own = Self::open();
        Self { own_uid: own.own_uid + 1, ..own }
    }

    /// Returns whether the process that connected from `client` to `server` runs as this daemon's user.
    ///
    /// Costs two system calls with sock_diag. Any doubt counts as [`Peer::Stranger`].
    pub(crate) fn of(&mut self, client: SocketAddr, server: SocketAddr) -> Peer {
        match self.owner(client, server) {
            Some(uid) if uid == self.own_uid => Peer::SameUser,
            Some(_) | None => Peer::Stranger,
        }
    }

    fn owner(&mut self, client: SocketAddr, server: SocketAddr) -> Option<u32> {
        let (client, server) = (canonical(client), canonical(server));
        let Some(diag) = &mut self.diag else { return proc_owner(client, server) };
        match diag.owner(client, server) {
            Ok(owner) => owner,
            // The table in /proc says the same, so a hiccup of netlink locks nobody out.
            Err(_) => proc_owner(client, server),
        }
    }
}

/// An IPv4-mapped IPv6 address is the IPv4 address: the kernel keeps such sockets in the IPv4 table.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[derive(Debug)]
struct SockDiag {
    socket: Socket,
    sequence: u32,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl SockDiag {
    /// Far more than one reply with all attributes that the kernel adds unasked.
    const REPLY_BYTES: usize = 4096;
    /// Replies of earlier lookups that failed half-way may lie before ours.
    const MAX_STALE_REPLIES: usize = 16;
    const ENOENT: i32 = 2;
    /// `TCP_LISTEN` of the kernel: an exact lookup falls back to a listener on the client's port.
    const LISTEN: u8 = 10;

    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        // The kernel answers within `send`; a reply that is not there will not come.
        socket.set_non_blocking(true)?;
        Ok(Self { socket, sequence: 0, request: Vec::new(), reply: vec![0; Self::REPLY_BYTES] })
    }

    /// Asks once for a socket that cannot exist, so that a kernel without `tcp_diag` is found out at the start.
    fn probe(&mut self) -> io::Result<()> {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        self.owner(nowhere, nowhere).map(drop)
    }

    /// Returns the uid of the socket whose local address is `client` and whose peer is `server`.
    fn owner(&mut self, client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.emit(client, server);
        let sent = self.socket.send(&self.request, 0)?;
        if sent != self.request.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        for _ in 0..=Self::MAX_STALE_REPLIES {
            let n_bytes = self.socket.recv(&mut &mut self.reply[..], 0)?;
            let bytes = self.reply.get(..n_bytes).ok_or(io::ErrorKind::InvalidData)?;
            let reply = NetlinkMessage::<SockDiagMessage>::deserialize(bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            if reply.header.sequence_number != self.sequence {
                continue;
            }
            return match reply.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                    Ok(owner_of(&found, client, server))
                }
                NetlinkPayload::Error(error) if error.raw_code() == -Self::ENOENT => Ok(None),
                NetlinkPayload::Error(error) => Err(error.to_io()),
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn emit(&mut self, client: SocketAddr, server: SocketAddr) {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let request = InetRequest {
            family: if client.is_ipv4() { AF_INET } else { AF_INET6 },
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: client.port(),
                destination_port: server.port(),
                source_address: client.ip(),
                destination_address: server.ip(),
                interface_id: 0,
                // "No cookie": look up by addresses.
                cookie: [0xff; 8],
            },
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        self.request.resize(message.buffer_len(), 0);
        message.serialize(&mut self.request);
    }
}

/// Takes the answer only if it is the very socket that was asked for and a process holds it.
fn owner_of(found: &InetResponse, client: SocketAddr, server: SocketAddr) -> Option<u32> {
    let header = &found.header;
    let id = &header.socket_id;
    let same = id.source_port == client.port()
        && id.destination_port == server.port()
        && id.source_address.to_canonical() == client.ip()
        && id.destination_address.to_canonical() == server.ip();
    // Without an inode no process holds the socket (closed, in TIME_WAIT), and its uid reads as root's.
    (same && header.state != SockDiag::LISTEN && header.inode != 0).then_some(header.uid)
}

/// Looks the socket up in the text tables of `/proc`: reads all sockets of the namespace, so only a fallback.
fn proc_owner(client: SocketAddr, server: SocketAddr) -> Option<u32> {
    // A client's IPv6 socket that talks IPv4 is listed in the IPv6 table under its mapped addresses.
    [("/proc/net/tcp", false), ("/proc/net/tcp6", true)].into_iter().find_map(|(path, v6)| {
        let (client, server) = (proc_address(client, v6)?, proc_address(server, v6)?);
        let table = std::fs::read_to_string(path).ok()?;
        table.lines().skip(1).find_map(|line| {
            let row = ProcRow::parse(line)?;
            (row.local == client && row.remote == server && row.inode != 0).then_some(row.uid)
        })
    })
}

/// One line of `/proc/net/tcp`, with the addresses as the kernel prints them.
pub(super) struct ProcRow<'a> {
    pub(super) local: &'a str,
    pub(super) remote: &'a str,
    pub(super) state: &'a str,
    pub(super) uid: u32,
    pub(super) inode: u64,
}

impl<'a> ProcRow<'a> {
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let mut columns = line.split_ascii_whitespace();
        let (local, remote, state) = (columns.nth(1)?, columns.next()?, columns.next()?);
        // Queues, timer and retransmits lie between.
        let uid = columns.nth(3)?.parse().ok()?;
        let inode = columns.nth(1)?.parse().ok()?;
        Some(Self { local, remote, state, uid, inode })
    }
}

/// Writes an address as `/proc/net/tcp` does: each 32-bit word in host order, upper-case hex.
pub(super) fn proc_address(address: SocketAddr, v6: bool) -> Option<String> {
    let words = |bytes: &[u8]| -> String {
        let (chunks, _) = bytes.as_chunks::<4>();
        chunks.iter().map(|chunk| format!("{:08X}", u32::from_ne_bytes(*chunk))).collect()
    };
    let ip = match (address.ip(), v6) {
        (IpAddr::V4(ip), false) => words(&ip.octets()),
        (IpAddr::V4(ip), true) => words(&ip.to_ipv6_mapped().octets()),
        (IpAddr::V6(ip), true) => words(&Ipv6Addr::octets(&ip)),
        (IpAddr::V6(_), false) => return None,
    };
    Some(format!("{ip}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair(listen: &str, connect: Option<SocketAddr>) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(listen).ok()?;
        let mut to = connect.unwrap_or(listener.local_addr().unwrap());
        to.set_port(listener.local_addr().unwrap().port());
        let client = TcpStream::connect(to).unwrap();
        Some((client, listener.accept().unwrap().0))
    }

    fn lookups() -> Vec<(&'static str, PeerLookup)> {
        let own_uid = rustix::process::geteuid().as_raw();
        vec![("sock_diag", PeerLookup::open()), ("proc", PeerLookup { own_uid, diag: None })]
    }

    #[test]
    fn own_client_is_the_same_user_over_v4_v6_and_mapped_addresses() {
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:1".parse().unwrap();
        for (name, mut lookup) in lookups() {
            for (listen, connect) in [
                ("127.0.0.1:0", None),
                ("[::1]:0", None),
                ("127.0.0.1:0", Some(mapped)),
                ("[::]:0", Some(mapped)),
            ] {
                // A machine without IPv6 has nothing to look up there.
                let Some((_client, server)) = pair(listen, connect) else { continue };
                let (peer, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
                assert_eq!(lookup.of(peer, local), Peer::SameUser, "{name} {listen} {connect:?}");
            }
        }
    }

    #[test]
    fn client_of_another_user_is_a_stranger() {
        let (_client, server) = pair("127.0.0.1:0", None).unwrap();
        let (peer, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
        for (name, mut lookup) in lookups() {
            lookup.own_uid += 1;
            assert_eq!(lookup.of(peer, local), Peer::Stranger, "{name}");
        }
    }

    #[test]
    fn socket_without_an_owner_is_a_stranger() {
        for (name, mut lookup) in lookups() {
            let (client, server) = pair("127.0.0.1:0", None).unwrap();
            let (peer, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
            drop(client);
            assert_eq!(lookup.of(peer, local), Peer::Stranger, "{name}");
        }
    }

    #[test]
    fn listener_on_the_clients_port_does_not_vouch_for_a_client_that_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        for (name, mut lookup) in lookups() {
            assert_eq!(lookup.of(here, "127.0.0.1:9".parse().unwrap()), Peer::Stranger, "{name}");
        }
    }

    #[test]
    fn a_lookup_that_failed_does_not_disturb_the_next() {
        let mut lookup = PeerLookup::open();
        let (_client, server) = pair("127.0.0.1:0", None).unwrap();
        let (peer, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
        for _ in 0..50 {
            assert_eq!(lookup.of("127.0.0.1:1".parse().unwrap(), local), Peer::Stranger);
            assert_eq!(lookup.of(peer, local), Peer::SameUser);
        }
    }
}
