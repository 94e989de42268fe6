//! The door for other machines: connections are counted by address, since anybody on the network can open them.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tracing::debug;

use super::accept::{Ends, Pause, connection};
use super::address::AddressKey;
use super::lan_tls::{LanTls, Speaks};
use super::peer::Peer;
use crate::gateway::{Gateway, LanGateway};

/// Connections from the network at once. More are closed as they come: the machine's own apps must not run out of
/// descriptors for them.
const MAX_CONNECTIONS: u32 = 256;
/// Connections of one address at once.
const MAX_OF_ADDRESS: u32 = 64;
/// A client that has not ended its TLS handshake by then is cut off.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Accepts connections from the network until `soft` ends.
pub(super) async fn serve(
    listener: Arc<TcpListener>,
    gateway: Gateway,
    tls: Arc<LanTls>,
    crowd: Crowd,
    ends: Ends,
) {
    let mut pause = Pause::default();
    loop {
        let accepted = tokio::select! {
            biased;
            // First: whoever comes now belongs to the loop that follows this one.
            () = ends.soft.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                pause = Pause::default();
                let Some(place) = crowd.enter(client.ip()) else {
                    debug!("a connection from the network is closed: there are too many");
                    continue;
                };
                let handler = LanGateway::new(gateway.clone(), client.ip());
                ends.tracker.spawn(converse(stream, tls.speaks(), handler, ends.clone(), place));
            }
            Err(error) => pause.after(&error, &ends.soft).await,
        }
    }
}

async fn converse(stream: TcpStream, speaks: Speaks, handler: LanGateway, ends: Ends, place: Place) {
    match speaks {
        Speaks::Plain => connection(stream, Peer::Stranger, handler, ends).await,
        Speaks::Tls(acceptor) => {
            let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream));
            match ends.soft.run_until_cancelled(handshake).await {
                Some(Ok(Ok(stream))) => connection(stream, Peer::Stranger, handler, ends.clone()).await,
                // Clients that do not know the certificate say so here, again and again.
                Some(Ok(Err(error))) => debug!(%error, "TLS handshake failed"),
                Some(Err(_)) => debug!("TLS handshake took too long"),
                None => {}
            }
        }
        Speaks::Nothing => {}
    }
    drop(place);
}

/// Who is connected, at whichever address of this machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd {
    /// Locked for moments, once a connection.
    by_address: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    total: u32,
    by_address: HashMap<AddressKey, u32>,
}

/// The room that a connection takes, until it is dropped.
struct Place {
    crowd: Crowd,
    address: AddressKey,
}

impl Crowd {
    /// Returns none when there is no room for another one.
    fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = AddressKey::of(address);
        let mut counts = self.counts();
        if counts.total >= MAX_CONNECTIONS
            || counts.by_address.get(&address).is_some_and(|count| *count >= MAX_OF_ADDRESS)
        {
            return None;
        }
        counts.total += 1;
        *counts.by_address.entry(address).or_default() += 1;
        Some(Place { crowd: self.clone(), address })
    }

    /// How many are connected.
    #[cfg(test)]
    pub(super) fn count(&self) -> u32 {
        self.counts().total
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts: a panic half-way costs one place.
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts();
        counts.total = counts.total.saturating_sub(1);
        if let Some(count) = counts.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn one_address_cannot_take_all_places_and_gives_them_back() {
        let crowd = Crowd::default();
        let held: Vec<Option<Place>> = (0..=MAX_OF_ADDRESS).map(|_| crowd.enter(address(1))).collect();
        assert_eq!(held.iter().flatten().count(), MAX_OF_ADDRESS as usize);
        assert!(crowd.enter(address(2)).is_some());
        drop(held);
        assert!(crowd.enter(address(1)).is_some());
        assert_eq!(crowd.counts().by_address.len(), 0, "nothing is remembered of who has gone");
    }

    #[test]
    fn all_addresses_together_are_bounded_too() {
        let crowd = Crowd::default();
        let held: Vec<Place> = (0..10_000).map_while(|n| crowd.enter(address(n))).collect();
        assert_eq!(held.len(), MAX_CONNECTIONS as usize);
    }
}
