//! A proxy in front that the settings do not name: all its callers are one address, and share the limits of one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// Time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(60 * 60);

/// Warns of such a proxy, now and then.
#[derive(Debug, Default)]
pub(super) struct UnnamedProxy {
    warned: Mutex<Option<Instant>>,
}

impl UnnamedProxy {
    /// Notes that a peer without trust has sent `X-Forwarded-For`. Anybody on the internet may write that, so it says
    /// something only of a neighbour, or of one that is `over` a limit of its address.
    pub(super) fn noticed(&self, peer: IpAddr, over: bool, now: Instant) {
        if self.is_due(peer, over, now) {
            warn!(
                %peer,
                "requests with X-Forwarded-For come from an address that is not in edge.trusted_proxies; if a proxy of \
                 yours is there, add it: until then all its callers count as this one address"
            );
        }
    }

    fn is_due(&self, peer: IpAddr, over: bool, now: Instant) -> bool {
        if !over && !is_neighbour(peer) {
            return false;
        }
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = warned.is_none_or(|at| now.duration_since(at) >= WARN_EVERY);
        if is_due {
            *warned = Some(now);
        }
        is_due
    }
}

/// Tells whether an address is of this machine or a private network, where nobody but proxies forwards.
fn is_neighbour(peer: IpAddr) -> bool {
    // RFC 6598: between a carrier's or an overlay network's nodes.
    let is_shared = |v4: Ipv4Addr| v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local() || is_shared(v4),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_those_over_a_limit_are_warned_of_once_an_hour() {
        let (proxy, start) = (UnnamedProxy::default(), Instant::now());
        let due =
            |peer: &str, over, s| proxy.is_due(peer.parse().unwrap(), over, start + Duration::from_secs(s));
        assert!(!due("192.0.2.1", false, 0) && !due("2001:db8::1", false, 0), "anybody may write the header");
        assert!(due("10.0.0.1", false, 0));
        assert!(!due("::1", false, 1) && !due("192.0.2.1", true, 3_599));
        assert!(due("192.0.2.1", true, 3_600));
        for (n, peer) in
            ["127.0.0.1", "::ffff:172.16.0.1", "100.64.0.1", "fd00::1", "fe80::1"].iter().enumerate()
        {
            assert!(due(peer, false, 7_200 + 3_600 * n as u64), "{peer}");
        }
        assert!(!due("100.128.0.1", false, 100_000));
    }
}
