//! What each of our long-running processes needs around its work, without knowing what the work is.
//!
//! - [`layers`]: one set of configuration values out of defaults, a file, the environment and flags, with the
//!   origin of each;
//! - [`telemetry`]: logs to the journal or to standard error, with a level that can be changed live;
//! - [`Lifecycle`]: signals, an orderly end with a deadline, tasks that somebody waits for;
//! - [`systemd`]: what the service manager is told.
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
//! tunnel_runtime::systemd::ready("listening");
//! level.set(LevelFilter::DEBUG);
//! Ok(lifecycle.run().await.into())
//! # }
//! ```

pub mod layers;
mod lifecycle;
pub mod systemd;
pub mod telemetry;

pub use lifecycle::{Lifecycle, Outcome};
pub use telemetry::LogLevel;
pub use tracing_subscriber::filter::LevelFilter;
