//! The tunnel between a desktop and a relay.
//!
//! One outbound WebSocket carries every request that the relay has for the desktop: HTTP/2 with the roles
//! reversed, on a *link* that outlives the WebSocket under it. A stream that is running when the network changes
//! goes on, byte for byte, once the desktop is back.
//!
//! - [`Connector`] is the desktop's end: [`Connector::dial`] makes a [`Desktop`], whose [`Server`] serves the
//!   requests; [`Connector::resume`] gives a session a new socket.
//! - [`Acceptor`] is the relay's end: [`DialRequest::parse`] reads a dial, [`Acceptor::open`] answers it, and
//!   [`RelaySession::send`] sends requests.
//! - [`steps`] are those of a dial, for whoever wants to know which one fails;
//! - [`Session`] is the handle of either end: its state, and how to end it.
//!
//! When to dial, who may, and what a request means is left to others: nothing here knows of models, users,
//! configuration files or databases. The protocol is described in `docs/protocol.md`.

mod acceptor;
mod backoff;
mod closed;
mod connector;
mod dial_error;
pub mod frame;
mod frame_meter;
mod link;
mod names;
mod pace;
mod proxy;
mod relay_url;
mod replay;
mod session;
mod settings;
pub mod steps;
mod tls;
mod ws;

pub use acceptor::{
    Acceptor, AcceptorConfig, BadDial, BodyError, DialKind, DialRequest, Driver, Gone, RelaySession,
    ResponseBody, Resumption, SendError, plain_socket,
};
pub use backoff::Backoff;
pub use closed::{CloseCode, Closed, printable};
pub use connector::{Connector, ConnectorConfig, Desktop, Server, tune_socket};
pub use dial_error::{DialError, Retry};
pub use frame_meter::{Flood, FrameMeter, MeteredPeer, PREFACE};
pub use link::Socket;
pub use names::{BadDeviceName, BadSessionId, DeviceName, SessionId};
pub use proxy::{Proxy, ProxyError};
pub use relay_url::{RelayUrl, RelayUrlError, is_loopback};
pub use session::{LinkState, Session};
pub use tls::{TlsError, tls_config};

/// Where a relay takes dials.
pub const CONNECT_PATH: &str = "/_tunnel/v1/connect";
/// What a relay that drains asks its desktops, as a `POST` on the tunnel: please dial a second session.
pub const MIGRATE_PATH: &str = "/_tunnel/v1/migrate";
/// Where a relay asks a desktop, by a `GET` on the tunnel, for its models and its load.
pub const PRESENCE_PATH: &str = "/_tunnel/v1/presence";
/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "tunnel.v1";

/// The error of a body that is passed on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
