//! What a program that the daemon starts for a plugin may do.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::rule::{self, Rejection};
#[cfg(feature = "schema")]
use super::schema;
use super::section::Section;

/// `sandbox` of a connection: what its `command` may do. What is not named here it may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", schemars(deny_unknown_fields))]
pub struct SandboxConfig {
    /// Whether it may use the network, this machine's own included. Default false: its socket is all it has.
    pub network: bool,

    /// Whether it sees the machine's devices, such as a GPU. Default false.
    pub devices: bool,

    /// Files and folders of the home that it may read, absolute paths. Default empty: none but its program.
    ///
    /// Outside of the homes and `/run` it may read what its user may.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::absolute_paths"))]
    pub read_paths: Vec<PathBuf>,

    /// Files and folders that it may change, absolute paths. Default empty: none but its own `/tmp`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::absolute_paths"))]
    pub write_paths: Vec<PathBuf>,

    /// Most memory that it may hold, in MiB, at least 1. Default 1024. A program that takes more is ended.
    #[serde(rename = "memoryMB")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::positive"))]
    pub memory_mb: NonZeroU32,

    /// Environment variables that it gets beside the few of the daemon. Default empty. Not for secrets: this file is
    /// shown by the API.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::variables"))]
    pub environment: BTreeMap<String, String>,

    /// Whether it is left unstarted where there is no systemd that could confine it. Default false: it is started,
    /// and the status warns.
    pub required: bool,
}

/// Enough for an adapter; a program that loads a model itself says how much it needs.
const MEMORY_MB: NonZeroU32 = NonZeroU32::new(1024).unwrap();

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            network: false,
            devices: false,
            read_paths: Vec::new(),
            write_paths: Vec::new(),
            memory_mb: MEMORY_MB,
            environment: BTreeMap::new(),
            required: false,
        }
    }
}

pub(super) fn sandbox(section: &mut Section<'_>, default: SandboxConfig) -> SandboxConfig {
    SandboxConfig {
        network: section.read("network", default.network, rule::flag("Sandbox network")),
        devices: section.read("devices", default.devices, rule::flag("Sandbox devices")),
        read_paths: section.list("readPaths", default.read_paths, path),
        write_paths: section.list("writePaths", default.write_paths, path),
        memory_mb: section.read("memoryMB", default.memory_mb, rule::positive("Sandbox memory")),
        environment: section.read("environment", default.environment, environment),
        required: section.read("required", default.required, rule::flag("Sandbox required")),
    }
}

/// Reads a program and its arguments; empty is none.
pub(super) fn command(value: &Value) -> Result<Vec<String>, Rejection> {
    // An argument may be a key, so nothing of it is shown.
    let refused = || {
        Rejection::Hidden(
            "Connection command must be a list of texts: the absolute path of a program, then its arguments"
                .to_owned(),
        )
    };
    let words = value.as_array().ok_or_else(refused)?;
    let words: Option<Vec<String>> = words.iter().map(one_word).collect();
    words.filter(|words| words.first().is_none_or(|program| is_absolute(program))).ok_or_else(refused)
}

fn path(value: &Value) -> Result<PathBuf, Rejection> {
    let path = one_word(value).filter(|path| is_absolute(path));
    path.map(PathBuf::from).ok_or_else(|| "Sandbox path must be an absolute path without `..` and `:`".into())
}

fn environment(value: &Value) -> Result<BTreeMap<String, String>, Rejection> {
    let refused = || {
        Rejection::Hidden(
            "Sandbox environment must be an object of texts, its names of A-Z a-z 0-9 and _".to_owned(),
        )
    };
    let variables = value.as_object().ok_or_else(refused)?;
    let read = |(name, value): (&String, &Value)| {
        is_variable(name).then_some(())?;
        Some((name.clone(), one_word(value)?))
    };
    variables.iter().map(read).collect::<Option<_>>().ok_or_else(refused)
}

fn is_variable(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// A text that a program can be given: without the NUL that ends one.
fn one_word(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.contains('\0')).map(str::to_owned)
}

/// `:` parts the two sides of a mount in systemd's settings, and `..` could lead out of what was meant.
fn is_absolute(path: &str) -> bool {
    path.len() > 1
        && path.starts_with('/')
        && !path.contains([':', '\n', '\r'])
        && !path.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn command_begins_with_an_absolute_path() {
        assert_eq!(command(&json!(["/bin/echo", "a b", ""])).ok().map(|words| words.len()), Some(3));
        assert_eq!(command(&json!([])).ok(), Some(Vec::new()));
        for bad in [
            json!(["echo"]),
            json!(["./echo"]),
            json!("/bin/echo"),
            json!(["/bin/../x"]),
            json!(["/"]),
            json!([7]),
        ] {
            assert!(command(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn arguments_and_variables_are_not_shown_when_they_are_refused() {
        for refused in
            [command(&json!(["echo", "sk-secret"])).err(), environment(&json!({ "A-B": "sk-secret" })).err()]
        {
            assert!(matches!(refused, Some(Rejection::Hidden(_))));
        }
    }
}
