//! What each of our long-running processes needs around its work, without knowing what the work is.
//!
//! - [`layers`]: one set of configuration values out of defaults, a file, the environment and flags, with the
//!   origin of each;
//! - [`telemetry`]: logs to the journal, to standard error or to a file, with a level that can be changed live;
//! - [`Lifecycle`]: signals, an orderly end with a deadline, tasks that somebody waits for;
//! - [`systemd`]: what the service manager is told, and the sockets that it passes;
//! - [`file_watch`]: noticing that a file has changed, by whatever way;
//! - [`files`]: opening a file without waiting for anybody;
//! - [`AddressKey`]: what counts as one address, where addresses are counted;
//! - [`metrics`]: the page of metrics, in the format that its reader wants.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::time::Duration;
//! use tunnel_runtime::{Lifecycle, LevelFilter, telemetry};
//!
//! # async fn main_() -> Result<ExitCode, Box<dyn std::error::Error>> {
//! let level = telemetry::init("tunneld", LevelFilter::INFO, std::env::var("TUNNELD_LOG").ok().as_deref())?;
//! let lifecycle = Lifecycle::new(Duration::from_secs(20))?;
//! let soft = lifecycle.soft();
//! lifecycle.spawn_critical("gateway", async move { soft.cancelled().await });
//! tunnel_runtime::systemd::ready_with_status("listening");
//! level.set(LevelFilter::DEBUG);
//! Ok(lifecycle.run().await.into())
//! # }
//! ```

mod address_key;
pub mod file_watch;
pub mod files;
pub mod layers;
mod lifecycle;
pub mod metrics;
pub mod systemd;
pub mod telemetry;

pub use address_key::AddressKey;
pub use lifecycle::{CriticalTasks, Lifecycle, Outcome};
pub use telemetry::LogLevel;
pub use tracing_subscriber::filter::LevelFilter;
