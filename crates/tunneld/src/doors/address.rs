//! Which address is this machine's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Returns where others find a door at `address`. For one that stands for all addresses that is the one that this machine
/// has on its way out, if there is a way out.
pub(super) fn of_this_machine(address: SocketAddr) -> SocketAddr {
    // Addresses for documentation: nobody has them, and nothing is sent.
    const FAR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const FAR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let found = match address.ip() {
        ip if !ip.is_unspecified() => None,
        IpAddr::V4(_) => on_the_way_to(FAR_V4).ok(),
        // Such a door takes IPv4 too, which is easier to type.
        IpAddr::V6(_) => on_the_way_to(FAR_V4).or_else(|_| on_the_way_to(FAR_V6)).ok(),
    };
    found.map_or(address, |ip| SocketAddr::new(ip, address.port()))
}

fn on_the_way_to(far: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if far.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // The discard port.
    socket.connect((far, 9))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn door_on_all_addresses_is_shown_at_one_of_them() {
        let one: SocketAddr = "192.0.2.7:11436".parse().unwrap();
        assert_eq!(of_this_machine(one), one);
        for all in ["0.0.0.0:11436", "[::]:11436"] {
            let all: SocketAddr = all.parse().unwrap();
            let shown = of_this_machine(all);
            // Without a network nothing better is known.
            let is_there = UdpSocket::bind((shown.ip(), 0)).is_ok();
            assert!(shown.port() == 11436 && is_there, "{shown}");
            let network = on_the_way_to(Ipv4Addr::new(192, 0, 2, 1).into()).is_ok();
            assert!(!network || !shown.ip().is_unspecified(), "{shown}");
        }
    }
}
