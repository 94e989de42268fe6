//! The configuration: read from its layers, checked, and turned into what each part takes.

mod backups;
mod change;
mod error;
mod handle;
mod parts;
pub(crate) use self::parts::{hostname, remote_paths as broker_paths};
mod proxy;
mod replace;
mod source;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tunnel_api::config::{LogLevel, ollama_host_hint};
use tunnel_api::status::ConfigStatus;
use tunnel_api::{Config, paths};
use tunnel_broker::BrokerConfig;
use tunnel_runtime::LevelFilter;
use tunnel_runtime::layers::{self, File, LayersError, Origin, Sources};

pub(crate) use self::backups::Backups;
pub(crate) use self::change::{Author, Change, ChangeError, Edit, check};
pub use self::error::LoadError;
pub(crate) use self::handle::{Applied, ConfigHandle, Order, Task, TokenSink};
pub(crate) use self::proxy::Proxies;
pub(crate) use self::source::{Revision, Source};
use crate::plugins::Place;
use crate::tunnel::Settings;

/// What the command line and the environment say.
#[derive(Clone, Default)]
pub struct Options {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--token-file` or `$TUNNELD_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
    /// `--log-file` or `$TUNNELD_LOG_FILE`.
    pub log_file: Option<PathBuf>,
    /// The environment: `std::env::vars_os()`, or a test's.
    pub env: Vec<(OsString, OsString)>,
}

impl Options {
    pub(crate) fn var(&self, name: &str) -> Option<OsString> {
        self.env.iter().find(|(key, _)| key == OsStr::new(name)).map(|(_, value)| value.clone())
    }

    /// Where the log goes when nobody would see it otherwise: where the original has it, if it was ever here.
    pub fn last_resort_log(&self) -> Option<PathBuf> {
        let home = self.var("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let original = home.map(|home| home.join(".cloudtolocalllm")).filter(|directory| directory.is_dir());
        let state = || paths::state_dir(self.state_dir.as_deref(), |name| self.var(name));
        original
            .map(|directory| directory.join("tunnel_manager.log"))
            .or_else(|| Some(state()?.join("tunneld.log")))
    }
}

impl fmt::Debug for Options {
    // The environment may hold anything, tokens of other programs too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("config", &self.config)
            .field("state_dir", &self.state_dir)
            .field("token_file", &self.token_file)
            .finish_non_exhaustive()
    }
}

/// A configuration that was found valid, and what the parts take from it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub(crate) config: Config,
    pub(crate) tunnel: Settings,
    pub(crate) broker: BrokerConfig,
    pub(crate) files: Vec<PathBuf>,
    /// Where each value came from, by its key; for keys of objects also by path, such as `queue.maxWait`.
    pub(crate) origins: BTreeMap<String, Origin>,
    /// Which version of the file it is.
    pub(crate) revision: Revision,
    /// `autoStartOnBoot`, if it is not just the default.
    pub(crate) starts_at_boot: Option<bool>,
    /// Variables that look like keys and are none.
    pub(crate) unknown_variables: Vec<String>,
    /// A variable that names a proxy of a kind that we cannot use.
    pub(crate) unusable_variable: Option<&'static str>,
}

/// What is in force, for the status.
#[derive(Debug, Clone)]
pub(crate) struct ConfigState {
    pub(crate) config: Arc<Config>,
    /// `autoStartOnBoot`, if somebody said it: only then is systemd told.
    pub(crate) starts_at_boot: Option<bool>,
    pub(crate) status: ConfigStatus,
    /// Where each value came from.
    pub(crate) origins: Arc<BTreeMap<String, Origin>>,
    /// Which version of the file it is.
    pub(crate) revision: Revision,
}

/// Variables with our prefix that are no configuration keys.
const OTHER_VARIABLES: [&str; 6] = [
    "TUNNELD_CONFIG",
    "TUNNELD_STATE_DIR",
    "TUNNELD_TOKEN_FILE",
    "TUNNELD_LOG",
    "TUNNELD_LOG_FILE",
    "TUNNELD_URL",
];

