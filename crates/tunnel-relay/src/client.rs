//! Who is at the other end of a connection, or behind the proxy that is.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use crate::headers;
use crate::listener::Connection;

/// The caller's address as far as it can be trusted.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// The `forwarded` header for its requests.
    pub(crate) forwarded: HeaderValue,
}

impl Client {
    /// Tells who sent a request with these headers: the other end of the connection, or, where that is a trusted proxy,
    /// the one that the proxy names.
    pub(crate) fn of(connection: &Connection, _headers: &HeaderMap) -> Self {
        Self { address: connection.peer, forwarded: headers::forwarded(connection.peer) }
    }
}
