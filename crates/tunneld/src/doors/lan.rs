//! The door for other machines: connections are counted by address, since anybody on the network can open them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tunnel_runtime::AddressKey;

use super::accept::{Ends, Pause, connection};
use super::lan_tls::{LanTls, Speaks};
use super::peer::Peer;
use crate::gateway::{Gateway, LanGateway};

/// Connections from the network at once: the machine's own apps must not run out of descriptors for them. When there are
/// more, one that has not shown a good key yet makes room; without such a one the new one is closed.
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
                let handler = LanGateway::new(gateway.clone(), client.ip(), place.introduction());
                ends.tracker.spawn(converse(stream, tls.speaks(), handler, ends.clone(), place));
            }
            Err(error) => pause.after(&error, &ends.soft).await,
        }
    }
}

async fn converse(stream: TcpStream, speaks: Speaks, handler: LanGateway, ends: Ends, place: Place) {
    let conversation = async {
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
    };
    if place.shown_out.run_until_cancelled(conversation).await.is_none() {
        debug!("a connection from the network that has shown no good key makes room for another one");
    }
}

/// Who is connected, at whichever address of this machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd {
    /// Locked for moments, once a connection.
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    total: u32,
    by_address: HashMap<AddressKey, u32>,
    /// Those that have not shown a good key yet, by the number of their place: the oldest first.
    strangers: BTreeMap<u64, Stranger>,
    next: u64,
}

#[derive(Debug)]
struct Stranger {
    address: AddressKey,
    shown_out: CancellationToken,
}

/// The room that a connection takes, until it is dropped or shown out.
struct Place {
    crowd: Crowd,
    address: AddressKey,
    number: u64,
    shown_out: CancellationToken,
}

/// How a connection becomes that of somebody who is known.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    crowd: Crowd,
    number: u64,
}

impl Introduction {
    /// Notes that a good key was shown: the place is kept until the connection ends.
    pub(crate) fn note_good_key(&self) {
        self.crowd.counts().strangers.remove(&self.number);
    }
}

impl Crowd {
    /// Returns none when there is no room for another one, and nobody who could be shown out for it.
    fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = AddressKey::of(address);
        let mut counts = self.counts();
        if counts.of(address) >= MAX_OF_ADDRESS {
            let oldest = counts.strangers.iter().find(|(_, stranger)| stranger.address == address);
            let number = *oldest?.0;
            counts.show_out(number);
        }
        if counts.total >= MAX_CONNECTIONS {
            let number = counts.least_welcome()?;
            counts.show_out(number);
        }
        counts.total += 1;
        *counts.by_address.entry(address).or_default() += 1;
        let (number, shown_out) = (counts.next, CancellationToken::new());
        counts.next += 1;
        counts.strangers.insert(number, Stranger { address, shown_out: shown_out.clone() });
        Some(Place { crowd: self.clone(), address, number, shown_out })
    }

    /// How many are connected.
    #[cfg(test)]
    pub(super) fn count(&self) -> u32 {
        self.counts().total
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts: a panic half-way costs one place.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn of(&self, address: AddressKey) -> u32 {
        self.by_address.get(&address).copied().unwrap_or_default()
    }

    /// Of the address with the most connections that have shown no good key the oldest one: who opens many is in the way
    /// of themselves.
    fn least_welcome(&self) -> Option<u64> {
        let mut strangers: HashMap<AddressKey, u32> = HashMap::new();
        for stranger in self.strangers.values() {
            *strangers.entry(stranger.address).or_default() += 1;
        }
        let rank = |(number, stranger): &(&u64, &Stranger)| {
            (strangers.get(&stranger.address).copied(), Reverse(**number))
        };
        self.strangers.iter().max_by_key(rank).map(|(number, _)| *number)
    }

    /// Gives the room of a stranger away; the connection closes as soon as its task gets round to it.
    fn show_out(&mut self, number: u64) {
        if let Some(stranger) = self.strangers.remove(&number) {
            self.leave(stranger.address);
            stranger.shown_out.cancel();
        }
    }

    fn leave(&mut self, address: AddressKey) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Place {
    fn introduction(&self) -> Introduction {
        Introduction { crowd: self.crowd.clone(), number: self.number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts();
        counts.strangers.remove(&self.number);
        // Else the room has gone to another one.
        if !self.shown_out.is_cancelled() {
            counts.leave(self.address);
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

    /// Who has come in and not been shown out.
    fn inside(places: &[Place]) -> usize {
        places.iter().filter(|place| !place.shown_out.is_cancelled()).count()
    }

    fn crowd_of(crowd: &Crowd, addresses: impl Iterator<Item = u32>) -> Vec<Place> {
        addresses.filter_map(|n| crowd.enter(address(n))).collect()
    }

    #[test]
    fn one_address_cannot_take_all_places_and_gives_them_back() {
        let crowd = Crowd::default();
        let held = crowd_of(&crowd, std::iter::repeat_n(1, 1000));
        assert_eq!((inside(&held), crowd.count()), (MAX_OF_ADDRESS as usize, MAX_OF_ADDRESS));
        assert!(crowd.enter(address(2)).is_some());
        drop(held);
        let counts = crowd.counts();
        assert_eq!(
            (counts.total, counts.by_address.len(), counts.strangers.len()),
            (0, 0, 0),
            "nothing is remembered"
        );
    }

    #[test]
    fn all_addresses_together_are_bounded_and_the_oldest_stranger_makes_room() {
        let crowd = Crowd::default();
        let held = crowd_of(&crowd, 0..1000);
        assert_eq!((inside(&held), crowd.count()), (MAX_CONNECTIONS as usize, MAX_CONNECTIONS));
        assert!(held[0].shown_out.is_cancelled() && !held[999].shown_out.is_cancelled());
    }

    #[test]
    fn strangers_shut_out_nobody_with_a_key() {
        let crowd = Crowd::default();
        let _strangers = crowd_of(&crowd, (0..1000).map(|n| n % 4));
        let guest = crowd.enter(address(9)).unwrap();
        let _more = crowd_of(&crowd, (0..1000).map(|n| n % 4));
        assert!(!guest.shown_out.is_cancelled(), "those who open many are in the way of themselves");
        guest.introduction().note_good_key();
        let _others = crowd_of(&crowd, 100..1100);
        assert!(!guest.shown_out.is_cancelled(), "it has shown a good key");
    }

    #[test]
    fn who_has_shown_a_good_key_makes_room_for_nobody() {
        let crowd = Crowd::default();
        let guests = crowd_of(&crowd, 0..MAX_CONNECTIONS);
        for guest in &guests {
            guest.introduction().note_good_key();
        }
        assert!(crowd.enter(address(1000)).is_none());
        assert_eq!(inside(&guests), MAX_CONNECTIONS as usize);
    }
}
