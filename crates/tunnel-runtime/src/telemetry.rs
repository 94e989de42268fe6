//! Logs: to the journal when the process runs under it, else to standard error for people.
//!
//! Our own crates log at the level that is set, dependencies at WARN and above. The latter cannot be changed:
//! at DEBUG, HTTP libraries write headers, and with them keys and tokens.

use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use tracing::{Level, warn};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// The crates whose level can be set.
const OWN_CRATES: [&str; 6] =
    ["tunneld", "tunnel_api", "tunnel_broker", "tunnel_relay", "tunnel_runtime", "tunnel_transport"];

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

/// Starts logging. Fails when it has been started before.
///
/// `identifier` is the journal's `SYSLOG_IDENTIFIER`. `overrides` is what the user asked for beside the
/// configuration (`$TUNNELD_LOG`): a level for all of our crates, or `crate=level` for one and its modules,
/// separated by commas; what is not understood, or names another crate, is skipped with a warning.
pub fn init(identifier: &str, level: LevelFilter, overrides: Option<&str>) -> Result<LogLevel, TryInitError> {
    let (overrides, skipped) = Overrides::parse(overrides.unwrap_or_default());
    let (filter, handle) = reload::Layer::new(overrides.filter(level));
    tracing_subscriber::registry().with(filter).with(writer(identifier)).try_init()?;
    for directive in skipped {
        warn!(directive, "log override is not a level or crate=level of one of our crates; skipped");
    }
    Ok(LogLevel { overrides, filter: handle })
}

type Writer<S> = Box<dyn Layer<S> + Send + Sync>;

fn writer<S>(identifier: &str) -> Writer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    if stderr_is_the_journal()
        // Its socket may be missing all the same, in a container for one.
        && let Ok(journal) = tracing_journald::layer()
    {
        let journal = journal
            .with_syslog_identifier(identifier.to_owned())
            .with_priority_mappings(PriorityMappings {
                info: Priority::Informational,
                debug: Priority::Debug,
                ..PriorityMappings::new()
            })
            // DEVICE, BACKEND, REQUEST_ID: as the fields are called everywhere else.
            .with_field_prefix(None);
        return journal.boxed();
    }
    let colour = colour(io::stderr().is_terminal(), |name| std::env::var(name).ok());
    tracing_subscriber::fmt::layer().compact().with_writer(io::stderr).with_ansi(colour).boxed()
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
            .with_targets(OWN_CRATES.map(|target| (target, level)))
            .with_targets(self.targets.iter().cloned())
    }
}

fn is_ours(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or_default();
    OWN_CRATES.contains(&name)
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
