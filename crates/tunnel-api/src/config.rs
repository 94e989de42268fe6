//! The configuration of tunneld: every key, its default, its rule.
//!
//! [`Config`]'s fields are the reference. A configuration file is one JSON object with these keys in
//! camelCase (`ollamaPort`); whole keys may be left out. [`parse`] reads its text, [`Config::check`] judges it.

mod check;
mod connection;
mod fault;
mod hint;
mod import;
mod json;
mod models;
mod origin;
mod remote_paths;
mod rule;
mod sandbox;
#[cfg(feature = "schema")]
mod schema;
mod section;
mod text;
mod write;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use url::Url;

pub use self::connection::{ConnectionConfig, ConnectionType, is_connection_id};
pub use self::fault::Fault;
pub use self::hint::ollama_host_hint;
pub use self::import::{Import, ImportedToken, import};
pub use self::json::{NotJson, is_blank, parse};
pub use self::models::is_model_name;
pub use self::origin::{BadOrigin, OriginPattern};
pub use self::remote_paths::{BadPathRule, PathRule, RemotePaths};
pub use self::sandbox::SandboxConfig;
pub use self::section::nearest;
pub use self::text::{merge_patch, pretty};

/// Key of a configuration file that names its schema, for editors; it configures nothing.
pub const SCHEMA_KEY: &str = "$schema";

/// Everything that can be set. Each field names the key of the same name in camelCase.
///
/// Made by [`Config::check`] or [`Config::default`], so each value keeps its rule. The comments of the fields are
/// the descriptions in `dist/tunnel_config.schema.json` and `docs/configuration.md`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", schemars(default, deny_unknown_fields, transform = schema::allow_naming_it))]
pub struct Config {
    /// Whether the connection `ollama` exists. Default true.
    pub enable_local_ollama: bool,

    /// Where the local Ollama is: a host name or an IP address, with `https://` before it if it speaks TLS.
    /// Default `localhost`, which tries 127.0.0.1, then \[::1\]. Not empty.
    ///
    /// `$OLLAMA_HOST` is a hint when neither this key nor `ollamaPort` is set.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::host"))]
    pub ollama_host: String,

    /// The local Ollama's port, 1–65535. Default 11434.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::port"))]
    pub ollama_port: NonZeroU16,

    /// Longest wait for a TCP and TLS connection to a backend or the relay, in seconds, 1–300. Default 30.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::seconds::<1, 300>"))]
    #[serde(serialize_with = "write::seconds")]
    pub connection_timeout: Duration,

    /// Whether the tunnel and the connection `cloud` exist. Default true.
    ///
    /// Without a token they show `no token`, which is no error.
    pub enable_cloud_proxy: bool,

    /// The relay's address: `https://…`, or `http://…` for a loopback address.
    /// Default `https://app.cloudtolocalllm.online`. No user name, password, query or fragment.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::http_url"))]
    #[serde(serialize_with = "write::url_text")]
    pub cloud_proxy_url: Url,

    /// The audience asked for at login and expected in tokens.
    /// Default `https://api.cloudtolocalllm.online`; empty: none is asked for.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::line"))]
    pub cloud_proxy_audience: String,

    /// The control port on 127.0.0.1 and \[::1\], 1–65535. Default 8765.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::port"))]
    pub api_server_port: NonZeroU16,

    /// Whether the control port is open. Default true. The control socket is always there.
    pub enable_api_server: bool,

    /// Web origins that may read from the control port, each `scheme://host[:port]`, the port may be `*`.
    /// Default `["http://localhost:*", "https://app.cloudtolocalllm.online"]`; empty: none but our own pages.
    ///
    /// An entry with a wildcard opens reads only; what changes state needs an entry without one.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::origins"))]
    pub allowed_origins: Vec<OriginPattern>,

    /// Time between two probes of a connection, up or down, in seconds, 5–300. Default 30.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::seconds::<5, 300>"))]
    #[serde(serialize_with = "write::seconds")]
    pub health_check_interval: Duration,

    /// Probes in a row that must fail before a connection counts as down, at least 1. Default 5.
    ///
    /// The tunnel itself never gives up.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::positive"))]
    pub max_retries: NonZeroU32,

