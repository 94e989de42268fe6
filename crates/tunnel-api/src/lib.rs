//! The types of tunneld's local API and of its configuration.
//!
//! What the daemon answers on its control socket and port, and what its clients (tunnelctl, the tray, the
//! dashboard) read: [`Status`], [`Connection`], [`Health`], [`Version`], [`TunnelAnswer`], [`Usage`], [`Events`],
//! [`AuthStatus`],
//! [`ErrorBody`].
//! And what a configuration file may say: [`Config`], with [`Config::check`] that reports all faults at
//! once, so that a file can be checked without a daemon.
//!
//! Field names are a contract with clients of the original system. A newer peer degrades instead of failing:
//! unknown fields are skipped, missing ones take their default, unknown enum values become `Unknown`.
//!
//! ```
//! use tunnel_api::Config;
//!
//! let file = tunnel_api::config::parse(r#"{ "ollamaPort": 70000, "logLevel": "LOUD" }"#)?;
//! let faults = Config::check(&file).expect_err("two faults");
//! assert_eq!(faults.len(), 2);
//! assert_eq!(faults[0].rule, "Ollama port must be between 1 and 65535");
//! # Ok::<(), tunnel_api::config::NotJson>(())
//! ```
//!
//! Knows nothing of HTTP, of async code, or of how the daemon works.

pub mod auth;
pub mod config;
pub mod config_api;
pub mod connection;
pub mod credential;
pub mod detect;
pub mod device;
pub mod diagnosis;
pub mod error;
pub mod event;
pub mod explain;
pub mod health;
pub mod key;
pub mod log_level;
pub mod metrics;
pub mod model;
pub mod paths;
pub mod request;
pub mod status;
pub mod tunnel;
pub mod usage;
pub mod warning;
pub mod ws;

pub use auth::{
    AuthStatus, LoginBegun, LoginFlow, LoginRequest, LoginState, LoginStatus, StoredIn, TokenRequest,
};
pub use config::Config;
pub use connection::{Connection, ConnectionReport, Connections};
pub use detect::{Detected, DetectedServer};
pub use device::{Device, DeviceModel, Devices};
pub use diagnosis::{Check, Diagnosis, Verdict};
pub use error::ErrorBody;
pub use event::{Event, Events};
pub use health::{Health, HealthStatus, LogTarget, Version};
pub use key::{
    Key, KeyLimits, KeyReach, KeyRequest, Keys, LOCAL_KEY_PREFIX, NewKey, WantedLimits, local_key_id,
};
pub use log_level::LogLevelAnswer;
pub use metrics::Metrics;
pub use model::{
    AliasOrder, Model, ModelAlias, ModelMove, ModelMoves, ModelOrder, Models, WarmModel, WarmState,
};
pub use request::Requests;
pub use status::{Gateway, Status};
pub use tunnel::{Tunnel, TunnelAnswer, TunnelState};
pub use usage::{Usage, UsageBy, UsageRow};
pub use warning::{Severity, Warning, Warnings};

/// Version of the local API's contract, as `GET /api/version` tells it.
pub const API_VERSION: &str = "1.0";

/// Name of the tunnel protocol, as `GET /api/version` tells it.
pub const PROTOCOL: &str = "tunnel.v1";

/// Response header that carries the daemon's version in each answer of the local API.
pub const VERSION_HEADER: &str = "tunneld-version";
