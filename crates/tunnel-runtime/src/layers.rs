//! One set of configuration values out of several sources, with the origin of each.
//!
//! Later layers win: defaults < hints < file < environment < flags. Objects merge key by key, everything else
//! is replaced whole. What the values *mean* is not known here; the caller checks the result.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value as FigmentValue};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::{Map, Value};

/// The sources of a configuration.
pub struct Sources<'a> {
    /// Every key that there is, unset ones as null. The type of a default tells how a variable is read.
    pub defaults: Map<String, Value>,
    /// Values that something outside tells, and its name, such as `$OLLAMA_HOST`.
    pub hints: Option<(&'static str, Map<String, Value>)>,
    /// The file, if there is one; see [`read_text`].
    pub file: Option<File>,
    /// What the variables begin with, such as `TUNNELD_`. `TUNNELD_API_SERVER_PORT` is `apiServerPort`.
    pub prefix: &'static str,
    /// The environment: `std::env::vars_os()`, or a test's.
    pub env: Vec<(OsString, OsString)>,
    /// Variables with this prefix that are no keys, such as `TUNNELD_CONFIG`.
    pub other_variables: &'a [&'a str],
    /// What the command line says.
    pub flags: Map<String, Value>,
}

/// What a configuration file says.
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Its keys.
    pub values: Map<String, Value>,
}