    /// First delay between two attempts, in seconds, at least 1. Default 2.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::seconds::<1, { rule::NO_MAXIMUM }>"))]
    #[serde(serialize_with = "write::seconds")]
    pub retry_delay: Duration,

    /// Idle connections kept per backend, 1–1000. Default 10.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::whole::<1, 1000>"))]
    pub connection_pool_size: NonZeroUsize,

    /// Longest silence between two chunks of a response, in seconds, at least 5. Default 60.
    ///
    /// Never a limit on the whole response; the time to the first chunk is `firstByteTimeout`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::seconds::<5, { rule::NO_MAXIMUM }>"))]
    #[serde(serialize_with = "write::seconds")]
    pub request_timeout: Duration,

    /// Whether metrics and usage are kept and their endpoints answer. Default true.
    pub enable_metrics: bool,

    /// Whether the tray shows its icon only. Default true.
    pub minimize_to_tray: bool,

    /// Whether the dashboard stays closed at start. Default false.
    pub start_minimized: bool,

    /// Whether desktop notifications are sent. Default true.
    pub show_notifications: bool,

    /// Least severe level that our own code logs: `DEBUG`, `INFO`, `WARN` or `ERROR`. Default `INFO`.
    /// Takes effect at once; dependencies stay at `WARN`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::log_level"))]
    pub log_level: LogLevel,

    /// Whether the tunnel is dialled when the daemon starts. Default true.
    pub auto_start_tunnel: bool,

    /// Whether the user unit is enabled, so that the daemon starts with the machine. Default false.
    pub auto_start_on_boot: bool,

    /// The gateway's port on 127.0.0.1 and \[::1\], 1–65535. Default 11435.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::port"))]
    pub gateway_port: NonZeroU16,

    /// Whether the gateway is open. Default true.
    pub enable_gateway: bool,

    /// A door of the gateway for other machines. It admits callers with a key only: `tunnelctl keys create --local`.
    pub lan_gateway: LanGateway,

    /// Longest wait for the first byte of a response, in seconds, at least 5. Default 600: a cold model loads.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::seconds::<5, { rule::NO_MAXIMUM }>"))]
    #[serde(serialize_with = "write::seconds")]
    pub first_byte_timeout: Duration,

    /// More backends beside the built-in `ollama`, with unique ids. Default none.
    pub connections: Vec<ConnectionConfig>,

    /// Names of your own for models: each a name and the model that it stands for, `qwen3:8b` or
    /// `<connection>/<model>`. Default none.
    ///
    /// For apps that insist on a name: `"gpt-4o": "qwen3:8b"`. The name is listed beside the models as long as its
    /// model is there; the server is asked by its own name, and the answer names that. A local model that is really
    /// called so comes first, one that only the cloud has does not. As with Ollama, case does not matter, and `fast` is
    /// `fast:latest`. An alias cannot name another one.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::aliases"))]
    pub aliases: BTreeMap<String, String>,

    /// Models that are kept in memory, each `qwen3:8b` or `<connection>/<model>`. Default none.
    ///
    /// They are loaded at start, and again when they have left the server's memory; never while the server works on
    /// requests. Taken out of the list, a model leaves the memory when its server sees fit, half an hour later at most.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::models"))]
    pub keep_warm: Vec<String>,

    /// Which side a request goes to when both have its model: `preferLocal`, `preferCloud` or `localOnly`.
    /// Default `preferLocal`.
    pub routing_policy: RoutingPolicy,

    /// Requests that wait because all backends that could serve them work on as many as they may
    /// (`maxConcurrent`). Slots are shared out fairly between callers.
    pub queue: Queue,

    /// What a request from the tunnel may reach: `"inference"`, `"all"`, or a list of patterns such as
    /// `"POST /api/chat"`, `"* /v1/*"`. Default `"inference"`; an empty list: nothing.
    ///
    /// Inference is chat, completions, embeddings, rerank and score, tokenizing, speech, images, moderation; and
    /// listing and showing models, version. Creating, pulling, pushing, copying and deleting models stays local
    /// unless allowed here. A list stands alone: it does not add to inference.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::remote_paths"))]
    pub remote_paths: RemotePaths,

