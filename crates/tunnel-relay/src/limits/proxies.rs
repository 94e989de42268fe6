//! Proxies in front that the settings do not name, or whose header they do not: all their callers are one address, and
//! share the limits of one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::config::ProxyHeader;

/// Time between two warnings of a kind.
const WARN_EVERY: Duration = Duration::from_secs(60 * 60);

/// Warns of such proxies, now and then.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    unnamed: Hourly,
    silent: Hourly,
    /// By itself: a check of the proxy's own, which names nobody, must not hide it.
    in_other_header: Hourly,
}

/// What is said once an hour at most.
#[derive(Debug, Default)]
struct Hourly(Mutex<Option<Instant>>);

impl Proxies {
    /// Notes that a peer without trust has sent a header that proxies write. Anybody on the internet may, so it says
    /// something only of a neighbour, or of one that is `over` a limit of its address.
    pub(super) fn unnamed(
        &self,
        peer: IpAddr,
        configured: ProxyHeader,
        seen: ProxyHeader,
        over: bool,
        now: Instant,
    ) {
        if !self.unnamed_is_due(peer, over, now) {
            return;
        }
        let also =
            if seen == configured { "" } else { ", and set edge.proxy_header to the header that it writes" };
        warn!(
            %peer,
            header = seen.as_str(),
            proxy_header = configured.as_str(),
            "requests that say for whom they come are from an address that is not in edge.trusted_proxies; if a proxy \
             of yours is there, add it{also}: until then all its callers count as this one address"
        );
    }

    /// Notes that a trusted proxy does not say who calls where the settings say that it does.
    pub(super) fn silent(&self, proxy: IpAddr, configured: ProxyHeader, other: bool, now: Instant) {
        let (configured, instead) = (configured.as_str(), configured.other().as_str());
        if other && self.in_other_header.is_due(now) {
            warn!(
                %proxy,
                "a trusted proxy sends requests with {instead} and without {configured}, which is the one that is \
                 read: all its callers count as its own address. If it writes {instead}, set edge.proxy_header = \
                 \"{instead}\"; if it only passes on what callers send, have it write {configured}"
            );
        } else if !other && self.silent.is_due(now) {
            warn!(
                %proxy,
                "a trusted proxy sends requests without {configured}, the header that edge.proxy_header names: their \
                 callers count as its own address. Have it write {configured}, unless these are checks of its own"
            );
        }
    }

    fn unnamed_is_due(&self, peer: IpAddr, over: bool, now: Instant) -> bool {
        (over || is_neighbour(peer)) && self.unnamed.is_due(now)
    }
}

impl Hourly {
    fn is_due(&self, now: Instant) -> bool {
        let mut warned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        let (proxy, start) = (Proxies::default(), Instant::now());
        let due = |peer: &str, over, s| {
            proxy.unnamed_is_due(peer.parse().unwrap(), over, start + Duration::from_secs(s))
        };
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

    #[test]
    fn a_proxys_own_checks_do_not_hide_that_it_writes_the_other_header() {
        let (proxies, start) = (Proxies::default(), Instant::now());
        let peer: IpAddr = [192, 0, 2, 1].into();
        proxies.silent(peer, ProxyHeader::XForwardedFor, false, start);
        assert!(!proxies.silent.is_due(start + Duration::from_secs(3_599)), "said");
        assert!(Proxies::default().in_other_header.is_due(start), "unsaid");
        proxies.silent(peer, ProxyHeader::XForwardedFor, true, start);
        assert!(!proxies.in_other_header.is_due(start + Duration::from_secs(3_599)), "said");
        assert!(proxies.in_other_header.is_due(start + WARN_EVERY));
    }
}