/// Configuration values out of all layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layered {
    /// The values; keys that no layer but the file knows are in it too.
    pub values: Map<String, Value>,
    /// Where each value came from, by its key; for keys of objects also by path, such as `queue.maxWait`.
    pub origins: BTreeMap<String, Origin>,
    /// Files that were read.
    pub files: Vec<PathBuf>,
    /// Variables with our prefix that mean nothing: misspelled, most likely.
    pub unknown_variables: Vec<String>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// Something outside that tells it, by name.
    Hint(&'static str),
    /// This file.
    File(PathBuf),
    /// The environment variable of this name.
    Env(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Hint(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "${name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Why the layers could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// A file that the user named is not there.
    #[error("there is no configuration file {}", .path.display())]
    Missing {
        /// Its path.
        path: PathBuf,
    },
    /// The file is there but cannot be read.
    #[error("could not read {}", .path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file's text is not what a configuration file looks like.
    #[error("{} is not a configuration file: {problem}", .path.display())]
    Malformed {
        /// Its path.
        path: PathBuf,
        /// What is wrong and where.
        problem: String,
    },
    /// A value cannot be merged, such as a number beyond what JSON's readers take.
    #[error("could not merge the configuration")]
    Merge(#[source] Box<figment::Error>),
}

/// Reads all layers.
pub fn read(sources: Sources<'_>) -> Result<Layered, LayersError> {
    let Sources { defaults, hints, file, prefix, env, other_variables, flags } = sources;
    let (variables, unknown_variables) = variables(&defaults, prefix, env, other_variables);

    let mut layers = vec![(Origin::Default, defaults)];
    if let Some((name, values)) = hints {
        layers.push((Origin::Hint(name), values));
    }
    let mut files = Vec::new();
    if let Some(File { path, values }) = file {
        files.push(path.clone());
        layers.push((Origin::File(path), values));
    }
    layers.extend(variables);
    layers.push((Origin::Flag, flags));

    let (values, origins) = merge(layers).map_err(LayersError::Merge)?;
    Ok(Layered { values, origins, files, unknown_variables })
}

/// Longest configuration file that is read, in bytes. Whatever is longer is something else.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads the text of a configuration file. None when it is not there and need not be.
///
/// A file that the user named must be there. What is no regular file, such as a pipe or a device, is refused: it
/// may have no end, or block.
pub fn read_text(path: &Path, named: bool) -> Result<Option<String>, LayersError> {
    let unreadable = |source| LayersError::Unreadable { path: path.to_owned(), source };
    let malformed =
        |problem: &str| LayersError::Malformed { path: path.to_owned(), problem: problem.to_owned() };
    let file = match crate::files::open(path) {
        Ok(file) => file,
        Err(error) if is_missing(&error) && named => {
            return Err(LayersError::Missing { path: path.to_owned() });
        }
        Err(error) if is_missing(&error) => return Ok(None),
        Err(source) => return Err(unreadable(source)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(malformed("longer than 1 MiB"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| malformed("not UTF-8 text"))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

type Layers = Vec<(Origin, Map<String, Value>)>;
type Merged = (Map<String, Value>, BTreeMap<String, Origin>);

/// Returns a layer for each variable that is a key, and the names of those that mean nothing.
fn variables(
    defaults: &Map<String, Value>,
    prefix: &str,
    env: Vec<(OsString, OsString)>,
    other_variables: &[&str],
) -> (Layers, Vec<String>) {
    let keys: BTreeMap<String, &String> =
        defaults.keys().map(|key| (format!("{prefix}{}", screaming_snake(key)), key)).collect();
    let mut layers = Vec::new();
    let mut unknown = Vec::new();
    for (name, value) in env {
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else { continue };
        match keys.get(name) {
            // Empty is how a container's environment says "not set".
            Some(_) if value.is_empty() => {}
            Some(key) => {
                let default = defaults.get(*key).unwrap_or(&Value::Null);
                let value = typed(&value.to_string_lossy(), default);
                layers.push((Origin::Env(name.to_owned()), Map::from_iter([((*key).clone(), value)])));
            }
            None if other_variables.contains(&name) => {}
            None => unknown.push(name.to_owned()),
        }
    }
    unknown.sort();
    (layers, unknown)
}

/// Reads a variable's text as the kind of value that its default is.
///
/// What cannot be read so stays text, so that the check of the key can say what would be right.
fn typed(text: &str, default: &Value) -> Value {
    let as_text = || Value::String(text.to_owned());
    let trimmed = text.trim();
    match default {
        Value::Bool(_) | Value::Number(_) => serde_json::from_str(trimmed).unwrap_or_else(|_| as_text()),
        Value::Array(_) if !trimmed.starts_with('[') => {
            trimmed.split(',').map(|entry| Value::String(entry.trim().to_owned())).collect()
        }
        Value::Array(_) | Value::Object(_) => serde_json::from_str(trimmed).unwrap_or_else(|_| as_text()),
        // A key that takes a word may take a list too.
        Value::String(_) if trimmed.starts_with('[') => {
            serde_json::from_str(trimmed).unwrap_or_else(|_| as_text())
        }
        Value::String(_) | Value::Null => as_text(),
    }
}

/// Returns `API_SERVER_PORT` for `apiServerPort`.
fn screaming_snake(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

fn merge(layers: Layers) -> Result<Merged, Box<figment::Error>> {
    let mut figment = Figment::new();
    for (index, (_, values)) in layers.iter().enumerate() {
        figment = figment.merge(Layer { index, values });
    }
    let values: Map<String, Value> = figment.extract()?;
    let mut origins = BTreeMap::new();
    let mut tell = |path: &str| {
        let layer = figment.find_metadata(path).and_then(|metadata| metadata.name.parse::<usize>().ok());
        if let Some((origin, _)) = layer.and_then(|index| layers.get(index)) {
            origins.insert(path.to_owned(), origin.clone());
        }
    };
    for (key, value) in &values {
        tell(key);
        if let Value::Object(inner) = value {
            inner.keys().for_each(|inner| tell(&format!("{key}.{inner}")));
        }
    }
    Ok((values, origins))
}

/// One layer as figment takes it; its metadata's name is its index.
struct Layer<'a> {
    index: usize,
    values: &'a Map<String, Value>,
}

impl Provider for Layer<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.index.to_string())
    }

    fn data(&self) -> figment::error::Result<figment::value::Map<Profile, Dict>> {
        let values = FigmentValue::serialize(self.values)?.into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(values))
    }
}

impl fmt::Debug for Sources<'_> {
    // Values may be anything, also what does not belong into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("an object") };
        map
    }

    fn sources(env: &[(&str, &str)]) -> Sources<'static> {
        Sources {
            defaults: object(json!({
                "apiServerPort": 8765, "enableMetrics": true, "logLevel": "INFO", "deviceName": null,
                "allowedOrigins": ["a"], "queue": { "maxWaiting": 64, "maxWait": 60 }, "remotePaths": "inference",
            })),
            hints: None,
            file: None,
            prefix: "TUNNELD_",
            env: env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            other_variables: &["TUNNELD_CONFIG"],
            flags: Map::new(),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn later_layers_win_and_origins_tell_it() {
        let path = PathBuf::from("/etc/c.json");
        let values =
            object(json!({ "apiServerPort": 1, "logLevel": "WARN", "queue": { "maxWait": 5 }, "extra": 1 }));
        let layered = read(Sources {
            hints: Some(("$HINT", object(json!({ "deviceName": "hinted", "logLevel": "DEBUG" })))),
            file: Some(File { path: path.clone(), values }),
            flags: object(json!({ "enableMetrics": false })),
            ..sources(&[("TUNNELD_API_SERVER_PORT", "2"), ("TUNNELD_ENABLE_METRICS", "true")])
        })
        .unwrap();
        assert_eq!(
            Value::Object(layered.values),
            json!({
                "apiServerPort": 2, "enableMetrics": false, "logLevel": "WARN", "deviceName": "hinted",
                "allowedOrigins": ["a"], "queue": { "maxWaiting": 64, "maxWait": 5 }, "remotePaths": "inference",
                "extra": 1,
            })
        );
        let origin = |key: &str| layered.origins[key].clone();
        assert_eq!(origin("apiServerPort"), Origin::Env("TUNNELD_API_SERVER_PORT".to_owned()));
        assert_eq!(origin("enableMetrics"), Origin::Flag);
        assert_eq!(origin("logLevel"), Origin::File(path.clone()));
        assert_eq!(origin("deviceName"), Origin::Hint("$HINT"));
        assert_eq!(origin("allowedOrigins"), Origin::Default);
        assert_eq!(origin("queue.maxWait"), Origin::File(path.clone()));
        assert_eq!(origin("queue.maxWaiting"), Origin::Default);
        assert_eq!(layered.files, [path]);
    }

    #[test]
    fn nothing_is_lost_between_the_layers() {
        let values = json!({
            "big": u64::MAX, "negative": -7, "fraction": 2.5, "null": null, "text": "1", "list": [1, "a", null, {}],
            "deep": { "a.b": { "c": [] } }, "empty": {}, "": "", "bool": false,
        });
        let layered = read(Sources { defaults: object(values.clone()), ..sources(&[]) }).unwrap();
        assert_eq!(Value::Object(layered.values), values);
    }

    #[test]
    fn variables_are_read_as_their_key_wants() {
        let values = read(sources(&[
            ("TUNNELD_API_SERVER_PORT", " 9000 "),
            ("TUNNELD_DEVICE_NAME", "123"),
            ("TUNNELD_LOG_LEVEL", "true"),
            ("TUNNELD_ENABLE_METRICS", "maybe"),
            ("TUNNELD_ALLOWED_ORIGINS", "http://a, http://b"),
            ("TUNNELD_QUEUE", r#"{"maxWait": 3}"#),
            ("TUNNELD_REMOTE_PATHS", r#"["GET /x"]"#),
        ]))
        .unwrap()
        .values;
        assert_eq!(
            Value::Object(values),
            json!({
                "apiServerPort": 9000, "deviceName": "123", "logLevel": "true", "enableMetrics": "maybe",
                "allowedOrigins": ["http://a", "http://b"], "queue": { "maxWaiting": 64, "maxWait": 3 },
                "remotePaths": ["GET /x"],
            })
        );
    }

    #[test]
    fn empty_variables_are_not_set_and_unknown_ones_are_named() {
        let layered = read(sources(&[
            ("TUNNELD_API_SERVER_PORT", ""),
            ("TUNNELD_CONFIG", "/x"),
            ("TUNNELD_API_PORT", "1"),
            ("PATH", "/bin"),
        ]))
        .unwrap();
        assert_eq!(layered.values["apiServerPort"], 8765);
        assert_eq!(layered.unknown_variables, ["TUNNELD_API_PORT"]);
    }

    #[test]
    fn a_named_file_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none.json");
        assert!(
            matches!(read_text(&path, true), Err(LayersError::Missing { path: missing }) if missing == path)
        );
        assert_eq!(read_text(&path, false).unwrap(), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_even_when_not_named() {
        let directory = tempfile::tempdir().unwrap();
        let read = |path: &Path| read_text(path, false).unwrap_err();
        assert!(matches!(read(directory.path()), LayersError::Unreadable { .. }));
        let written = file("");
        std::fs::write(written.path(), [0xff, 0xfe]).unwrap();
        assert!(read(written.path()).to_string().ends_with("not UTF-8 text"));
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let long = file(&" ".repeat(MAX_FILE_BYTES as usize + 1));
        assert!(read_text(long.path(), true).unwrap_err().to_string().ends_with("longer than 1 MiB"));
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        for path in [Path::new("/dev/zero"), &pipe] {
            let Err(LayersError::Unreadable { source, .. }) = read_text(path, true) else {
                panic!("{path:?}")
            };
            assert_eq!(source.to_string(), "it is no regular file");
        }
    }

    #[test]
    fn names_of_variables() {
        assert_eq!(screaming_snake("apiServerPort"), "API_SERVER_PORT");
        assert_eq!(screaming_snake("queue"), "QUEUE");
        assert_eq!(screaming_snake("caFile"), "CA_FILE");
    }
}
