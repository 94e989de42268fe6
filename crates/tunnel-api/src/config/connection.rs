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

    /// What it is: `ollama`, `llamacpp`, `vllm`, `lmstudio`, `openai` for any other server with OpenAI's API, `cloud` for
    /// an account elsewhere (another relay, or a service with Ollama's or OpenAI's API), or `plugin`. Must be given.
    #[serde(rename = "type")]
    pub kind: ConnectionType,

    /// Its base address, `http://` or `https://`, for a plugin also `unix:///path`; for the cloud `http://` on this
    /// machine only. No user name, password, query or fragment. Must be given, except beside `command`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::backend_url", default))]
    #[serde(serialize_with = "super::write::optional_url_text", skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,

    /// The program of a plugin, as an absolute path, and its arguments; no shell reads them. In place of `url`.
    /// Default empty: the daemon starts none.
    ///
    /// The daemon starts it, watches it and starts it again; `docs/plugins.md` says what it has to answer. A web page
    /// cannot change it. The arguments are no place for secrets: this file is shown by the API.
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

    /// Name of the stored secret that is sent to it as a bearer token, over https or on this machine only. Default null:
    /// none is sent. It is stored with `tunnelctl connections credential set NAME`, never in this file.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::credential", default))]
    pub credential: Option<String>,

    /// Whether it is used. Default true.
    #[cfg_attr(feature = "schema", schemars(default = "schema::yes"))]
    pub enabled: bool,
}

/// What a configured backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ConnectionType {
    /// Ollama's API.
    Ollama,
    /// OpenAI's API.
    Openai,
    /// llama.cpp's `llama-server`.
    Llamacpp,
    /// vLLM.
    Vllm,
    /// LM Studio.
    Lmstudio,
    /// An account elsewhere: another relay, or a service with Ollama's or OpenAI's API. What comes through the tunnel is
    /// never sent there.
    Cloud,
    /// A process of the user's that speaks HTTP.
    Plugin,
}

pub(super) fn connections(top: &mut Section<'_>) -> Vec<ConnectionConfig> {
    top.sections("connections", |section| {
        let id = section.require("id", "Connection id must be given", id);
        let kind = section.require(
            "type",
            "Connection type must be given: one of ollama, openai, llamacpp, vllm, lmstudio, cloud, plugin",
            kind,
        );
        let command = section.read("command", Vec::new(), sandbox::command);
        let url = if command.is_empty() {
            section.require("url", "Connection URL must be given", |value| url(value, kind)).map(Some)
        } else {
            let started = section.path_of("command");
            if kind != Some(ConnectionType::Plugin) {
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
    name(value).ok_or_else(|| {
        "Connection id must be 1 to 63 characters of A-Z, a-z, 0-9, ., _ and -, not of dots alone".into()
    })
}

fn kind(value: &Value) -> Result<ConnectionType, Rejection> {
    let known =
        value.as_str().and_then(|text| ConnectionType::ALL.into_iter().find(|kind| kind.as_str() == text));
    known.ok_or_else(|| {
        let mut rule =
            "Connection type must be one of: ollama, openai, llamacpp, vllm, lmstudio, cloud, plugin"
                .to_owned();
        if let Some(meant) = value.as_str().and_then(meant) {
            rule.push_str(&format!("; did you mean {}?", meant.as_str()));
        }
        rule.into()
    })
}

/// Returns the type that people write in other ways, too: `llama.cpp`, `LM Studio`, `VLLM`.
fn meant(text: &str) -> Option<ConnectionType> {
    let plain: String =
        text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let known = ConnectionType::ALL.into_iter().find(|kind| kind.as_str() == plain);
    known.or(match plain.as_str() {
        "llama" | "llamaserver" => Some(ConnectionType::Llamacpp),
        "relay" => Some(ConnectionType::Cloud),
        _ => None,
    })
}

impl ConnectionType {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Ollama, Self::Openai, Self::Llamacpp, Self::Vllm, Self::Lmstudio, Self::Cloud, Self::Plugin];

    /// Returns the name that the configuration uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Openai => "openai",
            Self::Llamacpp => "llamacpp",
            Self::Vllm => "vllm",
            Self::Lmstudio => "lmstudio",
            Self::Cloud => "cloud",
            Self::Plugin => "plugin",
        }
    }
}

fn url(value: &Value, kind: Option<ConnectionType>) -> Result<Url, Rejection> {
    let plugin = kind == Some(ConnectionType::Plugin);
    let socket = value.as_str().and_then(|text| Url::parse(text.trim()).ok());
    match socket {
        Some(url) if plugin && url.scheme() == "unix" && url.host().is_none() && url.path().len() > 1 => {
            Ok(url)
        }
        _ => {
            let url = rule::http_url("Connection URL", value)?;
            if kind == Some(ConnectionType::Cloud) && url.scheme() == "http" && !rule::is_loopback(&url) {
                return Err(
                    "Connection URL of type cloud must start with https:// unless it is a loopback address"
                        .into(),
                );
            }
            Ok(url)
        }
    }
}

pub(super) fn model(value: &Value) -> Result<String, Rejection> {
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
    // An id becomes part of paths, in which dots alone lead elsewhere.
    (1..=63).contains(&text.len()) && text.chars().all(fits) && !text.chars().all(|c| c == '.')
}