    /// The name under which the relay knows this machine, 1–63 of `a-z 0-9 -`.
    /// Default null: the host name's first label, made fit.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::device_name"))]
    pub device_name: Option<String>,

    /// Whether this machine is asked first where several of yours can answer a request. Default false.
    ///
    /// A machine that has the request's model in memory comes before it. Of several, the one that connected last counts.
    pub preferred_device: bool,

    /// Thresholds that turn into warnings, events and notifications.
    pub alerts: Alerts,

    /// Time between two metrics messages to clients, in seconds, 1–300. Default 5.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::seconds::<1, 300>"))]
    #[serde(serialize_with = "write::seconds")]
    pub metrics_update_interval: Duration,

    /// Proxy on the way to the relay: `http://`, `https://` (CONNECT) or `socks5://`, without credentials.
    /// Default null: `HTTPS_PROXY` and `NO_PROXY` decide. Never used for a loopback address.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::proxy_url"))]
    #[serde(serialize_with = "write::optional_url_text")]
    pub proxy_url: Option<Url>,

    /// PEM file with certificates that are trusted beside the system's, an absolute path.
    /// Default null: `SSL_CERT_FILE` decides.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::absolute_path"))]
    pub ca_file: Option<PathBuf>,
}

/// Least severe level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Each chunk of a request.
    Trace,
    /// Each branch worth knowing.
    Debug,
    /// What a user would notice.
    Info,
    /// What someone should look at.
    Warn,
    /// What keeps the process from its job.
    Error,
}

impl LogLevel {
    /// Returns the name that the configuration uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// Which side a request goes to when both have its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum RoutingPolicy {
    /// A local backend if one is up, else the cloud.
    PreferLocal,
    /// The cloud if it is up, else a local backend.
    PreferCloud,
    /// Never the cloud.
    LocalOnly,
}

/// Requests that wait for a free slot of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", schemars(default, deny_unknown_fields))]
pub struct Queue {
    /// Most requests that wait for one backend; a further one is answered 429. Default 64; 0: none waits.
    ///
    /// No caller fills the queue alone: one that has few waiting takes the place of the newest of the caller that has
    /// most. A request that waits occupies up to 1 MiB of memory, or up to 64 MiB where its body names the model later
    /// than that, all of those together at most 256 MiB; what is beyond that of its body is not read before its turn.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::whole::<0, { rule::MOST_WAITING }>"))]
    pub max_waiting: usize,
    /// Longest wait, in seconds, 1–3600; one whose turn has not come by then is answered 429. Default 60.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::seconds::<1, 3600>"))]
    #[serde(serialize_with = "write::seconds")]
    pub max_wait: Duration,
}

/// A door of the gateway for other machines. It admits callers with a key only, whoever they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", schemars(default, deny_unknown_fields))]
pub struct LanGateway {
    /// Whether it is open. Default false: nothing listens beyond loopback.
    pub enabled: bool,
    /// The address to listen on: one of this machine's, `0.0.0.0` for all of IPv4, or `::` for all of them.
    /// Default `0.0.0.0`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::ip"))]
    pub address: IpAddr,
    /// The port, 1–65535. Default 11436.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::port"))]
    pub port: NonZeroU16,
    /// PEM file with the certificate that is shown and its chain, an absolute path; read anew when it changes. Together
    /// with `keyFile`. Default null: plain HTTP, so that keys and prompts can be read on the network.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::absolute_path"))]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the certificate's private key, an absolute path; others must not be able to read it. Default null.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::absolute_path"))]
    pub key_file: Option<PathBuf>,
    /// Names by which callers address it, beside IP addresses, names without a dot and `*.local`. Default none.
    ///
    /// A further line of defence: a page in a browser that gets at this door through a name of its own has no key.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::host_names"))]
    pub allowed_hosts: Vec<String>,
}

impl LanGateway {
    /// Returns certificate and key. None: plain HTTP is spoken.
    pub fn tls_files(&self) -> Option<(&Path, &Path)> {
        self.cert_file.as_deref().zip(self.key_file.as_deref())
    }
}

