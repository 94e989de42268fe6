//! The data plane: knows the local model servers, and forwards each request to one of them.
//!
//! A [`Broker`] is given [`BackendConfig`]s. It probes each backend, keeps a catalogue of their models, and
//! answers requests through [`Broker::handle`]: the path tells the caller's API (`/api` Ollama's, `/v1`
//! OpenAI's), the body the model, the catalogue the backend. Bodies are streamed both ways; nothing is limited
//! in its total duration. [`BackendStatus`] tells how the backends are.
//!
//! Requests to models are measured while they pass: [`Broker::metrics`] returns sums and percentiles,
//! [`Broker::records`] each request that has ended, [`Broker::requests`] those that run, and [`Broker::cancel`] ends
//! one. Values of labels come from the configuration and from the backends' lists, never from a caller.
//!
//! ```
//! use tokio_util::{sync::CancellationToken, task::TaskTracker};
//! use tunnel_broker::{BackendConfig, BackendKind, Broker, BrokerConfig, Ingress};
//!
//! # async fn example(request: http::Request<http_body_util::Full<bytes::Bytes>>) {
//! let ollama = "http://localhost:11434".parse().expect("it is a URL");
//! let config = BrokerConfig {
//!     backends: vec![BackendConfig::new("ollama", BackendKind::Ollama, ollama)],
//!     ..BrokerConfig::default()
//! };
//! let broker = Broker::start(config, &TaskTracker::new(), CancellationToken::new());
//! let response = broker.handle(Ingress::Local, request).await;
//! # drop(response);
//! # }
//! ```
//!
//! It does not listen, and knows nothing of tunnels, relays, users and configuration files. Who may call at
//! all, which origins are allowed, and what a browser may do is for its caller to decide.

mod admission;
mod affinity;
mod alias;
mod attempt;
mod backend;
mod body;
mod books;
mod breaker;
mod broker;
mod budget;
mod call;
mod catalog;
mod class;
mod config;
mod conn;
mod connect;
mod credential;
mod decide;
mod dialect;
mod doubt;
mod error;
mod exchange;
mod explain;
mod finished;
mod forward;
mod headers;
mod health;
mod idle;
mod inband;
mod kept;
mod listing;
mod load;
mod loading;
mod media;
mod memory;
mod meter;
mod metrics;
mod offer;
mod origin;
mod outcomes;
mod pass;
mod path;
mod permit;
mod place;
mod policy;
mod pool;
mod prefix;
mod prober;
mod profile;
mod queue;
mod room;
mod route;
mod rule;
mod scope;
mod search;
mod shared;
mod slots;
mod status;
mod table;
mod tally;
mod tls;
mod track;
mod unread;
mod upload;
mod upstream;
mod usage;
mod wait;

pub use alias::Aliases;
pub use body::{Body, BodyError, BoxError};
pub use broker::{Broker, Ingress};
pub use class::EndpointClass;
pub use config::{BackendConfig, BackendKind, BrokerConfig, QueueLimits, RoutingPolicy};
pub use connect::connect_socket;
pub use credential::{Credential, InvalidSecret};
pub use error::FailureCode;
pub use explain::{Considered, Explanation, Query, Refusal, ResolvedBy, Verdict};
pub use finished::{CallerLabel, Finished, Outcome};
pub use memory::{KeepAlive, KeptWarm, LoadOrder, MoveError, Moved, WarmState};
pub use metrics::{
    ConnectionMetrics, LastFailure, MetricsSnapshot, ModelMetrics, Percentiles, Rates, Totals,
};
pub use policy::{Denied, RemotePaths};
pub use profile::{
    Api, HealthCheck, Lists, Loaded, ModelCall, ModelList, Names, PluginError, Profile, Recommended, Side,
    Speaks, Text, VersionCheck,
};
pub use rule::{PathRule, PathRuleError};
pub use scope::CallerScope;
pub use status::{AliasStatus, BackendState, BackendStatus, BreakerState, Health, ModelInfo, OfferedModel};
pub use tally::Tally;
pub use track::{RequestState, RunningRequest};
