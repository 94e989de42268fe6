//! Logs: to the journal when the process runs under it, else to standard error for people, else to a file.
//!
//! Our own crates log at the level that is set, dependencies at WARN and above. The latter cannot be changed:
//! at DEBUG, HTTP libraries write headers, and with them keys and tokens.

mod file;

use std::io::{self, IsTerminal};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tracing::{Level, warn};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use self::file::{FileLog, FlushAtEnd};

/// What the access log of the control API is logged under: a line a request at INFO.
pub const ACCESS: &str = "api";

/// Our own crates and targets, whose level can be set.
const OWN_TARGETS: [&str; 7] =
    ["tunneld", "tunnel_api", "tunnel_broker", "tunnel_relay", "tunnel_runtime", "tunnel_transport", ACCESS];

/// The level of our own crates; clones change the same one.
#[derive(Clone, Debug)]
pub struct LogLevel {
    overrides: Overrides,
    filter: reload::Handle<Targets, Registry>,
}

impl LogLevel {
    /// Sets the level of our own crates, at once; what was overridden at start stays.
    pub fn set(&self, level: LevelFilter) {
        // Fails only when the subscriber is gone, at the very end.
        if let Err(error) = self.filter.reload(self.overrides.filter(level)) {
            warn!(%error, "could not change the log level");
        }
    }
}

/// How a process logs.
#[derive(Clone, Copy, Debug)]
pub struct Logging<'a> {
    /// The journal's `SYSLOG_IDENTIFIER`.
    pub identifier: &'a str,
    /// The level of our own crates.
    pub level: LevelFilter,
    /// What the user asked for beside the configuration (`$TUNNELD_LOG`): a level for all of our crates, or
    /// `crate=level` for one and its modules, separated by commas. What is not understood, or names another
    /// crate, is skipped with a warning.
    pub overrides: Option<&'a str>,
    /// Log to this file, whatever else there is.
    pub file: Option<&'a Path>,
    /// Log to this file if nobody would see it otherwise: there is no journal, and standard error leads nowhere.
    pub last_resort: Option<&'a Path>,
}

/// A log that has been started. Dropped at the end of the process: what waits for the disk is then written.
#[derive(Debug)]
pub struct Log {
    /// The level of our own crates.
    pub level: LogLevel,
    /// Where it goes.
    pub place: LogPlace,
    _flush: Option<FlushAtEnd>,
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPlace {
    /// The journal, as fields.
    Journal,
    /// This file.
    File(PathBuf),
    /// Standard error, for people.
    Stderr,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file that was named cannot be written.
    #[error("cannot log to {}: {source}", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process logs already.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

/// Starts logging to the journal or to standard error. Fails when it has been started before.
///
/// The arguments are the fields of [`Logging`].
pub fn init(identifier: &str, level: LevelFilter, overrides: Option<&str>) -> Result<LogLevel, LogError> {
    let logging = Logging { identifier, level, overrides, file: None, last_resort: None };
    logging.start().map(|log| log.level)
}

impl Logging<'_> {
    /// Starts logging. Fails when the named file cannot be written, or when it has been started before.
    pub fn start(self) -> Result<Log, LogError> {
        let (overrides, skipped) = Overrides::parse(self.overrides.unwrap_or_default());
        let (filter, handle) = reload::Layer::new(overrides.filter(self.level));
        let (place, writer, flush) = self.writer()?;
        tracing_subscriber::registry().with(filter).with(writer).try_init()?;
        for directive in skipped {
            warn!(directive, "log override is not a level or crate=level of one of our crates; skipped");
        }
        Ok(Log { level: LogLevel { overrides, filter: handle }, place, _flush: flush })
    }

    fn writer<S>(&self) -> Result<(LogPlace, Writer<S>, Option<FlushAtEnd>), LogError>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        if let Some(path) = self.file {
            let opened = FileLog::open(path);
            let (log, flush) = opened.map_err(|source| LogError::File { path: path.to_owned(), source })?;
            return Ok((LogPlace::File(path.to_owned()), to_file(log), Some(flush)));
        }
        if stderr_is_the_journal()
            // Its socket may be missing all the same, in a container for one.
            && let Ok(journal) = tracing_journald::layer()
        {
            return Ok((LogPlace::Journal, to_journal(journal, self.identifier), None));
        }
        if let Some(path) = self.last_resort
            && stderr_leads_nowhere()
            // Without a place for the file there is nobody to tell.
            && let Ok((log, flush)) = FileLog::open(path)
        {
            return Ok((LogPlace::File(path.to_owned()), to_file(log), Some(flush)));
        }
        let colour = colour(io::stderr().is_terminal(), |name| std::env::var(name).ok());
        let people = tracing_subscriber::fmt::layer().compact().with_writer(io::stderr).with_ansi(colour);
        Ok((LogPlace::Stderr, people.boxed(), None))
    }
}

type Writer<S> = Box<dyn Layer<S> + Send + Sync>;

fn to_file<S>(log: FileLog) -> Writer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer().compact().with_writer(log).with_ansi(false).boxed()
}