/// Thresholds that turn into warnings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", schemars(default, deny_unknown_fields))]
pub struct Alerts {
    /// Latency of a connection's probe, in milliseconds, at least 1. Default 5000.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::whole::<1, { rule::NO_MAXIMUM }>"))]
    #[serde(serialize_with = "write::milliseconds")]
    pub latency_ms: Duration,
    /// Share of requests that failed, in percent, 0–100. Default 10.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::percent"))]
    #[serde(serialize_with = "write::percent")]
    pub error_rate_percent: f64,
    /// Failures in a row, at least 1. Default 5.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::positive"))]
    pub consecutive_failures: NonZeroU32,
    /// Memory of the daemon, in MiB, at least 1. Default 100.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::positive"))]
    #[serde(rename = "memoryMB")]
    pub memory_mb: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enable_local_ollama: true,
            ollama_host: "localhost".to_owned(),
            ollama_port: port(11434),
            connection_timeout: Duration::from_secs(30),
            enable_cloud_proxy: true,
            cloud_proxy_url: Url::parse("https://app.cloudtolocalllm.online")
                .expect("a constant that parses"),
            cloud_proxy_audience: "https://api.cloudtolocalllm.online".to_owned(),
            api_server_port: port(8765),
            enable_api_server: true,
            allowed_origins: ["http://localhost:*", "https://app.cloudtolocalllm.online"]
                .map(|origin| origin.parse().expect("a constant that parses"))
                .into(),
            health_check_interval: Duration::from_secs(30),
            max_retries: at_least_one(5),
            retry_delay: Duration::from_secs(2),
            connection_pool_size: NonZeroUsize::new(10).expect("a constant above 0"),
            request_timeout: Duration::from_secs(60),
            enable_metrics: true,
            minimize_to_tray: true,
            start_minimized: false,
            show_notifications: true,
            log_level: LogLevel::Info,
            auto_start_tunnel: true,
            auto_start_on_boot: false,
            gateway_port: port(11435),
            enable_gateway: true,
            lan_gateway: LanGateway::default(),
            first_byte_timeout: Duration::from_secs(600),
            connections: Vec::new(),
            aliases: BTreeMap::new(),
            keep_warm: Vec::new(),
            routing_policy: RoutingPolicy::PreferLocal,
            queue: Queue::default(),
            remote_paths: RemotePaths::Inference,
            device_name: None,
            preferred_device: false,
            alerts: Alerts::default(),
            metrics_update_interval: Duration::from_secs(5),
            proxy_url: None,
            ca_file: None,
        }
    }
}

impl Default for LanGateway {
    fn default() -> Self {
        Self {
            enabled: false,
            address: Ipv4Addr::UNSPECIFIED.into(),
            port: port(11436),
            cert_file: None,
            key_file: None,
            allowed_hosts: Vec::new(),
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { max_waiting: 64, max_wait: Duration::from_secs(60) }
    }
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            latency_ms: Duration::from_secs(5),
            error_rate_percent: 10.0,
            consecutive_failures: at_least_one(5),
            memory_mb: at_least_one(100),
        }
    }
}

impl Config {
    /// Returns the configuration as the text of a configuration file, all keys in it, with a line end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("has no map keys but strings");
        text.push('\n');
        text
    }

    /// Returns the configuration as keys and values, as [`Config::check`] takes them; unset ones are null.
    pub fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            // Cannot happen: a struct serialises to an object.
            _ => Map::new(),
        }
    }

    /// Returns the local Ollama's base address.
    pub fn ollama_url(&self) -> Url {
        rule::ollama_url(&self.ollama_host, self.ollama_port).expect("checked in Config::check")
    }

    /// Returns the name under which the relay knows this machine: `deviceName`, else `hostname` made fit.
    ///
    /// Of a host name its first label is taken, in lower case, with each other character as `-`;
    /// `desktop` when nothing is left.
    pub fn device_name(&self, hostname: &str) -> String {
        match &self.device_name {
            Some(name) => name.clone(),
            None => device_name_from(hostname),
        }
    }
}

fn device_name_from(hostname: &str) -> String {
    let label = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let name: String = label
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(63)
        .collect();
    match name.trim_matches('-') {
        "" => "desktop".to_owned(),
        name => name.to_owned(),
    }
}

fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).expect("a constant above 0")
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("a constant above 0")
}

#[cfg(test)]
mod tests;
