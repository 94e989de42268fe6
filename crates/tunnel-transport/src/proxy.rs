//! A proxy on the way to the relay: HTTP CONNECT or SOCKS5.

mod http_connect;
mod socks5;

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use secrecy::SecretString;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::connector::tcp;
use crate::link::Socket;

/// A proxy that is asked to connect to the relay. The relay's name is looked up by the proxy.
#[derive(Clone)]
pub struct Proxy {
    speaks: Speaks,
    host: String,
    port: u16,
    login: Option<Login>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http,
    /// HTTP inside TLS.
    Https,
    Socks5,
}

/// Who we are to the proxy.
#[derive(Clone)]
struct Login {
    user: String,
    password: SecretString,
}

/// Says why text is not the address of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It cannot be read as an address with a host.
    #[error("it is not an address such as http://proxy.example.org:3128")]
    Malformed,
    /// Not a kind of proxy that is known.
    #[error("it must start with http://, https:// or socks5://")]
    Scheme,
}

impl Proxy {
    /// Reads an address: `http://`, `https://`, `socks5://` or `socks5h://`, with or without a port and a login.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let url = Url::parse(text.trim()).map_err(|_| ProxyError::Malformed)?;
        let (speaks, usual_port) = match url.scheme() {
            "http" => (Speaks::Http, 80),
            "https" => (Speaks::Https, 443),
            "socks5" | "socks5h" => (Speaks::Socks5, 1080),
            _ => return Err(ProxyError::Scheme),
        };
        let host = match url.host().ok_or(ProxyError::Malformed)? {
            Host::Ipv6(ip) => ip.to_string(),
            host => host.to_string(),
        };
        if host.is_empty() {
            return Err(ProxyError::Malformed);
        }
        let plain = |text: &str| percent_decoded(text).ok_or(ProxyError::Malformed);
        let login = match url.username() {
            "" => None,
            user => Some(Login {
                user: plain(user)?,
                password: SecretString::from(plain(url.password().unwrap_or_default())?),
            }),
        };
        Ok(Self { speaks, host, port: url.port().unwrap_or(usual_port), login })
    }

    /// Returns where it is, without the login: `proxy.example.org:3128`.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Connects to `host` through the proxy. Has no limit of its own.
    ///
    /// `tls` is for a proxy that wants TLS itself.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        tls: &Arc<rustls::ClientConfig>,
    ) -> io::Result<Box<dyn Socket>> {
        self.ask(host, port, tls).await.map_err(|error| {
            io::Error::new(error.kind(), format!("through the proxy {}: {error}", self.address()))
        })
    }

    async fn ask(
        &self,
        host: &str,
        port: u16,
        tls: &Arc<rustls::ClientConfig>,
    ) -> io::Result<Box<dyn Socket>> {
        let mut tcp = tcp::connect(&self.host, self.port).await?;
        let login = self.login.as_ref();
        match self.speaks {
            Speaks::Http => http_connect::ask(&mut tcp, host, port, login).await?,
            Speaks::Socks5 => socks5::ask(&mut tcp, host, port, login).await?,
            Speaks::Https => {
                let name = ServerName::try_from(self.host.clone())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                let mut encrypted = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?;
                http_connect::ask(&mut encrypted, host, port, login).await?;
                return Ok(Box::new(encrypted));
            }
        }
        Ok(Box::new(tcp))
    }
}

impl PartialEq for Proxy {
    fn eq(&self, other: &Self) -> bool {
        use secrecy::ExposeSecret as _;
        let login = |proxy: &Self| {
            proxy.login.as_ref().map(|login| (login.user.clone(), login.password.expose_secret().to_owned()))
        };
        (self.speaks, &self.host, self.port) == (other.speaks, &other.host, other.port)
            && login(self) == login(other)
    }
}

impl Eq for Proxy {}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("speaks", &self.speaks)
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Undoes `%40` and the like. None when what comes out is no text.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (char::from(rest.next()?).to_digit(16)?, char::from(rest.next()?).to_digit(16)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn addresses_have_a_kind_a_port_and_perhaps_a_login() {
        for (text, expected) in [
            ("http://p", (Speaks::Http, "p", 80)),
            ("https://p.example.org:8443/", (Speaks::Https, "p.example.org", 8443)),
            (" socks5h://[::1]", (Speaks::Socks5, "::1", 1080)),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!((proxy.speaks, proxy.host.as_str(), proxy.port), expected, "{text}");
        }
        assert_eq!(Proxy::parse("ftp://p"), Err(ProxyError::Scheme));
        for text in ["", "http://p:99999", "http://", "socks5:///x"] {
            assert_eq!(Proxy::parse(text), Err(ProxyError::Malformed), "{text}");
        }
    }

    #[test]
    fn login_is_read_and_never_shown() {
        let proxy = Proxy::parse("http://me:hunt%40er2@p:3128").unwrap();
        let login = proxy.login.clone().unwrap();
        assert_eq!((login.user.as_str(), login.password.expose_secret()), ("me", "hunt@er2"));
        assert!(!format!("{proxy:?}").contains("hunt"));
        assert_eq!(proxy.address(), "p:3128");
        assert_ne!(proxy, Proxy::parse("http://me:other@p:3128").unwrap());
    }
}
