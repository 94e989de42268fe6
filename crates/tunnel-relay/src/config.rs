//! The relay's settings: limits and times, all with defaults, from an optional TOML file.

mod edge;
mod issuer;
mod tier;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Num, Value};

pub use edge::{AcmeSettings, EdgeSettings, TlsSettings};
pub use issuer::{IssuerSettings, KeySource, LoginSettings};
pub use tier::{AddressLimits, Tier};

/// Everything that an operator may decide. The defaults need no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tiers beside `default`, by name.
    pub tiers: BTreeMap<String, Tier>,
    /// The tier `default`. The keys `max_streams_per_subject` and `max_devices_per_subject` of earlier versions are its
    /// `max_streams` and `max_devices`.
    pub default_tier: Tier,
    /// Limits of each address.
    pub address: AddressLimits,
    /// Issuers besides the relay's own.
    pub issuers: Vec<IssuerSettings>,
    /// How desktops log in; `None`: only with tokens that somebody hands them.
    pub login: Option<LoginSettings>,
    /// The public address.
    pub edge: EdgeSettings,
    /// Longest life of a key that a tenant makes for an app, in seconds. Default 31536000, a year.
    pub max_key_ttl: Duration,
    /// File of the audit log; `None`: `audit.jsonl` in the data directory.
    pub audit_file: Option<PathBuf>,
    /// Longest wait for the head of a response, in seconds after the request was sent in full. Default 605: 5 more
    /// than the desktop allows its backend, a cold model takes minutes.
    pub first_byte_timeout: Duration,
    /// Longest silence of a device during a response, in seconds. Default 120. Time without a link, or in which the
    /// caller does not read, does not count. Until the first byte of the body it is at least `first_byte_timeout`.
    pub idle_timeout: Duration,
    /// How long a session is kept without a socket, in seconds. Default 60.
    pub session_grace: Duration,
    /// Most bytes that each end of a tunnel keeps for a resume. Default 4194304 (4 MiB), allocated as needed.
    pub replay_window_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tiers: BTreeMap::new(),
            default_tier: Tier::default(),
            address: AddressLimits::default(),
            issuers: Vec::new(),
            login: None,
            edge: EdgeSettings::default(),
            max_key_ttl: Duration::from_secs(365 * 24 * 60 * 60),
            audit_file: None,
            first_byte_timeout: Duration::from_secs(605),
            idle_timeout: Duration::from_secs(120),
            session_grace: Duration::from_secs(60),
            replay_window_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Why a settings file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("could not read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        /// What the system answered.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {detail}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the line.
        detail: String,
    },
    /// Keys or values are wrong; all of them are named.
    #[error("{} has {} fault(s):{}", .path.display(), .faults.len(), list(.faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// One sentence each.
        faults: Vec<String>,
    },
}

fn list(faults: &[String]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

/// One key: its name, the values it takes, and where they go.
struct Key {
    name: &'static str,
    min: u64,
    max: u64,
    set: fn(&mut Settings, u64),
}

const KEYS: [Key; 7] = [
    Key {
        name: "max_streams_per_subject",
        min: 1,
        max: 1_000_000,
        set: |settings, n| settings.default_tier.max_streams = usize::try_from(n).unwrap_or(usize::MAX),
    },
    Key {
        name: "max_devices_per_subject",
        min: 1,
        max: 10_000,
        set: |settings, n| settings.default_tier.max_devices = usize::try_from(n).unwrap_or(usize::MAX),
    },
    Key {
        name: "first_byte_timeout_s",
        min: 1,
        max: 86_400,
        set: |settings, n| settings.first_byte_timeout = Duration::from_secs(n),
    },
    Key {
        name: "idle_timeout_s",
        min: 1,
        max: 86_400,
        set: |settings, n| settings.idle_timeout = Duration::from_secs(n),
    },
    Key {
        name: "header_read_timeout_s",
        min: 1,
        max: 3_600,
        set: |settings, n| settings.edge.header_read_timeout = Duration::from_secs(n),
    },
    Key {
        name: "session_grace_s",
        min: 1,
        max: 3_600,
        set: |settings, n| settings.session_grace = Duration::from_secs(n),
    },
    Key {
        name: "replay_window_bytes",
        min: 64 * 1024,
        max: 64 * 1024 * 1024,
        set: |settings, n| settings.replay_window_bytes = n,
    },
];

impl Settings {
    /// Returns the tier of that name, or `default`.
    pub fn tier(&self, name: Option<&str>) -> &Tier {
        name.and_then(|name| self.tiers.get(name)).unwrap_or(&self.default_tier)
    }

    /// Reads a TOML file over the defaults. All faults are reported at once.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        let values: Dict = Figment::from(Toml::string(&text)).extract().map_err(|error| {
            SettingsError::Syntax { path: path.to_owned(), detail: error.to_string().trim().to_owned() }
        })?;
        Self::check(&values).map_err(|faults| SettingsError::Faults { path: path.to_owned(), faults })
    }

    fn check(values: &Dict) -> Result<Self, Vec<String>> {
        let mut settings = Self::default();
        let mut faults = Vec::new();
        for (name, value) in values {
            let Some(key) = KEYS.iter().find(|key| key.name == name) else {
                faults.push(unknown(name));
                continue;
            };
            match whole_number(value).filter(|n| (key.min..=key.max).contains(n)) {
                Some(n) => (key.set)(&mut settings, n),
                None => {
                    faults.push(format!("{name}: must be a whole number from {} to {}", key.min, key.max))
                }
            }
        }
        if faults.is_empty() { Ok(settings) } else { Err(faults) }
    }
}

