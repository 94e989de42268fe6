//! The relay's settings: limits and times, all with defaults, from an optional TOML file.

mod edge;
mod issuer;
pub(crate) mod reload;
mod rules;
mod show;
mod table;
mod tier;
mod warnings;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::Dict;

use crate::auth::LONGEST_LIFE;
pub use edge::{AcmeSettings, EdgeSettings, ProxyHeader, TlsSettings};
pub use issuer::{IssuerSettings, KeySource, LoginSettings};
use table::{Faults, Table};
pub use tier::{AddressLimits, Tier};

/// Everything that an operator may decide. The defaults need no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tiers beside `default`, by name. What one does not say is as in [`Tier::default`], not as in the tier `default`.
    pub tiers: BTreeMap<String, Tier>,
    /// The tier `default`. The keys `max_streams_per_subject` and `max_devices_per_subject` are its `max_streams` and
    /// `max_devices` under their first names.
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
    /// Longest life of a key that is made with the token of an issuer that names tiers ([`IssuerSettings::tier_claim`]), in
    /// seconds, where that is less than `max_key_ttl`. Default 2592000, 30 days. A key has the tier that its maker had, and keeps
    /// it: so long it takes at most until another tier reaches an app, unless its key is revoked.
    pub max_tiered_key_ttl: Duration,
    /// File of the audit log; `None`: `audit.jsonl` in the data directory.
    pub audit_file: Option<PathBuf>,
    /// Longest wait for the head of a response, in seconds after the request was sent in full. Default 605: 5 more
    /// than the desktop allows its backend, a cold model takes minutes.
    pub first_byte_timeout: Duration,
    /// Longest silence of a device during a response, in seconds. Default 120. Time without a link, or in which the
    /// caller does not read, does not count. Until the first byte of the body it is at least `first_byte_timeout`.
    pub idle_timeout: Duration,
    /// How long a session is kept without a socket, in seconds. Default 60. Sessions that are up keep theirs.
    pub session_grace: Duration,
    /// How long a request waits for a device that is expected, in seconds: it went away a moment ago, or the relay has
    /// just started. Default 5, as for a session whose link is down; 0: it is refused at once.
    pub device_wait: Duration,
    /// Most bytes that each end of a tunnel keeps for a resume. Default 4194304 (4 MiB), allocated as needed. Sessions
    /// that are up keep theirs.
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
            max_tiered_key_ttl: Duration::from_secs(30 * DAY),
            audit_file: None,
            first_byte_timeout: Duration::from_secs(605),
            idle_timeout: Duration::from_secs(120),
            session_grace: Duration::from_secs(60),
            device_wait: Duration::from_secs(5),
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

impl SettingsError {
    /// Returns what is wrong, one sentence each.
    pub fn faults(&self) -> Vec<String> {
        match self {
            Self::Read { source, .. } => vec![format!("{self}: {source}")],
            Self::Syntax { .. } => vec![self.to_string()],
            Self::Faults { faults, .. } => faults.clone(),
        }
    }
}

/// Times are a day at most, as elsewhere: more is a typing error.
const DAY: u64 = 24 * 60 * 60;
/// What keys may last, in seconds.
const KEY_TTL: RangeInclusive<u64> = 60..=LONGEST_LIFE.as_secs();
/// Longest file that is read. Ten thousand tiers fit.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

impl Settings {
    /// Returns the tier of that name, or `default`.
    pub fn tier(&self, name: Option<&str>) -> &Tier {
        name.and_then(|name| self.tiers.get(name)).unwrap_or(&self.default_tier)
    }

