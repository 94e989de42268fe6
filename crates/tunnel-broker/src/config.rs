use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::alias::Aliases;
use crate::credential::Credential;
use crate::policy::RemotePaths;
use crate::profile::{self, Profile};

/// What a [`Broker`](crate::Broker) works with; replaced as a whole by [`Broker::reconfigure`](crate::Broker::reconfigure).
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// The model servers, in the order in which they are named to people. Empty: every request is answered 503.
    pub backends: Vec<BackendConfig>,
    /// Longest wait for a TCP (and TLS) connection to a backend. Default 30 s.
    ///
    /// Also bounds how long a request waits for the first probe of a broker that has just started.
    pub connect_timeout: Duration,
    /// Longest silence between the end of the upload and the response's headers. Default 600 s.
    ///
    /// Long on purpose: a cold model takes minutes to load. Progress of an upload starts it anew.
    pub first_byte_timeout: Duration,
    /// Longest silence between two chunks of a response while the caller is reading. Default 60 s.
    pub idle_timeout: Duration,
    /// Time between two probes of a backend. Default 30 s.
    pub probe_interval: Duration,
    /// Probes that must fail in a row before a backend that was up counts as down. Default 5; 0 is taken as 1.
    pub probe_failures: u32,
    /// Delay before the probe that follows the first failed one; doubles up to `probe_interval`. Default 2 s.
    pub retry_delay: Duration,
    /// Idle connections kept per backend. Default 10.
    ///
    /// More than that may stay for a second after a burst; connections in use are not limited.
    pub pool_size: usize,
    /// What a request from the tunnel may reach. Default [`RemotePaths::Inference`].
    pub remote_paths: RemotePaths,
    /// Which side a request goes to when both have its model. Default [`RoutingPolicy::PreferLocal`].
    pub routing_policy: RoutingPolicy,
    /// The user's own names for models.
    pub aliases: Aliases,
    /// Models that are kept in memory, each `<model>` or `<connection>/<model>`.
    pub keep_warm: Vec<String>,
    /// How many requests may wait for one backend, and how long.
    pub queue: QueueLimits,
    /// A PEM file with roots that certificates of backends are good to beside the system's. Default none.
    pub ca_file: Option<PathBuf>,
    /// Whether requests are measured and recorded. Default true. Running requests are listed in any case.
    pub metrics_enabled: bool,
    /// Our own version: `GET /api/version` answers it when no Ollama is there to be asked.
    pub version: String,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            backends: Vec::new(),
            connect_timeout: Duration::from_secs(30),
            first_byte_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(60),
            probe_interval: Duration::from_secs(30),
            probe_failures: 5,
            retry_delay: Duration::from_secs(2),
            pool_size: 10,
            remote_paths: RemotePaths::Inference,
            routing_policy: RoutingPolicy::PreferLocal,
            aliases: Aliases::default(),
            keep_warm: Vec::new(),
            queue: QueueLimits::default(),
            ca_file: None,
            metrics_enabled: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Which side a request goes to when both have its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoutingPolicy {
    /// A local backend if one is up, else the cloud.
    PreferLocal,
    /// The cloud if it is up, else a local backend.
    PreferCloud,
    /// Never the cloud.
    LocalOnly,
}

impl RoutingPolicy {
    /// The name used in configuration: `preferLocal`, `preferCloud` or `localOnly`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreferLocal => "preferLocal",
            Self::PreferCloud => "preferCloud",
            Self::LocalOnly => "localOnly",
        }
    }
}

/// Limits of the requests that wait for a free slot of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most requests that wait for one backend; a further one is refused. Default 64; 0: none waits.
    pub max_waiting: usize,
    /// Longest wait. Default 60 s.
    pub max_wait: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { max_waiting: 64, max_wait: Duration::from_secs(60) }
    }
}

/// One model server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// Unique name, used in `X-Tunnel-Connection`, in `<id>/<model>` and in logs.
    pub id: String,
    /// What it is called in the configuration.
    pub kind: BackendKind,
    /// How to talk with it: what is known of its kind, or what a plugin said of itself.
    pub profile: Arc<Profile>,
    /// Where it is, `http`, `https` or `unix` with the path of a socket. A path becomes a prefix of each request's path,
    /// but for an end that belongs to its API, as [`Profile::own_path`] says.
    pub url: Url,
    /// Lower is asked first. Default 0.
    pub priority: u32,
    /// Share of the load among backends of equal priority. Default 1.
    pub weight: NonZeroU32,
    /// Requests that may run on it at once. None: no limit of ours.
    pub max_concurrent: Option<NonZeroU32>,
    /// The models to offer. Empty: all that the server lists.
    pub models: Vec<String>,
    /// The secret that is sent to it; over TLS or to this machine only.
    pub credential: Option<Credential>,
    /// A backend that is not enabled is neither probed nor asked.
    pub enabled: bool,
}

impl BackendConfig {
    /// Returns an enabled backend with the default priority and weight, no limit, no secret, and all its models.
    pub fn new(id: impl Into<String>, kind: BackendKind, url: Url) -> Self {
        Self {
            id: id.into(),
            kind,
            profile: Arc::new(kind.profile().clone()),
            url,
            priority: 0,
            weight: NonZeroU32::MIN,
            max_concurrent: None,
            models: Vec::new(),
            credential: None,
            enabled: true,
        }
    }
}

/// What a backend is called in the configuration. What that means says its [`Profile`]: nothing else may depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// Ollama: `/api/*`, and OpenAI's API at `/v1/*`.
    Ollama,
    /// Any server with OpenAI's API only.
    OpenAi,
    /// llama.cpp's `llama-server`.
    LlamaCpp,
    /// vLLM.
    Vllm,
    /// LM Studio.
    LmStudio,
    /// Another relay's address, or an account of the user's own, with Ollama's or OpenAI's API.
    Cloud,
    /// A program that describes itself.
    Plugin,
}

impl BackendKind {
    /// All of them, the most usual first.
    pub const ALL: [Self; 7] =
        [Self::Ollama, Self::LlamaCpp, Self::Vllm, Self::LmStudio, Self::OpenAi, Self::Cloud, Self::Plugin];

    /// What is known of it.
    pub fn profile(self) -> &'static Profile {
        match self {
            Self::Ollama => &profile::OLLAMA,
            Self::OpenAi => &profile::OPENAI,
            Self::LlamaCpp => &profile::LLAMACPP,
            Self::Vllm => &profile::VLLM,
            Self::LmStudio => &profile::LMSTUDIO,
            Self::Cloud => &profile::CLOUD,
            Self::Plugin => &profile::PLUGIN,
        }
    }

    /// The name used in configuration and status, such as `llamacpp`.
    pub fn as_str(self) -> &'static str {
        &self.profile().name
    }

    /// Returns the kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}
