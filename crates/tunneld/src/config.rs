//! The configuration: read from its layers, checked, and turned into what each part takes.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tunnel_api::config::{ConnectionType, Fault, LogLevel, RemotePaths, ollama_host_hint};
use tunnel_api::connection::OLLAMA_ID;
use tunnel_api::status::ConfigStatus;
use tunnel_api::{Config, paths};
use tunnel_broker::{BackendConfig, BackendKind, BrokerConfig, PathRule};
use tunnel_runtime::LevelFilter;
use tunnel_runtime::layers::{self, File, LayersError, Sources};
use tunnel_transport::{DeviceName, RelayUrl};

use crate::tunnel::Settings;

/// What the command line and the environment say.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--token-file` or `$TUNNELD_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
    /// The environment: `std::env::vars_os()`, or a test's.
    pub env: Vec<(OsString, OsString)>,
}

impl Options {
    pub(crate) fn var(&self, name: &str) -> Option<OsString> {
        self.env.iter().find(|(key, _)| key == OsStr::new(name)).map(|(_, value)| value.clone())
    }
}

/// A configuration that was found valid, and what the parts take from it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub(crate) config: Config,
    pub(crate) tunnel: Settings,
    pub(crate) broker: BrokerConfig,
    pub(crate) files: Vec<PathBuf>,
    /// Variables that look like keys and are none.
    pub(crate) unknown_variables: Vec<String>,
}

/// What is in force, for the status.
#[derive(Debug, Clone)]
pub(crate) struct ConfigState {
    pub(crate) config: Arc<Config>,
    pub(crate) status: ConfigStatus,
}

/// Why a configuration is not taken.
#[derive(Debug)]
pub enum LoadError {
    /// It could not be read.
    Layers(LayersError),
    /// It says things that cannot be: all of them.
    Faults {
        /// The file that was read, if there was one: some faults may come from variables all the same.
        file: Option<PathBuf>,
        /// Each with key, value and rule.
        faults: Vec<Fault>,
    },
}

impl LoadError {
    /// The exit code of a start with such a configuration, as `tunnelctl config validate` has it.
    pub const EXIT_CODE: u8 = 7;
}

impl fmt::Display for LoadError {
    /// Writes one line for the whole and, indented, one for each fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layers(error) => {
                write!(f, "{error}")?;
                let mut source = std::error::Error::source(error);
                while let Some(cause) = source {
                    write!(f, ": {cause}")?;
                    source = cause.source();
                }
                Ok(())
            }
            Self::Faults { file, faults } => {
                let n = faults.len();
                let noun = if n == 1 { "fault" } else { "faults" };
                match file {
                    Some(file) => write!(f, "the configuration in {} has {n} {noun}", file.display())?,
                    None => write!(f, "the configuration has {n} {noun}")?,
                }
                faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// Variables with our prefix that are no configuration keys.
const OTHER_VARIABLES: [&str; 5] =
    ["TUNNELD_CONFIG", "TUNNELD_STATE_DIR", "TUNNELD_TOKEN_FILE", "TUNNELD_LOG", "TUNNELD_URL"];

impl Loaded {
    /// Reads all layers and checks what comes of them. All faults are told at once.
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        let file =
            paths::config_file(options.config.as_deref(), |name| options.var(name), |path| path.exists());
        let read = |hints| {
            layers::read(Sources {
                defaults: Config::default().to_map(),
                hints,
                file: file.as_ref().map(|file| File { path: &file.path, named: file.named, parse }),
                prefix: "TUNNELD_",
                env: options.env.clone(),
                other_variables: &OTHER_VARIABLES,
                flags: Map::new(),
            })
            .map_err(LoadError::Layers)
        };
        let mut layered = read(None)?;
        if let Some(hint) = options.var("OLLAMA_HOST") {
            let own_ports = ["apiServerPort", "gatewayPort"].map(|key| port(&layered.values, key));
            let hint = ollama_host_hint(&hint.to_string_lossy(), &own_ports);
            if !hint.is_empty() {
                layered = read(Some(("$OLLAMA_HOST", hint)))?;
            }
        }
        let faulty = |faults| LoadError::Faults { file: layered.files.first().cloned(), faults };
        let config = Config::check(&layered.values).map_err(faulty)?;
        let tunnel = tunnel(&config).map_err(|fault| faulty(vec![fault]))?;
        let broker = broker(&config).map_err(|fault| faulty(vec![fault]))?;
        Ok(Self {
            config,
            tunnel,
            broker,
            files: layered.files.clone(),
            unknown_variables: layered.unknown_variables.clone(),
        })
    }

    /// The level of our own log lines.
    pub fn log_level(&self) -> LevelFilter {
        match self.config.log_level {
            LogLevel::Trace => LevelFilter::TRACE,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error => LevelFilter::ERROR,
        }
    }

    pub(crate) fn state(&self, restart_required: Vec<String>) -> ConfigState {
        ConfigState {
            config: Arc::new(self.config.clone()),
            status: ConfigStatus {
                files: self.files.iter().map(|file| file.display().to_string()).collect(),
                loaded_at: Timestamp::now(),
                last_error: None,
                restart_required,
            },
        }
    }
}

