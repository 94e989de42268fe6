//! The relay: callers on one side, desktops behind their tunnels on the other.
//!
//! A desktop dials [`tunnel_transport::CONNECT_PATH`] and keeps one session; a caller sends ordinary HTTP requests
//! with a bearer token, and the relay passes each one down the session of the caller's device, paths and bodies as
//! they are. There is no database: a token says who somebody is, and which device is connected is known to the process.
//!
//! - [`Relay::start`] starts one; [`Relay::shutdown`] lets it finish what runs.
//! - [`auth::LocalIssuer`] signs tokens with the key in the data directory.
//! - [`Settings`] are the limits and times.
//!
//! ```no_run
//! # async fn example() -> Result<(), tunnel_relay::StartError> {
//! use std::time::Duration;
//! use tunnel_relay::{Relay, RelayConfig, Settings};
//!
//! let relay = Relay::start(RelayConfig {
//!     listen: "127.0.0.1:0".into(),
//!     admin_listen: "127.0.0.1:0".into(),
//!     data_dir: "/var/lib/tunnel-relay".into(),
//!     grace: Duration::from_secs(30),
//!     drain_notice: Duration::ZERO,
//!     settings: Settings::default(),
//!     settings_file: None,
//! })
//! .await?;
//! let callers_go_to = format!("http://{}", relay.listen_addr());
//! relay.shutdown();
//! relay.wait().await;
//! # Ok(())
//! # }
//! ```
//!
//! What a request means is left to the desktop. The relay looks for the model that it names, and only where that
//! decides which of several desktops gets it, or whether the token holds for it.

mod account;
#[cfg(feature = "acme")]
mod acme;
mod admin;
mod attach;
mod audit;
pub mod auth;
mod body;
mod caller_body;
mod choose;
pub mod cli;
mod client;
mod config;
mod cors;
mod dial_pace;
mod drain;
mod error;
mod forward;
mod headers;
mod hex;
mod ingress;
mod limits;
mod listener;
mod merge;
mod metrics;
mod presence;
mod private_file;
mod registry;
mod relay;
mod strict;
mod target;
mod tls;
mod waiting;

pub use config::{
    AcmeSettings, AddressLimits, EdgeSettings, IssuerSettings, KeySource, LoginSettings, ProxyHeader,
    Settings, SettingsError, Tier, TlsSettings,
};
pub use listener::ListenError;
pub use private_file::PrivateFileError;
pub use relay::{Relay, RelayConfig, StartError};
pub use tls::{TlsError, TlsStatus};
