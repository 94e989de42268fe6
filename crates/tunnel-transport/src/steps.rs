//! The steps of a dial, one by one: for whoever wants to know which of them fails.
//!
//! [`Connector`](crate::Connector) takes the same ones. None has a limit of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connector::tcp;
use crate::relay_url::RelayUrl;

/// Looks the relay's name up. The addresses come in the order of the resolver; an address stands for itself.
pub async fn look_up(relay: &RelayUrl) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((relay.host(), relay.port())).await?.collect())
}

/// Connects to the first address of the relay that answers. Where there is a proxy, [`Proxy::connect`](crate::Proxy::connect)
/// takes the place of this step and the one before.
pub async fn connect(relay: &RelayUrl) -> io::Result<TcpStream> {
    tcp::connect(relay.host(), relay.port()).await
}

/// Agrees on TLS with the relay, whose certificate must be good for its host.
pub async fn encrypt<T: crate::Socket>(
    relay: &RelayUrl,
    tls: &Arc<ClientConfig>,
    socket: T,
) -> io::Result<TlsStream<T>> {
    let name = ServerName::try_from(relay.host().to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    TlsConnector::from(Arc::clone(tls)).connect(name, socket).await
}
