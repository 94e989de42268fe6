//! The configuration file, judged without a daemon.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use tunnel_api::config::{self, Fault};
use tunnel_api::{Config, paths};

use super::finding::Finding;

/// Longest file that is read, in bytes; the daemon has the same limit for its own.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Judges the file that the daemon would read, and returns what it says; the defaults when that cannot be known.
pub(super) fn look() -> (Finding, Config) {
    let Some(file) = paths::config_file(None, |name| std::env::var_os(name), Path::exists) else {
        return (Finding::pass("there is no home and no file, the defaults run"), Config::default());
    };
    let path = file.path.display();
    let text = match read(&file.path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !file.named => {
            return (Finding::pass(format!("{path} is not there, the defaults run")), Config::default());
        }
        Err(error) => {
            let step =
                if file.named { "correct $TUNNELD_CONFIG, or make the file" } else { "make it readable" };
            return (Finding::fail(format!("{path} cannot be read: {error}"), step), Config::default());
        }
    };
    judge(&text, &path.to_string())
}

fn judge(text: &str, path: &str) -> (Finding, Config) {
    let faults = match config::parse(text).map(|keys| Config::check(&keys)) {
        Ok(Ok(config)) => return (Finding::pass(format!("{path} is fine")), config),
        Ok(Err(faults)) => faults,
        Err(error) => vec![Fault { key: path.to_owned(), rule: error.to_string(), ..Fault::default() }],
    };
    let first = faults.first().map(Fault::to_string).unwrap_or_default();
    let more = match faults.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let found = Finding::fail(format!("{first}{more}"), "see all that is wrong: tunnelctl config check");
    (found, Config::default())
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use tunnel_api::Verdict;

    use super::*;

    #[test]
    fn first_fault_is_told_and_the_others_are_counted() {
        let (found, config) = judge(r#"{"ollamaPort": 0, "logLevel": "LOUD"}"#, "/c.json");
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.detail.starts_with("ollamaPort: "), "{found:?}");
        assert!(found.detail.ends_with(" (and 1 more)"), "{found:?}");
        assert_eq!(config, Config::default());
        let (found, _) = judge("{", "/c.json");
        assert!(found.detail.starts_with("/c.json: line 1"), "{found:?}");
    }

    #[test]
    fn what_the_file_says_is_looked_at() {
        let (found, config) = judge(r#"{"ollamaPort": 4321}"#, "/c.json");
        assert_eq!(found, Finding::pass("/c.json is fine"));
        assert_eq!(config.ollama_port.get(), 4321);
    }
}