impl ConfigState {
    /// Returns the keys whose change from `running` waits for a restart.
    pub(crate) fn restart_required(running: &Config, new: &Config) -> Vec<String> {
        let changes = [
            ("apiServerPort", running.api_server_port != new.api_server_port),
            ("enableApiServer", running.enable_api_server != new.enable_api_server),
            ("gatewayPort", running.gateway_port != new.gateway_port),
            ("enableGateway", running.enable_gateway != new.enable_gateway),
        ];
        changes.iter().filter(|(_, changed)| *changed).map(|(key, _)| (*key).to_owned()).collect()
    }

    #[cfg(test)]
    pub(crate) fn defaults() -> Self {
        Self { config: Arc::new(Config::default()), status: ConfigStatus::default() }
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, String> {
    tunnel_api::config::parse(text).map_err(|error| error.to_string())
}

/// The port that a key will most likely give; one that is faulty is reported later.
fn port(values: &Map<String, Value>, key: &str) -> u16 {
    values.get(key).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or_default()
}

fn tunnel(config: &Config) -> Result<Settings, Fault> {
    let url = config.cloud_proxy_url.as_str();
    let relay = RelayUrl::parse(url).map_err(|error| Fault {
        key: "cloudProxyUrl".to_owned(),
        value: Some(format!("\"{url}\"")),
        rule: format!("Cloud proxy URL is not usable: {error}"),
        did_you_mean: None,
    })?;
    let name = config.device_name(&hostname());
    // Cannot fall back: the check of `deviceName` and the cleaning of a host name have the same rule.
    let device = name.parse().unwrap_or_else(|_| DeviceName::from_hostname(&name));
    Ok(Settings {
        enabled: config.enable_cloud_proxy,
        auto_start: config.auto_start_tunnel,
        relay,
        device,
        connect_timeout: config.connection_timeout,
        ca_file: config.ca_file.clone(),
    })
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn broker(config: &Config) -> Result<BrokerConfig, Fault> {
    let ollama = config
        .enable_local_ollama
        .then(|| BackendConfig::new(OLLAMA_ID, BackendKind::Ollama, config.ollama_url()));
    let configured = config.connections.iter().filter_map(|connection| {
        let kind = match connection.kind {
            ConnectionType::Ollama => BackendKind::Ollama,
            ConnectionType::Openai => BackendKind::OpenAi,
            // Nothing serves these kinds; the entry is valid all the same.
            ConnectionType::Cloud | ConnectionType::Plugin => return None,
        };
        Some(BackendConfig {
            priority: connection.priority,
            weight: connection.weight,
            max_concurrent: connection.max_concurrent,
            models: connection.models.clone(),
            enabled: connection.enabled,
            ..BackendConfig::new(connection.id.clone(), kind, connection.url.clone())
        })
    });
    Ok(BrokerConfig {
        backends: ollama.into_iter().chain(configured).collect(),
        connect_timeout: config.connection_timeout,
        first_byte_timeout: config.first_byte_timeout,
        idle_timeout: config.request_timeout,
        probe_interval: config.health_check_interval,
        probe_failures: config.max_retries.get(),
        retry_delay: config.retry_delay,
        pool_size: config.connection_pool_size.get(),
        remote_paths: remote_paths(&config.remote_paths)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn remote_paths(paths: &RemotePaths) -> Result<tunnel_broker::RemotePaths, Fault> {
    let rules = match paths {
        RemotePaths::Inference => return Ok(tunnel_broker::RemotePaths::Inference),
        RemotePaths::All => return Ok(tunnel_broker::RemotePaths::All),
        RemotePaths::Rules(rules) => rules,
    };
    let rules = rules.iter().enumerate().map(|(index, rule)| {
        let path = match rule.path().strip_suffix("/*") {
            // In the file `*` at the end stands for all below; the broker writes that `**`.
            Some(above) => format!("{above}/**"),
            None => rule.path().to_owned(),
        };
        let text = format!("{} {path}", rule.method().unwrap_or("*"));
        text.parse::<PathRule>().map_err(|error| Fault {
            key: format!("remotePaths[{index}]"),
            value: Some(format!("\"{rule}\"")),
            rule: error.to_string(),
            did_you_mean: None,
        })
    });
    rules.collect::<Result<_, _>>().map(tunnel_broker::RemotePaths::Rules)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::Method;

    use super::*;

    fn options(directory: &Path, text: &str, env: &[(&str, &str)]) -> Options {
        let path = directory.join("tunnel_config.json");
        std::fs::write(&path, text).unwrap();
        Options {
            config: Some(path),
            env: env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            ..Options::default()
        }
    }

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Loaded, LoadError> {
        let directory = tempfile::tempdir().unwrap();
        Loaded::load(&options(directory.path(), text, env))
    }

    #[test]
    fn five_faults_are_five_lines_with_key_value_and_rule() {
        let text = r#"{
            "ollamaPort": 70000, "healthCheckInterval": 1, "logLevel": "LOUD",
            "cloudProxyUrl": "ftp://relay", "olamaHost": "x"
        }"#;
        let told = load(text, &[]).unwrap_err().to_string();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 6, "{told}");
        assert!(lines[0].contains("5 faults"), "{told}");
        for part in ["ollamaPort", "70000", "between 1 and 65535", "LOUD", "did you mean ollamaHost"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn no_file_means_the_defaults() {
        let loaded = Loaded::load(&Options::default()).unwrap();
        assert_eq!(loaded.config, Config::default());
        assert_eq!(loaded.broker.backends.len(), 1);
    }

    #[test]
    fn named_file_that_is_missing_is_an_error() {
        let missing = Options { config: Some("/nonexistent/c.json".into()), ..Options::default() };
        assert!(matches!(Loaded::load(&missing), Err(LoadError::Layers(_))));
    }

    #[test]
    fn variables_win_over_the_file_and_unknown_ones_are_told() {
        let env = [("TUNNELD_GATEWAY_PORT", "4321"), ("TUNNELD_GATEWAY_PROT", "1"), ("TUNNELD_LOG", "debug")];
        let loaded = load(r#"{ "gatewayPort": 1234 }"#, &env).unwrap();
        assert_eq!(loaded.config.gateway_port.get(), 4321);
        assert_eq!(loaded.unknown_variables, ["TUNNELD_GATEWAY_PROT"]);
    }

    #[test]
    fn ollama_host_is_a_hint_that_never_points_at_ourselves() {
        let url = |env: &[(&str, &str)], text| load(text, env).unwrap().config.ollama_url().to_string();
        assert_eq!(url(&[("OLLAMA_HOST", "gpu.lan:9000")], "{}"), "http://gpu.lan:9000/");
        let file = r#"{ "ollamaHost": "here", "ollamaPort": 1 }"#;
        assert_eq!(url(&[("OLLAMA_HOST", "gpu.lan:9000")], file), "http://here:1/");
        let own = [("OLLAMA_HOST", "127.0.0.1:5000")];
        assert_eq!(url(&own, r#"{ "gatewayPort": 5000 }"#), "http://localhost:11434/");
    }

    #[test]
    fn connections_become_backends() {
        let text = r#"{ "connections": [
            { "id": "vllm", "type": "openai", "url": "http://h:8000/v1", "priority": 2, "maxConcurrent": 3 },
            { "id": "later", "type": "plugin", "url": "http://h:8001" }
        ] }"#;
        let backends = load(text, &[]).unwrap().broker.backends;
        let ids: Vec<&str> = backends.iter().map(|backend| backend.id.as_str()).collect();
        assert_eq!(ids, ["ollama", "vllm"]);
        assert_eq!((backends[1].priority, backends[1].max_concurrent.map(u32::from)), (2, Some(3)));
    }

    #[test]
    fn remote_path_rules_keep_their_meaning() {
        let text = r#"{ "remotePaths": ["POST /api/pull", "* /v1/*"] }"#;
        let paths = load(text, &[]).unwrap().broker.remote_paths;
        assert!(paths.allows(&Method::POST, "/api/pull").is_ok());
        assert!(paths.allows(&Method::GET, "/api/pull").is_err());
        assert!(paths.allows(&Method::DELETE, "/v1/files/a/b").is_ok());
        assert!(paths.allows(&Method::POST, "/api/chat").is_err());
    }

    #[test]
    fn changed_ports_wait_for_a_restart() {
        let running = Config::default();
        let new = load(r#"{ "gatewayPort": 4321, "requestTimeout": 7 }"#, &[]).unwrap().config;
        assert_eq!(ConfigState::restart_required(&running, &new), ["gatewayPort"]);
    }
}