fn whole_number(value: &Value) -> Option<u64> {
    let Value::Num(_, number) = value else { return None };
    // A float is no whole number even where it looks like one: `10.5` must not become 10.
    if matches!(number, Num::F32(_) | Num::F64(_)) {
        return None;
    }
    number.to_i128().and_then(|n| u64::try_from(n).ok()).or_else(|| number.to_u128()?.try_into().ok())
}

fn unknown(name: &str) -> String {
    let nearest = KEYS.iter().map(|key| (distance(name, key.name), key.name)).min();
    let shown: String = name.chars().take(60).filter(|c| !c.is_control()).collect();
    match nearest {
        Some((distance, key)) if distance <= 1 + name.len() / 4 => {
            format!("{shown}: there is no such key; did you mean {key}?")
        }
        _ => format!("{shown}: there is no such key; there are {}", KEYS.map(|key| key.name).join(", ")),
    }
}

/// Levenshtein's distance between two short words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(&path)
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(load("# nothing\n").unwrap(), Settings::default());
    }

    #[test]
    fn each_key_is_taken() {
        let text = "max_streams_per_subject = 7\nmax_devices_per_subject = 2\nfirst_byte_timeout_s = 3\n\
                    idle_timeout_s = 4\nheader_read_timeout_s = 5\nsession_grace_s = 6\nreplay_window_bytes = 65536\n";
        let settings = Settings {
            default_tier: Tier { max_streams: 7, max_devices: 2, ..Tier::default() },
            edge: EdgeSettings { header_read_timeout: Duration::from_secs(5), ..EdgeSettings::default() },
            first_byte_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(4),
            session_grace: Duration::from_secs(6),
            replay_window_bytes: 65_536,
            ..Settings::default()
        };
        assert_eq!(load(text).unwrap(), settings);
        assert_eq!(text.lines().count(), KEYS.len());
    }

    #[test]
    fn five_faults_are_five_sentences() {
        let text = "idle_timeout = 4\nsession_grace_s = 0\nfirst_byte_timeout_s = \"long\"\nheader_read_timeout_s = 1.5\n\
                    colour = \"red\"\n";
        let error = load(text).unwrap_err();
        let SettingsError::Faults { faults, .. } = &error else { panic!("{error}") };
        assert_eq!(faults.len(), 5, "{error}");
        let text = error.to_string();
        assert!(text.contains("did you mean idle_timeout_s?"), "{text}");
        assert!(text.contains("session_grace_s: must be a whole number from 1 to 3600"), "{text}");
        assert!(text.contains("colour: there is no such key"), "{text}");
    }

    #[test]
    fn bad_syntax_and_a_missing_file_are_named() {
        assert!(matches!(load("idle_timeout_s = ").unwrap_err(), SettingsError::Syntax { .. }));
        let error = Settings::load(Path::new("/nonexistent/relay.toml")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/relay.toml"));
    }
}
