//! tunneld, the desktop's daemon: one broker for the local model servers, two ways to it.
//!
//! Local programs come through the gateway, a loopback port with Ollama's and OpenAI's API. Remote callers come
//! through the tunnel, one outbound connection to a relay. Both meet in `tunnel-broker`, which picks a server and
//! forwards. The command line, the tray and the dashboard look at the control API, on a socket and a loopback port.
//!
//! - [`Cli`] and [`Options`]: what it is started with; [`Loaded`]: a configuration that was found valid;
//! - [`Daemon`]: what runs. It is the same thing in `main` and in tests.
//!
//! ```no_run
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use tunneld::{Daemon, Deps, Loaded, Options};
//!
//! let options = Options { config: Some("tunnel_config.json".into()), ..Options::default() };
//! let loaded = Loaded::load(&options)?;
//! let lifecycle = tunnel_runtime::Lifecycle::new(tunneld::DRAIN)?;
//! let daemon = Daemon::start(options, loaded, &lifecycle, Deps::default()).await?;
//! println!("ask {:?}", daemon.gateway());
//! lifecycle.run_while(daemon.heartbeat()).await;
//! # Ok(())
//! # }
//! ```
//!
//! How a request is routed and forwarded is `tunnel-broker`'s, what goes over the wire to the relay
//! `tunnel-transport`'s; this crate decides when to dial, who may ask, and what is shown.

mod alerts;
mod api;
mod boot;
mod chronicle;
mod cli;
mod config;
mod daemon;
mod detect;
mod diagnosis;
mod doors;
mod exchange;
mod gateway;
mod guard;
mod joint;
mod keys;
mod login;
mod notify;
mod page;
mod plugins;
#[cfg(test)]
mod private_bus;
mod refused;
mod reload;
mod resources;
mod scribe;
mod secrets;
mod status;
mod store;
mod surroundings;
mod tunnel;
mod unit_status;
mod until;
mod view;
mod warnings;
mod world;

use std::time::Duration;

pub use cli::Cli;
pub use config::{LoadError, Loaded, Options};
pub use daemon::{Beat, Daemon, Deps, StartError};
pub use doors::socket::SocketError;
pub use doors::{BindError, Door};

/// How long running requests may go on after SIGTERM. Below the stop timeout of the service manager, which
/// would kill what is left.
pub const DRAIN: Duration = Duration::from_secs(25);
