//! A TCP connection to a host with several addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::settings;

/// A second address is tried while the first is still silent (RFC 8305 §5): a network whose IPv6 leads nowhere
/// must not cost the whole timeout.
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Connects to the first address that answers. Has no limit of its own.
pub(crate) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = interleave(lookup_host((host, port)).await?.collect());
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut next_at = Instant::now();
    loop {
        let more = waiting.len() > 0;
        if attempts.is_empty() && !more {
            return Err(failure);
        }
        tokio::select! {
            biased;
            Some(outcome) = attempts.join_next() => match outcome {
                Ok(Ok(stream)) => return tuned(stream),
                Ok(Err(error)) => {
                    failure = error;
                    next_at = Instant::now();
                }
                Err(_cancelled) => {}
            },
            () = tokio::time::sleep_until(next_at), if more => {
                if let Some(address) = waiting.next() {
                    attempts.spawn(TcpStream::connect(address));
                }
                next_at = Instant::now() + NEXT_AFTER;
            }
        }
    }
}

/// Alternates between the two families, in the resolver's order.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut mixed: Vec<_> =
        first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    mixed.extend(second);
    mixed
}

fn tuned(stream: TcpStream) -> io::Result<TcpStream> {
    tune(&stream)?;
    Ok(stream)
}

/// Sets what a tunnel's socket needs: no delay, and little that waits in the kernel.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_notsent_lowat(settings::NOTSENT_LOWAT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |all: &[&str]| all.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mixed = interleave(parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1"]));
        assert_eq!(mixed, parse(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "[::3]:1"]));
        assert_eq!(interleave(parse(&["1.0.0.1:1", "[::1]:1", "[::2]:1"])).len(), 3);
    }

    #[tokio::test]
    async fn a_refused_address_is_the_answer_when_there_is_no_other() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = connect("127.0.0.1", port).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
