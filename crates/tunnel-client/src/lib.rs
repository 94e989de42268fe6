//! Client of tunneld's local API, over its control socket or its control port.
//!
//! [`Door`] says where the daemon is, [`Client`] asks it, [`Watch`] follows it, [`Error`] says what went wrong,
//! what to do about it, and with which code a command line ends.
//!
//! ```no_run
//! use tunnel_client::{Client, Door};
//!
//! # async fn example() -> Result<(), tunnel_client::Error> {
//! let client = Client::new(Door::find(|name| std::env::var_os(name)))?;
//! let status = client.status().await?;
//! println!("the tunnel is {}", status.tunnel.state);
//! # Ok(())
//! # }
//! ```
//!
//! Knows nothing of command lines or of how the daemon works.

mod client;
mod door;
mod error;
mod watch;

pub use client::{Client, VersionMismatch, VersionedConfig};
pub use door::{BadUrl, DEFAULT_PORT, Door};
pub use error::{Error, exit};
pub use watch::{Update, Watch};
