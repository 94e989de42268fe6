//! Where the daemon's log is.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tunnel_api::{LogTarget, Version, paths};
use tunnel_client::Client;

use crate::commands::program;
use crate::commands::service::{Properties, SERVICE};

/// Longest wait for systemctl and for journalctl.
const LIMIT: Duration = Duration::from_secs(5);

/// Longest wait for the daemon, which answers from memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A place that the daemon's log is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Source {
    /// The user's journal, under the daemon's unit.
    Journal,
    /// A file.
    File(PathBuf),
    /// The daemon says that it logs to standard error.
    Stderr,
    /// Nowhere.
    None {
        /// Where a file would be.
        looked: Vec<PathBuf>,
    },
}

/// Finds the place that the daemon writes to, as it says itself, or wrote to last where it does not answer.
pub(in crate::commands) async fn find(client: &Client) -> Source {
    // A daemon that hangs is one whose log is wanted.
    let version = tokio::time::timeout(ANSWER_LIMIT, client.version()).await;
    match version.ok().and_then(Result::ok).and_then(|version| said(&version)) {
        Some(source) => source,
        None => guessed().await,
    }
}

/// None where the daemon is older than the question.
fn said(version: &Version) -> Option<Source> {
    match version.log {
        LogTarget::Journal => Some(Source::Journal),
        LogTarget::File => version.log_file.as_ref().map(|file| Source::File(file.into())),
        LogTarget::Stderr => Some(Source::Stderr),
        LogTarget::Unknown => None,
    }
}

async fn guessed() -> Source {
    let looked = files(|name| std::env::var_os(name).map(PathBuf::from));
    let (runs, journal) = tokio::join!(runs(), newest_entry());
    let file = looked
        .iter()
        .filter_map(|path| Some((path.metadata().ok()?, path)))
        .filter(|(meta, _)| meta.is_file())
        .filter_map(|(meta, path)| Some((meta.modified().ok()?, path.clone())))
        .max();
    choose(runs, journal, file).unwrap_or(Source::None { looked })
}

/// Chooses the newer one: who logs to a file leaves in the journal only what systemd says of the unit.
fn choose(runs: bool, journal: Option<SystemTime>, file: Option<(SystemTime, PathBuf)>) -> Option<Source> {
    match (journal, file) {
        (Some(entry), Some((written, path))) if written > entry => Some(Source::File(path)),
        (Some(_), _) => Some(Source::Journal),
        (None, Some((_, path))) => Some(Source::File(path)),
        // It has not said anything yet.
        (None, None) => runs.then_some(Source::Journal),
    }
}

/// Returns the files that the daemon may log to, as it chooses them itself.
fn files(env: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let named = env("TUNNELD_LOG_FILE").filter(|path| !path.as_os_str().is_empty());
    let home = env("HOME").filter(|home| home.is_absolute());
    let original = home.map(|home| home.join(".cloudtolocalllm/tunnel_manager.log"));
    let state = paths::state_dir(None, |name| env(name).map(PathBuf::into_os_string));
    named.into_iter().chain(original).chain(state.map(|directory| directory.join("tunneld.log"))).collect()
}

/// Tells whether the unit runs.
async fn runs() -> bool {
    let shown = program::run("systemctl", &["--user", "show", SERVICE, "--property=ActiveState"], LIMIT);
    let Ok(output) = shown.await else { return false };
    Properties::parse(&String::from_utf8_lossy(&output.stdout)).is_active()
}

/// The one field of an entry that is looked at.
#[derive(Debug, Deserialize)]
struct Entry {
    /// In microseconds since 1970, as text.
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
}

/// Returns when the journal was last written to by the daemon, or on behalf of it.
async fn newest_entry() -> Option<SystemTime> {
    let arguments = ["--user", "--user-unit", SERVICE, "--no-pager", "-q", "-n", "1", "-o", "json"];
    let output = program::run("journalctl", &arguments, LIMIT).await.ok()?;
    entry_time(&String::from_utf8_lossy(&output.stdout))
}

fn entry_time(line: &str) -> Option<SystemTime> {
    let entry: Entry = serde_json::from_str(line.lines().next()?).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_micros(entry.at.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_of_journal_and_file_is_shown() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let file = |seconds| Some((at(seconds), PathBuf::from("/l")));
        assert_eq!(choose(true, Some(at(2)), file(1)), Some(Source::Journal));
        assert_eq!(choose(true, Some(at(1)), file(2)), Some(Source::File("/l".into())));
        assert_eq!(choose(true, None, file(2)), Some(Source::File("/l".into())));
        assert_eq!(choose(true, None, None), Some(Source::Journal));
        assert_eq!(choose(false, None, None), None);
    }

    #[test]
    fn daemon_that_answers_knows_best() {
        let version = |log, file: Option<&str>| Version {
            log,
            log_file: file.map(str::to_owned),
            ..Version::default()
        };
        assert_eq!(said(&version(LogTarget::File, Some("/x"))), Some(Source::File("/x".into())));
        assert_eq!(said(&version(LogTarget::Journal, None)), Some(Source::Journal));
        assert_eq!(said(&version(LogTarget::Stderr, None)), Some(Source::Stderr));
        assert_eq!(said(&Version::default()), None);
    }

    #[test]
    fn files_are_where_the_daemon_puts_them() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        };
        let named = [("TUNNELD_LOG_FILE", "/l"), ("HOME", "/home/a"), ("TUNNELD_STATE_DIR", "/s")];
        let places = files(env(Box::leak(Box::new(named))));
        let wanted = ["/l", "/home/a/.cloudtolocalllm/tunnel_manager.log", "/s/tunneld.log"];
        assert_eq!(places, wanted.map(PathBuf::from));
        assert_eq!(files(env(&[])), Vec::<PathBuf>::new());
    }

    #[test]
    fn time_of_an_entry_is_read() {
        let line = "{\"__REALTIME_TIMESTAMP\":\"1700000000000000\",\"MESSAGE\":[1,2]}\n";
        assert_eq!(entry_time(line), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
        assert_eq!(entry_time("-- No entries --\n"), None);
    }
}
