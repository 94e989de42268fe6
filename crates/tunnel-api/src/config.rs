//! The configuration of tunneld: every key, its default, its rule.
//!
//! [`Config`]'s fields are the reference. A configuration file is one JSON object with these keys in
//! camelCase (`ollamaPort`); whole keys may be left out. [`parse`] reads its text, [`Config::check`] judges it.

mod connection;
mod fault;
mod hint;
mod json;
mod origin;
mod remote_paths;
mod rule;
mod section;

use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use url::Url;

pub use self::connection::{ConnectionConfig, ConnectionType};
pub use self::fault::Fault;
pub use self::hint::ollama_host_hint;
pub use self::json::{NotJson, parse};
pub use self::origin::{BadOrigin, OriginPattern};
pub use self::remote_paths::{BadPathRule, PathRule, RemotePaths};
use self::section::Section;

/// Everything that can be set. Each field names the key of the same name in camelCase.
///
/// Made by [`Config::check`] or [`Config::default`], so each value keeps its rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Whether the connection `ollama` exists. Default true.
    pub enable_local_ollama: bool,

    /// Where the local Ollama is: a host name or an IP address, with `https://` before it if it speaks TLS.
    /// Default `localhost`, which tries 127.0.0.1, then \[::1\]. Not empty.
    ///
    /// `$OLLAMA_HOST` is a hint when neither this key nor `ollamaPort` is set.
    pub ollama_host: String,

    /// The local Ollama's port, 1–65535. Default 11434.
    pub ollama_port: NonZeroU16,

    /// Longest wait for a TCP and TLS connection to a backend or the relay, in seconds, 1–300. Default 30.
    #[serde(serialize_with = "seconds")]
    pub connection_timeout: Duration,

    /// Whether the tunnel and the connection `cloud` exist. Default true.
    ///
    /// Without a token they show `no token`, which is no error.
    pub enable_cloud_proxy: bool,

    /// The relay's address: `https://…`, or `http://…` for a loopback address.
    /// Default `https://app.cloudtolocalllm.online`. No user name, password, query or fragment.
    #[serde(serialize_with = "url_text")]
    pub cloud_proxy_url: Url,

    /// The audience asked for at login and expected in tokens.
    /// Default `https://api.cloudtolocalllm.online`; empty: none is asked for.
    pub cloud_proxy_audience: String,

    /// The control port on 127.0.0.1 and \[::1\], 1–65535. Default 8765.
    pub api_server_port: NonZeroU16,

    /// Whether the control port is open. Default true. The control socket is always there.
    pub enable_api_server: bool,

    /// Web origins that may read from the control port, each `scheme://host[:port]`, the port may be `*`.
    /// Default `["http://localhost:*", "https://app.cloudtolocalllm.online"]`; empty: none but our own pages.
    ///
    /// An entry with a wildcard opens reads only; what changes state needs an entry without one.
    pub allowed_origins: Vec<OriginPattern>,

    /// Time between two probes of a connection, up or down, in seconds, 5–300. Default 30.
    #[serde(serialize_with = "seconds")]
    pub health_check_interval: Duration,

    /// Probes in a row that must fail before a connection counts as down, at least 1. Default 5.
    ///
    /// The tunnel itself never gives up.
    pub max_retries: NonZeroU32,

    /// First delay between two attempts, in seconds, at least 1. Default 2.
    #[serde(serialize_with = "seconds")]
    pub retry_delay: Duration,

    /// Idle connections kept per backend, 1–1000. Default 10.
    pub connection_pool_size: NonZeroUsize,

    /// Longest silence between two chunks of a response, in seconds, at least 5. Default 60.
    ///
    /// Never a limit on the whole response; the time to the first chunk is `firstByteTimeout`.
    #[serde(serialize_with = "seconds")]
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
    pub log_level: LogLevel,

    /// Whether the tunnel is dialled when the daemon starts. Default true.
    pub auto_start_tunnel: bool,

    /// Whether the user unit is enabled, so that the daemon starts with the machine. Default false.
    pub auto_start_on_boot: bool,

    /// The gateway's port on 127.0.0.1 and \[::1\], 1–65535. Default 11435.
    pub gateway_port: NonZeroU16,

    /// Whether the gateway is open. Default true.
    pub enable_gateway: bool,

    /// Longest wait for the first byte of a response, in seconds, at least 5. Default 600: a cold model loads.
    #[serde(serialize_with = "seconds")]
    pub first_byte_timeout: Duration,

    /// More backends beside the built-in `ollama`, with unique ids. Default none.
    pub connections: Vec<ConnectionConfig>,

    /// Which side a request goes to when both have its model: `preferLocal`, `preferCloud` or `localOnly`.
    /// Default `preferLocal`.
    pub routing_policy: RoutingPolicy,

    /// Requests that wait for a free slot of a backend.
    pub queue: Queue,

    /// What a request from the tunnel may reach: `"inference"`, `"all"`, or a list of patterns such as
    /// `"POST /api/chat"`, `"* /v1/*"`. Default `"inference"`; an empty list: nothing.
    ///
    /// Inference is chat, generate, embeddings, model listing and showing, version. Creating, pulling, pushing,
    /// copying and deleting models stays local unless allowed here. A list stands alone: it does not add to
    /// inference.
    pub remote_paths: RemotePaths,

    /// The name under which the relay knows this machine, 1–63 of `a-z 0-9 -`.
    /// Default null: the host name, see [`Config::device_name`].
    pub device_name: Option<String>,

    /// Thresholds that turn into warnings, events and notifications.
    pub alerts: Alerts,

    /// Time between two metrics messages to clients, in seconds, 1–300. Default 5.
    #[serde(serialize_with = "seconds")]
    pub metrics_update_interval: Duration,

    /// Proxy on the way to the relay: `http://`, `https://` (CONNECT) or `socks5://`, without credentials.
    /// Default null: `HTTPS_PROXY` and `NO_PROXY` decide. Never used for a loopback address.
    #[serde(serialize_with = "optional_url_text")]
    pub proxy_url: Option<Url>,

    /// PEM file with certificates that are trusted beside the system's, an absolute path.
    /// Default null: `SSL_CERT_FILE` decides.
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
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// Most requests that wait for one backend; a further one is answered 429. Default 64; 0: none waits.
    pub max_waiting: usize,
    /// Longest wait, in seconds, 1–3600. Default 60.
    #[serde(serialize_with = "seconds")]
    pub max_wait: Duration,
}