    /// Reads a TOML file over the defaults. All faults are reported at once.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        Self::parse(&Self::read(path)?, path)
    }

    /// Reads the text of a file.
    pub(crate) fn read(path: &Path) -> Result<String, SettingsError> {
        read(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })
    }

    /// Takes the text of a file. `path` is named in errors, and relative paths in the text start at its directory.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let values: Dict = Figment::from(Toml::string(text)).extract().map_err(|error| {
            SettingsError::Syntax { path: path.to_owned(), detail: error.to_string().trim().to_owned() }
        })?;
        let faults = Faults::default();
        let base = path.parent().unwrap_or(Path::new(""));
        let settings = Table::read_root(&values, base, &faults, |root| {
            let settings = Self::take(root);
            settings.check_login(&faults);
            settings
        });
        match faults.into_list() {
            faults if faults.is_empty() => Ok(settings),
            faults => Err(SettingsError::Faults { path: path.to_owned(), faults }),
        }
    }

    fn take(root: &mut Table<'_>) -> Self {
        let defaults = Self::default();
        let mut tiers = tier::read_all(root);
        Self {
            default_tier: tiers.remove(tier::DEFAULT).unwrap_or_default(),
            tiers,
            address: root.table("address", AddressLimits::read).unwrap_or_default(),
            issuers: issuer::read_all(root),
            login: root.table("login", LoginSettings::read).flatten(),
            edge: EdgeSettings::read(root),
            max_key_ttl: root.seconds("max_key_ttl_s", KEY_TTL).unwrap_or(defaults.max_key_ttl),
            max_tiered_key_ttl: root
                .seconds("max_tiered_key_ttl_s", KEY_TTL)
                .unwrap_or(defaults.max_tiered_key_ttl),
            audit_file: root.table("audit", read_audit_file).flatten(),
            first_byte_timeout: root
                .seconds("first_byte_timeout_s", 1..=DAY)
                .unwrap_or(defaults.first_byte_timeout),
            idle_timeout: root.seconds("idle_timeout_s", 1..=DAY).unwrap_or(defaults.idle_timeout),
            session_grace: root.seconds("session_grace_s", 1..=3_600).unwrap_or(defaults.session_grace),
            device_wait: root.seconds("device_wait_s", 0..=60).unwrap_or(defaults.device_wait),
            replay_window_bytes: root
                .whole("replay_window_bytes", 64 * 1024..=64 * 1024 * 1024)
                .unwrap_or(defaults.replay_window_bytes),
        }
    }

    /// The issuer that desktops log in at must be one that says where.
    fn check_login(&self, faults: &Faults) {
        let Some(login) = &self.login else { return };
        // An issuer with a fault of its own is not among them, and saying so would mislead.
        if faults.any_of("issuers") {
            return;
        }
        match self.issuers.iter().find(|issuer| issuer.name == login.issuer) {
            Some(issuer) if issuer.keys == KeySource::Discovery => {}
            Some(_) => faults.add(
                "login.issuer",
                "must be an issuer by discovery, one with neither jwks_url nor secret_file: only that one says where a \
                 login begins",
            ),
            None => {
                let names = self.issuers.iter().map(|issuer| issuer.name.as_str());
                let there_are = match table::nearest(&login.issuer, names.clone()) {
                    Some(name) => format!("did you mean {name}?"),
                    None if self.issuers.is_empty() => "there are no [[issuers]]".to_owned(),
                    None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
                };
                faults.add("login.issuer", format!("must be the name of one of the [[issuers]]; {there_are}"));
            }
        }
    }
}

fn read_audit_file(audit: &mut Table<'_>) -> Option<PathBuf> {
    let file = audit.file("file");
    let extension = file.as_deref().and_then(Path::extension).and_then(|extension| extension.to_str());
    if matches!(extension, Some("head" | "lock")) {
        audit.fault(
            "file",
            "must not end with .head or .lock: files with these names are kept beside the log",
        );
    }
    file
}

/// Reads a settings file that may be anything: a device that never ends, or a pipe that nobody writes to, must not hold us.
fn read(path: &Path) -> std::io::Result<String> {
    let file = tunnel_runtime::files::open(path)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            format!("it is longer than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