impl Loaded {
    /// Reads all layers and checks what comes of them. All faults are told at once.
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        Self::of(options, &Source::read(options)?)
    }

    /// Checks what comes of all layers with this file. Reads nothing.
    pub(crate) fn of(options: &Options, source: &Source) -> Result<Self, LoadError> {
        let file = source.file()?;
        let read = |hints| {
            layers::read(Sources {
                defaults: Config::default().to_map(),
                hints,
                file: file.as_ref().map(|file| File { path: file.path.clone(), values: file.values.clone() }),
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
        let found = proxy::find(&config, |name| options.var(name)).map_err(|fault| faulty(vec![fault]))?;
        let tunnel = parts::tunnel(&config, found.proxies).map_err(|fault| faulty(vec![fault]))?;
        let broker = parts::broker(&config, &Place::of(options)).map_err(|fault| faulty(vec![fault]))?;
        let said = layered.origins.get("autoStartOnBoot").is_some_and(|origin| *origin != Origin::Default);
        let starts_at_boot = said.then_some(config.auto_start_on_boot);
        Ok(Self {
            config,
            starts_at_boot,
            tunnel,
            broker,
            files: layered.files,
            origins: layered.origins,
            revision: source.revision(),
            unknown_variables: layered.unknown_variables,
            unusable_variable: found.unusable_variable,
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
            starts_at_boot: self.starts_at_boot,
            status: ConfigStatus {
                files: self.files.iter().map(|file| file.display().to_string()).collect(),
                loaded_at: Timestamp::now(),
                last_error: None,
                restart_required,
            },
            origins: Arc::new(self.origins.clone()),
            revision: self.revision.clone(),
        }
    }
}

impl ConfigState {
    /// Refuses an empty file in the place of one that says something. It is what a full disk or a failed
    /// redirection leaves behind; who wants the defaults can say so, or delete the file.
    pub(crate) fn refuse_emptied(&self, source: &Source) -> Result<(), LoadError> {
        let says_something = self.origins.values().any(|origin| matches!(origin, Origin::File(_)));
        match (source.path(), source.text()) {
            (Some(path), Some(text)) if says_something && tunnel_api::config::is_blank(text) => {
                let problem = "the file is empty; write {} for the defaults".to_owned();
                Err(LoadError::Layers(LayersError::Malformed { path: path.to_owned(), problem }))
            }
            _ => Ok(()),
        }
    }

    #[cfg(test)]
    pub(crate) fn defaults() -> Self {
        Self {
            config: Arc::new(Config::default()),
            starts_at_boot: None,
            status: ConfigStatus::default(),
            origins: Arc::default(),
            revision: Revision::of(None),
        }
    }
}

/// The port that a key will most likely give; one that is faulty is reported later.
fn port(values: &Map<String, Value>, key: &str) -> u16 {
    values.get(key).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or_default()
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
    fn last_resort_of_the_log_is_where_the_original_has_it() {
        let home = tempfile::tempdir().unwrap();
        let options = Options { env: vec![("HOME".into(), home.path().into())], ..Options::default() };
        let state = home.path().join(".local/state/cloudtolocalllm/tunneld.log");
        assert_eq!(options.last_resort_log(), Some(state));
        std::fs::create_dir(home.path().join(".cloudtolocalllm")).unwrap();
        let original = home.path().join(".cloudtolocalllm/tunnel_manager.log");
        assert_eq!(options.last_resort_log(), Some(original));
        assert_eq!(Options::default().last_resort_log(), None);
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
    fn start_at_boot_is_known_as_said_or_not() {
        assert_eq!(load("{}", &[]).unwrap().starts_at_boot, None);
        assert_eq!(load(r#"{ "autoStartOnBoot": false }"#, &[]).unwrap().starts_at_boot, Some(false));
        let env = [("TUNNELD_AUTO_START_ON_BOOT", "true")];
        assert_eq!(load("{}", &env).unwrap().starts_at_boot, Some(true));
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
            { "id": "account", "type": "cloud", "url": "https://h:8001" }
        ] }"#;
        let backends = load(text, &[]).unwrap().broker.backends;
        let ids: Vec<&str> = backends.iter().map(|backend| backend.id.as_str()).collect();
        assert_eq!(ids, ["ollama", "vllm", "account"]);
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
}
