//! Backends beside the built-in one.

use std::num::NonZeroU32;

use serde::Serialize;
use serde_json::Value;
use url::Url;

use super::rule::{self, Rejection};
use super::sandbox::{self, SandboxConfig};
#[cfg(feature = "schema")]
use super::schema;
use super::section::Section;

/// One entry of `connections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", schemars(deny_unknown_fields))]
pub struct ConnectionConfig {
    /// Unique id, 1–63 of `A-Z a-z 0-9 . _ -`. Callers pin a connection by it: `<id>/<model>`. Must be given.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::name"))]
    pub id: String,

    /// What it speaks: `ollama`, `openai`, `cloud` or `plugin`. Must be given.
    #[serde(rename = "type")]
    pub kind: ConnectionType,

    /// Its base address, `http://` or `https://`, for a plugin also `unix:///path`; no user name, password,
    /// query or fragment. Must be given, except beside `command`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::backend_url", default))]
    #[serde(serialize_with = "super::write::optional_url_text", skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,

    /// The program of a plugin, as an absolute path, and its arguments; no shell reads them. In place of `url`.
    /// Default empty: the daemon starts none.
    ///
    /// The daemon starts it, watches it and starts it again; `docs/plugins.md` says what it has to answer. A web page
    /// cannot change it.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::command", default))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,

    /// What `command` may do. A web page cannot change it.
    #[cfg_attr(feature = "schema", schemars(default))]
    #[serde(skip_serializing_if = "is_default")]
    pub sandbox: SandboxConfig,

    /// Which connections are tried first: lower ones. Default 0.
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "schema::whole::<0, { rule::NO_MAXIMUM }>", default)
    )]
    pub priority: u32,

    /// Share of the load among connections of the same priority, at least 1. Default 1.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::positive", default = "schema::one"))]
    pub weight: NonZeroU32,

    /// Most requests that it works on at once, at least 1. Default null: no limit of ours.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::optional_positive", default))]
    pub max_concurrent: Option<NonZeroU32>,

    /// Names of the models to use of those that it lists. Default empty: all.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::models", default))]
    pub models: Vec<String>,

    /// Name of the stored secret that is sent to it. Default null: none is sent.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::credential", default))]
    pub credential: Option<String>,

    /// Whether it is used. Default true.
    #[cfg_attr(feature = "schema", schemars(default = "schema::yes"))]
    pub enabled: bool,
}

/// What a configured backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ConnectionType {
    /// Ollama's API.
    Ollama,
    /// OpenAI's API.
    Openai,
    /// Models on the other side of a relay.
    Cloud,
    /// A process of the user's that speaks HTTP.
    Plugin,
}

pub(super) fn connections(top: &mut Section<'_>) -> Vec<ConnectionConfig> {
    top.sections("connections", |section| {
        let id = section.require("id", "Connection id must be given", id);
        let kind =
            section.require("type", "Connection type must be given: ollama, openai, cloud or plugin", kind);
        let plugin = kind == Some(ConnectionType::Plugin);
        let command = section.read("command", Vec::new(), sandbox::command);
        let url = if command.is_empty() {
            section.require("url", "Connection URL must be given", |value| url(value, plugin)).map(Some)
        } else {
            let started = section.path_of("command");
            if !plugin {
                section.fault(&started, "Connection command is for connections of type plugin");
            }
            if section.value("url").is_some() {
                section
                    .fault(&started, "Connection command stands in place of the URL; leave one of them out");
            }
            Some(None)
        };
        let rest = ConnectionConfig {
            priority: section.read("priority", 0, rule::natural("Connection priority")),
            weight: section.read("weight", NonZeroU32::MIN, rule::positive("Connection weight")),
            max_concurrent: section.read(
                "maxConcurrent",
                None,
                rule::optional(rule::positive("Connection max concurrent")),
            ),
            models: section.list("models", Vec::new(), model),
            credential: section.read("credential", None, rule::optional(credential)),
            enabled: section.read("enabled", true, rule::flag("Connection enabled")),
            sandbox: section.section("sandbox", SandboxConfig::default(), sandbox::sandbox),
            command,
            // Each missing one has told its fault, so that all faults of the entry are known by now.
            id: id?,
            kind: kind?,
            url: url?,
        };
        Some(rest)
    })
}

fn is_default(sandbox: &SandboxConfig) -> bool {
    *sandbox == SandboxConfig::default()
}

fn id(value: &Value) -> Result<String, Rejection> {
    name(value).ok_or_else(|| "Connection id must be 1 to 63 characters of A-Z, a-z, 0-9, ., _ and -".into())
}

fn kind(value: &Value) -> Result<ConnectionType, Rejection> {
    match value.as_str() {
        Some("ollama") => Ok(ConnectionType::Ollama),
        Some("openai") => Ok(ConnectionType::Openai),
        Some("cloud") => Ok(ConnectionType::Cloud),
        Some("plugin") => Ok(ConnectionType::Plugin),
        _ => Err("Connection type must be one of: ollama, openai, cloud, plugin".into()),
    }
}

fn url(value: &Value, plugin: bool) -> Result<Url, Rejection> {
    let socket = value.as_str().and_then(|text| Url::parse(text.trim()).ok());
    match socket {
        Some(url) if plugin && url.scheme() == "unix" && url.host().is_none() && url.path().len() > 1 => {
            Ok(url)
        }
        _ => rule::http_url("Connection URL", value),
    }
}

fn model(value: &Value) -> Result<String, Rejection> {
    match value.as_str() {
        Some(model) if !model.trim().is_empty() && !model.contains(char::is_control) => {
            Ok(model.trim().to_owned())
        }
        _ => Err("Model must be a name such as llama3.2:3b".into()),
    }
}

/// Whoever puts the secret itself here must not find it in a log.
fn credential(value: &Value) -> Result<String, Rejection> {
    name(value).filter(|name| !name.starts_with("sk-")).ok_or_else(|| {
        Rejection::Hidden(
            "Credential must be the name of a stored secret, never the secret itself".to_owned(),
        )
    })
}

fn name(value: &Value) -> Option<String> {
    value.as_str().filter(|name| is_connection_id(name)).map(str::to_owned)
}

/// Tells whether a text is fit for the id of a connection.
pub fn is_connection_id(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=63).contains(&text.len()) && text.chars().all(fits)
}
