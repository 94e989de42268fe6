//! The configuration file: its known keys, and the names of those that nobody knows.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use serde_json::{Map, Value, json};
use tunnel_api::config::SCHEMA_KEY;
use tunnel_api::{Config, config, paths};

use super::job::{Content, Trouble};

/// Longest file that is read, in bytes; the daemon has the same limit.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads the file that is named, else the one that a daemon would read.
pub(super) fn read(named: Option<&Path>) -> Result<Content, Trouble> {
    let found = paths::config_file(named, |name| std::env::var_os(name), Path::exists);
    let file = found.ok_or_else(|| Trouble::Skip("there is no home and no file".to_owned()))?;
    let mut text = String::new();
    let read =
        fs::File::open(&file.path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Content::Json(shown(&text, &file.path))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Trouble::Skip(format!("{} is not there, the defaults run", file.path.display())))
        }
        Err(error) => Err(Trouble::Err(format!("{}: {error}", file.path.display()))),
    }
}

fn shown(text: &str, path: &Path) -> Value {
    let keys = match config::parse(text) {
        Ok(keys) => keys,
        // What stands there may be anything; where it stands is enough.
        Err(error) => {
            return json!({ "file": path, "not_json": { "line": error.line, "problem": error.problem } });
        }
    };
    let faults: Vec<Value> = Config::check(&keys)
        .err()
        .unwrap_or_default()
        .iter()
        .map(|fault| json!({ "at": fault.key, "rule": fault.rule, "did_you_mean": fault.did_you_mean }))
        .collect();
    let known = Config::default().to_map();
    let (known, unknown): (Map<String, Value>, Map<String, Value>) =
        keys.into_iter().partition(|(key, _)| known.contains_key(key) || key == SCHEMA_KEY);
    // A key that is misspelt may hold what belongs into another file.
    let unknown: Vec<String> = unknown.into_iter().map(|(key, _)| key).collect();
    json!({ "file": path, "keys": known, "unknown_keys": unknown, "faults": faults })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_unknown_keys_are_left_out() {
        let text = r#"{"ollamaPort": 1, "authTokne": "canary", "$schema": "s"}"#;
        let shown = shown(text, Path::new("/c"));
        assert_eq!(shown["keys"]["ollamaPort"], 1);
        assert_eq!(shown["unknown_keys"], json!(["authTokne"]));
        assert!(!shown.to_string().contains("canary"), "{shown}");
    }

    #[test]
    fn what_is_no_json_is_not_repeated() {
        let shown = shown("token = canary", Path::new("/c"));
        assert_eq!(shown["not_json"]["line"], 1);
        assert!(!shown.to_string().contains("canary"), "{shown}");
    }
}
