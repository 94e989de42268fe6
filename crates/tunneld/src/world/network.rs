//! Changes of the network, as the kernel's route socket tells them.
//!
//! Only gains make the tunnel dial: an address, a route or a link that was not there. What is lost the tunnel finds
//! out when it next has something to send, and a dial without a network only costs an attempt.

mod gain;

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::debug;

use self::gain::Gains;
use super::{Cause, readiness, report};

/// `RTMGRP_*` of linux/rtnetlink.h: links, IPv4 addresses and routes, IPv6 addresses and routes.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Enough for the fixed part of any message, and for most whole ones; the rest of a longer one is not looked at.
const MESSAGE_BYTES: usize = 4096;

/// Reports gains until the socket fails. Without a route socket (a sandbox) there is nothing to report.
pub(super) async fn listen(causes: mpsc::Sender<Cause>) {
    let route = match RouteSocket::open() {
        Ok(route) => route,
        Err(error) => {
            return debug!(%error, "the kernel does not tell of network changes, the heartbeat has to do");
        }
    };
    let mut gains = Gains::default();
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        match route.next(&mut buffer).await {
            Ok(Heard::Messages(n)) => {
                if gains.in_messages(buffer.get(..n).unwrap_or_default()) {
                    report(&causes, Cause::Network);
                }
            }
            Ok(Heard::Overflow) => {
                gains.forget();
                report(&causes, Cause::Network);
            }
            Err(error) => return debug!(%error, "network changes are no longer told"),
        }
    }
}

struct RouteSocket(AsyncFd<Socket>);

enum Heard {
    /// So many bytes of the buffer.
    Messages(usize),
    /// More happened than the socket could hold: anything may have.
    Overflow,
}

impl RouteSocket {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        Ok(Self(readiness(socket)?))
    }

    async fn next(&self, buffer: &mut [u8]) -> io::Result<Heard> {
        loop {
            let mut ready = self.0.readable().await?;
            // A slice takes no more than its length.
            let received = ready.try_io(|socket| socket.get_ref().recv(&mut &mut *buffer, 0));
            match received {
                Ok(Ok(n)) => return Ok(Heard::Messages(n.min(buffer.len()))),
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    return Ok(Heard::Overflow);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