/// Thresholds that turn into warnings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alerts {
    /// Latency of a connection's probe, in milliseconds, at least 1. Default 5000.
    #[serde(serialize_with = "milliseconds")]
    pub latency_ms: Duration,
    /// Share of requests that failed, in percent, 0–100. Default 10.
    #[serde(serialize_with = "percent")]
    pub error_rate_percent: f64,
    /// Failures in a row, at least 1. Default 5.
    pub consecutive_failures: NonZeroU32,
    /// Memory of the daemon, in MiB, at least 1. Default 100.
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
            first_byte_timeout: Duration::from_secs(600),
            connections: Vec::new(),
            routing_policy: RoutingPolicy::PreferLocal,
            queue: Queue { max_waiting: 64, max_wait: Duration::from_secs(60) },
            remote_paths: RemotePaths::Inference,
            device_name: None,
            alerts: Alerts {
                latency_ms: Duration::from_secs(5),
                error_rate_percent: 10.0,
                consecutive_failures: at_least_one(5),
                memory_mb: at_least_one(100),
            },
            metrics_update_interval: Duration::from_secs(5),
            proxy_url: None,
            ca_file: None,
        }
    }
}

impl Config {
    /// Reads a configuration from the keys that are there; the others take their default.
    ///
    /// Each key is judged on its own, and all faults are returned at once, in the order of the fields above,
    /// unknown keys last.
    pub fn check(keys: &Map<String, Value>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut top = Section::new(keys, String::new(), &mut faults);
        let default = Self::default();

        let enable_local_ollama =
            top.read("enableLocalOllama", default.enable_local_ollama, rule::flag("Enable local Ollama"));
        let ollama_host = top.read("ollamaHost", default.ollama_host, rule::host("Ollama host"));
        let ollama_port = top.read("ollamaPort", default.ollama_port, rule::port("Ollama port"));
        let enable_cloud_proxy =
            top.read("enableCloudProxy", default.enable_cloud_proxy, rule::flag("Enable cloud proxy"));
        let enable_api_server =
            top.read("enableApiServer", default.enable_api_server, rule::flag("Enable API server"));
        let api_server_port =
            top.read("apiServerPort", default.api_server_port, rule::port("API server port"));
        let enable_gateway = top.read("enableGateway", default.enable_gateway, rule::flag("Enable gateway"));
        let gateway_port = top.read("gatewayPort", default.gateway_port, rule::port("Gateway port"));

        let config = Self {
            enable_local_ollama,
            ollama_host,
            ollama_port,
            connection_timeout: top.read(
                "connectionTimeout",
                default.connection_timeout,
                rule::seconds("Connection timeout", 1, 300),
            ),
            enable_cloud_proxy,
            cloud_proxy_url: top.read("cloudProxyUrl", default.cloud_proxy_url, rule::relay_url),
            cloud_proxy_audience: top.read(
                "cloudProxyAudience",
                default.cloud_proxy_audience,
                rule::text("Cloud proxy audience"),
            ),
            api_server_port,
            enable_api_server,
            allowed_origins: top.list("allowedOrigins", default.allowed_origins, rule::origin),
            health_check_interval: top.read(
                "healthCheckInterval",
                default.health_check_interval,
                rule::seconds("Health check interval", 5, 300),
            ),
            max_retries: top.read("maxRetries", default.max_retries, rule::positive("Max retries")),
            retry_delay: top.read(
                "retryDelay",
                default.retry_delay,
                rule::seconds("Retry delay", 1, rule::NO_MAXIMUM),
            ),
            connection_pool_size: top.read(
                "connectionPoolSize",
                default.connection_pool_size,
                rule::pool_size("Connection pool size"),
            ),
            request_timeout: top.read(
                "requestTimeout",
                default.request_timeout,
                rule::seconds("Request timeout", 5, rule::NO_MAXIMUM),
            ),
            enable_metrics: top.read("enableMetrics", default.enable_metrics, rule::flag("Enable metrics")),
            minimize_to_tray: top.read(
                "minimizeToTray",
                default.minimize_to_tray,
                rule::flag("Minimize to tray"),
            ),
            start_minimized: top.read(
                "startMinimized",
                default.start_minimized,
                rule::flag("Start minimized"),
            ),
            show_notifications: top.read(
                "showNotifications",
                default.show_notifications,
                rule::flag("Show notifications"),
            ),
            log_level: top.read("logLevel", default.log_level, rule::log_level),
            auto_start_tunnel: top.read(
                "autoStartTunnel",
                default.auto_start_tunnel,
                rule::flag("Auto start tunnel"),
            ),
            auto_start_on_boot: top.read(
                "autoStartOnBoot",
                default.auto_start_on_boot,
                rule::flag("Auto start on boot"),
            ),
            gateway_port,
            enable_gateway,
            first_byte_timeout: top.read(
                "firstByteTimeout",
                default.first_byte_timeout,
                rule::seconds("First byte timeout", 5, rule::NO_MAXIMUM),
            ),
            connections: connection::connections(&mut top),
            routing_policy: top.read("routingPolicy", default.routing_policy, rule::routing_policy),
            queue: queue(&mut top, default.queue),
            remote_paths: remote_paths::remote_paths(&mut top, default.remote_paths),
            device_name: top.read("deviceName", default.device_name, rule::optional(rule::device_name)),
            alerts: alerts(&mut top, default.alerts),
            metrics_update_interval: top.read(
                "metricsUpdateInterval",
                default.metrics_update_interval,
                rule::seconds("Metrics update interval", 1, 300),
            ),
            proxy_url: top.read("proxyUrl", default.proxy_url, rule::optional(rule::proxy_url)),
            ca_file: top.read("caFile", default.ca_file, rule::optional(rule::absolute_path("CA file"))),
        };

        config.check_together(&mut top);
        top.finish();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    /// Checks what no key can tell alone.
    ///
    /// A key that already has a fault stands here with its default; so each check tells only of values that
    /// were really asked for or are in force, except that it may miss something until the first fault is mended.
    fn check_together(&self, top: &mut Section<'_>) {
        if self.enable_api_server && self.enable_gateway && self.api_server_port == self.gateway_port {
            top.fault("gatewayPort", "Gateway port must differ from the API server port");
        }
        let own_ports = [
            ("API server", self.enable_api_server, self.api_server_port),
            ("gateway", self.enable_gateway, self.gateway_port),
        ];
        for (door, open, own) in own_ports {
            let ollama = self.ollama_url();
            if self.enable_local_ollama && open && self.ollama_port == own && rule::is_loopback(&ollama) {
                top.fault(
                    "ollamaPort",
                    &format!("Ollama port must differ from the {door}'s port on this machine"),
                );
            }
        }
        for (index, connection) in self.connections.iter().enumerate() {
            let path = format!("connections[{index}].id");
            let taken = |other: &str| {
                (other == crate::connection::OLLAMA_ID && self.enable_local_ollama)
                    || (other == crate::connection::CLOUD_ID && self.enable_cloud_proxy)
            };
            if self.connections[..index].iter().any(|earlier| earlier.id == connection.id) {
                top.fault(&path, "Connection ids must be unique");
            } else if taken(&connection.id) {
                let rule = format!("Connection id {} belongs to the built-in connection", connection.id);
                top.fault(&path, &rule);
            }
        }
    }

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

fn queue(top: &mut Section<'_>, default: Queue) -> Queue {
    top.section("queue", default, |queue, default| Queue {
        max_waiting: queue.read("maxWaiting", default.max_waiting, rule::max_waiting),
        max_wait: queue.read("maxWait", default.max_wait, rule::seconds("Queue max wait", 1, 3600)),
    })
}

fn alerts(top: &mut Section<'_>, default: Alerts) -> Alerts {
    top.section("alerts", default, |alerts, default| Alerts {
        latency_ms: alerts.read("latencyMs", default.latency_ms, rule::milliseconds("Alert latency")),
        error_rate_percent: alerts.read(
            "errorRatePercent",
            default.error_rate_percent,
            rule::percent("Alert error rate"),
        ),
        consecutive_failures: alerts.read(
            "consecutiveFailures",
            default.consecutive_failures,
            rule::positive("Alert consecutive failures"),
        ),
        memory_mb: alerts.read("memoryMB", default.memory_mb, rule::positive("Alert memory")),
    })
}

fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).expect("a constant above 0")
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("a constant above 0")
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Writes a whole number without `.0`, as people write it.
fn percent<S: Serializer>(percent: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if percent.fract() == 0.0 {
        serializer.serialize_u8(*percent as u8)
    } else {
        serializer.serialize_f64(*percent)
    }
}

/// Writes an address as people write it: without the slash that the parser adds to an empty path.
fn url_text<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let text = url.as_str();
    serializer.serialize_str(if bare { text.strip_suffix('/').unwrap_or(text) } else { text })
}

fn optional_url_text<S: Serializer>(url: &Option<Url>, serializer: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => url_text(url, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests;
