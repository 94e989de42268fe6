//! Which program holds a port: for the error that says a port is taken.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::peer::{ProcRow, proc_address};

/// The process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortOwner {
    pid: u32,
    name: String,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

impl PortOwner {
    /// Finds who listens on `address`; `None` if that is another user's process, which `/proc` does not show.
    pub(super) fn of(address: SocketAddr) -> Option<Self> {
        let inode = listener_inode(address)?;
        let link = format!("socket:[{inode}]");
        let processes = fs::read_dir("/proc").ok()?.flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| holds(*pid, &link))
            .map(|pid| Self { pid, name: name(pid) })
    }
}

/// `TCP_LISTEN` as `/proc/net/tcp` prints it.
const LISTEN: &str = "0A";

fn listener_inode(address: SocketAddr) -> Option<u64> {
    let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    // A listener on all addresses holds this one too.
    let candidates: &[(&str, SocketAddr, bool)] = match address.ip() {
        IpAddr::V4(_) => &[
            ("/proc/net/tcp", address, false),
            ("/proc/net/tcp", any_v4, false),
            ("/proc/net/tcp6", address, true),
            ("/proc/net/tcp6", any_v6, true),
        ],
        IpAddr::V6(_) => &[("/proc/net/tcp6", address, true), ("/proc/net/tcp6", any_v6, true)],
    };
    candidates.iter().find_map(|(path, address, v6)| {
        let local = proc_address(*address, *v6)?;
        let table = fs::read_to_string(path).ok()?;
        let rows = table.lines().skip(1).filter_map(ProcRow::parse);
        rows.filter(|row| row.state == LISTEN && row.local == local).map(|row| row.inode).next()
    })
}

fn holds(pid: u32, link: &str) -> bool {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == link))
}

/// The process's own name for itself: untrusted, so without control characters.
fn name(pid: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name: String = comm.trim().chars().filter(|c| !c.is_control()).collect();
    if name.is_empty() { "a program".to_owned() } else { name }
}