fn to_journal<S>(journal: tracing_journald::Layer, identifier: &str) -> Writer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let priorities =
        PriorityMappings { info: Priority::Informational, debug: Priority::Debug, ..PriorityMappings::new() };
    journal
        .with_syslog_identifier(identifier.to_owned())
        .with_priority_mappings(priorities)
        // DEVICE, BACKEND, REQUEST_ID: as the fields are called everywhere else.
        .with_field_prefix(None)
        .boxed()
}

/// Tells whether standard error is connected to the journal.
///
/// `$JOURNAL_STREAM` alone does not tell: a process started in a desktop's terminal inherits it too. So its
/// device and inode are compared, as systemd.exec(5) asks.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    names_file(&stream, stderr.dev(), stderr.ino())
}

/// Tells whether standard error is `/dev/null`; one that was closed is opened there by the language's runtime.
fn stderr_leads_nowhere() -> bool {
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return true };
    let device = (rustix::fs::major(stderr.rdev()), rustix::fs::minor(stderr.rdev()));
    stderr.file_type().is_char_device() && device == NULL_DEVICE
}

/// `/dev/null` wherever it is mounted; see the kernel's list of devices.
const NULL_DEVICE: (u32, u32) = (1, 3);

fn names_file(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

fn colour(terminal: bool, env: impl Fn(&str) -> Option<String>) -> bool {
    // https://no-color.org: set and not empty.
    let unwanted = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    terminal && !unwanted && env("TERM").as_deref() != Some("dumb")
}

/// Levels that the user asked for beside the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Overrides {
    all: Option<LevelFilter>,
    targets: Vec<(String, LevelFilter)>,
}

impl Overrides {
    /// Reads directives; returns those that were skipped too.
    fn parse(directives: &str) -> (Self, Vec<String>) {
        let mut overrides = Self::default();
        let mut skipped = Vec::new();
        for directive in directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            let (target, level) = match directive.split_once('=') {
                Some((target, level)) => (Some(target.trim()), level.trim()),
                None => (None, directive),
            };
            match (target, level.parse::<LevelFilter>()) {
                (None, Ok(level)) => overrides.all = Some(level),
                (Some(target), Ok(level)) if is_ours(target) => {
                    overrides.targets.push((target.to_owned(), level));
                }
                (_, _) => skipped.push(directive.to_owned()),
            }
        }
        (overrides, skipped)
    }

    fn filter(&self, level: LevelFilter) -> Targets {
        let level = self.all.unwrap_or(level);
        Targets::new()
            // At ERROR, a dependency's warning is not wanted either.
            .with_default(level.min(LevelFilter::from_level(Level::WARN)))
            .with_targets(OWN_TARGETS.map(|target| (target, level)))
            .with_targets(self.targets.iter().cloned())
    }
}

fn is_ours(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or_default();
    OWN_TARGETS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_crates_follow_the_level_and_dependencies_stay_at_warn() {
        let (overrides, _) = Overrides::parse("");
        let filter = overrides.filter(LevelFilter::DEBUG);
        for target in ["tunneld", "tunnel_broker::forward", "tunnel_relay::ingress"] {
            assert!(filter.would_enable(target, &Level::DEBUG), "{target}");
            assert!(!filter.would_enable(target, &Level::TRACE), "{target}");
        }
        assert!(!filter.would_enable("hyper::proto", &Level::INFO));
        assert!(filter.would_enable("hyper::proto", &Level::WARN));
        let filter = overrides.filter(LevelFilter::ERROR);
        assert!(!filter.would_enable("hyper::proto", &Level::WARN));
    }

    #[test]
    fn overrides_win_over_the_configured_level() {
        let (overrides, skipped) = Overrides::parse("debug, tunnel_broker::route=trace");
        assert!(skipped.is_empty());
        let filter = overrides.filter(LevelFilter::INFO);
        assert!(filter.would_enable("tunneld", &Level::DEBUG));
        assert!(filter.would_enable("tunnel_broker::route", &Level::TRACE));
        assert!(!filter.would_enable("tunnel_broker", &Level::TRACE));
    }

    #[test]
    fn overrides_never_reach_dependencies() {
        let (overrides, skipped) = Overrides::parse("hyper=trace,h2=debug,trace,loud,tunneld=loud");
        assert_eq!(skipped, ["hyper=trace", "h2=debug", "loud", "tunneld=loud"]);
        let filter = overrides.filter(LevelFilter::INFO);
        assert!(filter.would_enable("tunneld", &Level::TRACE));
        assert!(!filter.would_enable("hyper", &Level::INFO));
        assert!(!filter.would_enable("h2::codec", &Level::DEBUG));
    }

    #[test]
    fn journal_is_known_by_device_and_inode() {
        assert!(names_file("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "", "8", "8:1234:1", "a:b"] {
            assert!(!names_file(other, 8, 1234), "{other}");
        }
    }

    #[test]
    fn colour_needs_a_terminal_that_wants_it() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        assert!(colour(true, env(&[("TERM", "xterm")])));
        assert!(colour(true, env(&[("NO_COLOR", "")])));
        assert!(!colour(true, env(&[("NO_COLOR", "1")])));
        assert!(!colour(true, env(&[("TERM", "dumb")])));
        assert!(!colour(false, env(&[("TERM", "xterm")])));
    }
}
