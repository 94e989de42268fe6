//! Looks for the model servers of this machine: `POST /api/connections/detect`.
//!
//! Nothing is asked but what tells one server from another, and only on [`usual_ports`] of the loopback addresses, or at
//! the one address that somebody names. What a server is, it says itself: [`identity`] judges its answers, never its port alone.

mod identity;
mod report;
mod site;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use tunnel_api::{Config, Detected};
use tunnel_broker::BackendKind;
use url::Url;

use self::identity::{Heard, Identity, Step};
use self::site::Site;
use crate::joint::Joint;

/// Returns where model servers listen unless they are told otherwise.
pub(crate) fn usual_ports() -> Vec<u16> {
    BackendKind::ALL.iter().flat_map(|kind| kind.profile().usual_ports.iter().copied()).collect()
}

/// Longest wait for a connection to this very machine.
const CONNECT_LIMIT: Duration = Duration::from_millis(300);
/// Longest wait for a connection to a machine that may be far away, the look-up of its name and TLS included.
const FAR_CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Longest time for all answers of one server.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Looks for model servers. Clones share what runs.
#[derive(Debug, Clone)]
pub(crate) struct Detector {
    ports: Arc<[u16]>,
    running: Arc<Joint<Arc<[Seen]>>>,
}

/// A server that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Of 127.0.0.1 where it listens on both loopback addresses.
    url: Url,
    identity: Identity,
}

impl Detector {
    /// Makes a detector that looks at these ports, in this order.
    pub(crate) fn new(ports: impl Into<Arc<[u16]>>) -> Self {
        Self { ports: ports.into(), running: Arc::default() }
    }

    /// Looks, and tells what of it `config` has already. Takes some two seconds at most; who asks while another one
    /// waits shares the answer.
    pub(crate) async fn detect(&self, config: &Config) -> Detected {
        let own = own_ports(config);
        let ports: Vec<u16> = self.ports.iter().copied().filter(|port| !own.contains(port)).collect();
        let seen = self.running.run(look_everywhere(ports)).await;
        report::report(&seen, config, Timestamp::now())
    }

    /// Looks what speaks at one address, of any machine. Takes some five seconds at most.
    ///
    /// `url` is an `http` or `https` base address, with or without the `/v1` of OpenAI's API.
    pub(crate) async fn detect_at(&self, url: Url, config: &Config) -> Detected {
        let site = Site { url, connect_limit: FAR_CONNECT_LIMIT };
        let seen: Vec<Seen> = look_at(site).await.into_iter().collect();
        report::report(&seen, config, Timestamp::now())
    }
}

/// Returns the ports of our own doors, as far as they are to be open: another program may have those of the others.
fn own_ports(config: &Config) -> Vec<u16> {
    let doors = [
        (config.enable_api_server, config.api_server_port.get()),
        (config.enable_gateway, config.gateway_port.get()),
    ];
    doors.into_iter().filter(|(open, _)| *open).map(|(_, port)| port).collect()
}

async fn look_everywhere(ports: Vec<u16>) -> Arc<[Seen]> {
    let found = join_all(ports.into_iter().map(look_at_port)).await;
    found.into_iter().flatten().collect()
}

/// Looks at both loopback addresses. What says the same on both is one server.
async fn look_at_port(port: u16) -> Vec<Seen> {
    let look = async |ip: IpAddr| {
        let address = SocketAddr::new(ip, port);
        // Cannot fail: an address and a port are fit for a URL.
        let url = Url::parse(&format!("http://{address}")).ok()?;
        look_at(Site { url, connect_limit: CONNECT_LIMIT }).await
    };
    let (v4, v6) = tokio::join!(look(Ipv4Addr::LOCALHOST.into()), look(Ipv6Addr::LOCALHOST.into()));
    let same = v4.as_ref().zip(v6.as_ref()).is_some_and(|(one, other)| one.identity == other.identity);
    v4.into_iter().chain(v6.filter(|_| !same)).collect()
}

async fn look_at(site: Site) -> Option<Seen> {
    let deadline = Instant::now() + site.connect_limit + ANSWER_LIMIT;
    let mut heard = Heard::default();
    loop {
        match heard.next() {
            Step::Ask(question) => {
                // What is not answered in time counts as not answered; the rest is judged all the same.
                let reply = timeout_at(deadline, site.ask(question)).await.ok().flatten();
                heard.note(question, reply);
            }
            Step::Found(identity) => {
                debug!(product = ?identity.product, "model server found");
                return Some(Seen { url: site.url, identity });
            }
            Step::Nobody => return None,
        }
    }
}

#[cfg(test)]
mod tests;
