//! The method CONNECT (RFC 9110 §9.3.6).

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Login;

/// Longest head of an answer that is read.
const MAX_HEAD: usize = 16 * 1024;

/// Asks for a connection to `host`. What comes after the answer is the host's.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    proxy: &mut S,
    host: &str,
    port: u16,
    login: Option<&Login>,
) -> io::Result<()> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let authorization = login.map_or_else(String::new, |login| {
        let pair = format!("{}:{}", login.user, login.password.expose_secret());
        format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(pair))
    });
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n");
    proxy.write_all(request.as_bytes()).await?;
    proxy.flush().await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head belongs to the relay, and there is one such answer a dial.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD {
            return Err(io::Error::other("its answer does not end"));
        }
        head.push(proxy.read_u8().await?);
    }
    match status(&head) {
        Some(200..=299) => Ok(()),
        Some(407) => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "it wants a login (407), or another one"))
        }
        Some(status) => Err(io::Error::other(format!("it answered {status} to CONNECT"))),
        None => Err(io::Error::other("it does not speak HTTP")),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_in_the_first_line_of_http_only() {
        assert_eq!(status(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407\r\nA: 200\r\n\r\n"), Some(407));
        for odd in ["SSH-2.0-x\r\n\r\n", "\r\n\r\n", "HTTP/1.1 ok\r\n\r\n"] {
            assert_eq!(status(odd.as_bytes()), None, "{odd}");
        }
    }
}
