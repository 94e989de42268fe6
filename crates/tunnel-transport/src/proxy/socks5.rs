//! SOCKS 5 (RFC 1928), with a user name and password (RFC 1929) or without.

use std::io;
use std::net::IpAddr;

use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Login;

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Asks for a connection to `host`, which the proxy looks up if it is a name.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    proxy: &mut S,
    host: &str,
    port: u16,
    login: Option<&Login>,
) -> io::Result<()> {
    let method = if login.is_some() { PASSWORD } else { NO_LOGIN };
    proxy.write_all(&[VERSION, 1, method]).await?;
    let mut chosen = [0; 2];
    proxy.read_exact(&mut chosen).await?;
    match (chosen, login) {
        ([VERSION, NO_LOGIN], _) => {}
        ([VERSION, PASSWORD], Some(login)) => log_in(proxy, login).await?,
        ([VERSION, _], _) => return Err(denied("it wants a login, or another kind of one")),
        _ => return Err(io::Error::other("it does not speak SOCKS 5")),
    }

    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(ip)) => {
            request.push(IPV4);
            request.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(IPV6);
            request.extend(ip.octets());
        }
        Err(_) => {
            request.push(NAME);
            request.push(length(host)?);
            request.extend(host.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    proxy.write_all(&request).await?;
    let mut answer = [0; 4];
    proxy.read_exact(&mut answer).await?;
    let [version, reply, _, kind] = answer;
    if version != VERSION {
        return Err(io::Error::other("it does not speak SOCKS 5"));
    }
    if reply != 0 {
        return Err(refusal(reply));
    }
    // The address that it connects from; nobody needs it, but it is on the wire.
    let address = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(proxy.read_u8().await?),
        _ => return Err(io::Error::other("it does not speak SOCKS 5")),
    };
    let mut rest = vec![0; address + size_of::<u16>()];
    proxy.read_exact(&mut rest).await?;
    Ok(())
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(proxy: &mut S, login: &Login) -> io::Result<()> {
    let password = login.password.expose_secret();
    let mut request = vec![1, length(&login.user)?];
    request.extend(login.user.as_bytes());
    request.push(length(password)?);
    request.extend(password.as_bytes());
    proxy.write_all(&request).await?;
    let mut answer = [0; 2];
    proxy.read_exact(&mut answer).await?;
    if answer[1] == 0 { Ok(()) } else { Err(denied("it does not accept the login")) }
}

fn length(text: &str) -> io::Result<u8> {
    u8::try_from(text.len()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "a name or password is longer than 255 bytes")
    })
}

fn denied(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// RFC 1928 §6.
fn refusal(reply: u8) -> io::Error {
    match reply {
        2 => denied("its rules do not allow the connection"),
        3 => io::Error::new(io::ErrorKind::NetworkUnreachable, "the network is unreachable for it"),
        4 => io::Error::new(io::ErrorKind::HostUnreachable, "the host is unreachable for it"),
        5 => io::Error::new(io::ErrorKind::ConnectionRefused, "the host refused its connection"),
        other => io::Error::other(format!("it failed with reply {other}")),
    }
}
