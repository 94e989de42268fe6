//! Sockets that the service manager listens on for us, so that a restart of the process refuses nobody.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

use listenfd::ListenFd;
use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};

/// What the service manager passed. Whatever is dropped is closed here; the manager goes on listening on it.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// Listening stream sockets, not blocking, closed in programs that we start.
    pub tcp: Vec<TcpListener>,
    /// The same on paths.
    pub unix: Vec<UnixListener>,
    /// What was passed and cannot be served, each with the reason as a sentence.
    pub unusable: Vec<String>,
}

impl InheritedSockets {
    /// Takes over what `$LISTEN_FDS` counts, if it is meant for this process.
    ///
    /// To be called once, at the very start of `main`: it claims descriptors by their number and changes the
    /// environment, neither of which may happen beside other threads.
    pub fn take() -> Self {
        let mut sockets = Self::default();
        // Checks $LISTEN_PID, which `ListenFd` does not insist on, and closes them in programs that we start.
        let passed = match sd_notify::listen_fds() {
            Ok(passed) => passed.len(),
            Err(error) => {
                sockets.unusable.push(format!("the sockets that were passed cannot be used: {error}"));
                return sockets;
            }
        };
        if passed == 0 {
            return sockets;
        }
        let mut claimed = ListenFd::from_env();
        for index in 0..passed {
            sockets.claim(&mut claimed, index);
        }
        sockets
    }

    fn claim(&mut self, claimed: &mut ListenFd, index: usize) {
        if let Ok(Some(listener)) = claimed.take_tcp_listener(index) {
            match fit(&listener).and_then(|()| listener.set_nonblocking(true).map_err(|e| e.to_string())) {
                Ok(()) => self.tcp.push(listener),
                Err(why) => self.refuse(index, &why),
            }
        } else if let Ok(Some(listener)) = claimed.take_unix_listener(index) {
            match fit(&listener).and_then(|()| listener.set_nonblocking(true).map_err(|e| e.to_string())) {
                Ok(()) => self.unix.push(listener),
                Err(why) => self.refuse(index, &why),
            }
        } else {
            // Taken only to be closed.
            let _datagram: Result<Option<UnixDatagram>, _> = claimed.take_unix_datagram(index);
            let _udp = claimed.take_udp_socket(index);
            self.refuse(index, "is no stream socket; use ListenStream=");
        }
    }

    fn refuse(&mut self, index: usize, why: &str) {
        self.unusable.push(format!("socket {index} of the socket unit {why}"));
    }
}

/// Tells why a socket cannot be accepted from.
fn fit(socket: impl AsFd) -> Result<(), String> {
    let told = |error: rustix::io::Errno| error.to_string();
    if socket_type(&socket).map_err(told)? != SocketType::STREAM {
        return Err("is no stream socket; use ListenStream=".to_owned());
    }
    if !socket_acceptconn(&socket).map_err(told)? {
        return Err("is a connection; use Accept=no".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_listening_sockets_are_fit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(fit(&listener), Ok(()));
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(fit(&connection).unwrap_err().contains("Accept=no"));
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(fit(&one).unwrap_err().contains("Accept=no"));
        let datagram = UnixDatagram::unbound().unwrap();
        assert!(fit(&datagram).unwrap_err().contains("ListenStream="));
    }
}
