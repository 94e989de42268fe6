//! What a plugin says of itself: the answer to `GET /_plugin`. Pure.

use http::uri::PathAndQuery;
use serde::Deserialize;

use super::{
    Api, Cow, Duration, HealthCheck, Lists, Loaded, Method, ModelCall, ModelList, NO_MODELS_STEP, Names,
    Profile, ROUTER_STATE, Side, Speaks, Text, VersionCheck, ollama_list, openai_list,
};

/// The statuses that mean that it loads, unless it names others.
const LOADING: &[u16] = &[503];

/// A plugin that has not said anything of itself yet: taken for a server with OpenAI's API.
pub(crate) static PROFILE: Profile = {
    const LISTS: &[ModelList] = &[openai_list("/v1/models", ROUTER_STATE)];
    Profile {
        name: Text::Borrowed("plugin"),
        product: Text::Borrowed("a plugin"),
        side: Side::Local,
        speaks: Speaks::OPENAI,
        // It answers this one from its start on, and its list with 503 while it loads.
        health: Some(HealthCheck {
            path: Text::Borrowed(Profile::DESCRIPTION_PATH),
            loading: Cow::Borrowed(LOADING),
            in_words: false,
        }),
        version: None,
        lists: Lists::First(Cow::Borrowed(LISTS)),
        running: None,
        metrics: None,
        load: None,
        unload: None,
        names: Names::EXACT,
        // Its address is a socket, or what it was given: nothing of it is taken for a part of the API.
        own_path: None,
        start_step: Text::Borrowed(
            "see why the plugin does not answer, or mend its url under connections in the config",
        ),
        no_models_step: NO_MODELS_STEP,
        recommended: None,
        usual_ports: Cow::Borrowed(&[]),
        least_interval: Duration::ZERO,
    }
};

/// Why what a plugin said of itself cannot be used. The texts are for people; nothing of what it sent is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// Larger than any description.
    #[error("the answer to /_plugin is larger than {} KiB", Profile::LARGEST_DESCRIPTION / 1024)]
    TooLarge,
    /// Not JSON, or a member of another kind.
    #[error("the answer to /_plugin is no JSON object as a plugin sends it (line {line}, column {column})")]
    NotADescription {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// Another protocol.
    #[error("the plugin speaks protocol {0} of plugins; this version knows protocol 1")]
    Protocol(u64),
    /// A member that cannot be used.
    #[error("{member} in the answer to /_plugin must be {rule}")]
    Member {
        /// Its name.
        member: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

/// What a plugin sends. All but the protocol has a default; members that are not known here are skipped.
#[derive(Deserialize)]
struct Description {
    protocol: u64,
    name: Option<String>,
    version: Option<String>,
    api: Option<Vec<String>>,
    health: Option<String>,
    loading: Option<Vec<u16>>,
    models: Option<String>,
    running: Option<String>,
    metrics: Option<String>,
    load: Option<Call>,
    unload: Option<Call>,
}

/// A request about a model.
#[derive(Deserialize)]
struct Call {
    path: String,
    body: Option<String>,
}

/// Longest path, in bytes.
const LONGEST_PATH: usize = 256;
/// Longest name or version, in characters.
const LONGEST_NAME: usize = 64;
/// Longest body template, in bytes.
const LONGEST_BODY: usize = 1024;
/// Most statuses that mean that it still loads.
const MOST_STATUSES: usize = 8;

impl Profile {
    /// The path at which a plugin describes itself.
    pub const DESCRIPTION_PATH: &str = "/_plugin";
    /// No description is longer, in bytes.
    pub const LARGEST_DESCRIPTION: usize = 16 * 1024;

    /// Reads what a plugin says of itself.
    ///
    /// # Errors
    ///
    /// When it is not a description of protocol 1, or when a member of it cannot be used.
    pub fn of_plugin(answer: &[u8]) -> Result<Self, PluginError> {
        if answer.len() > Self::LARGEST_DESCRIPTION {
            return Err(PluginError::TooLarge);
        }
        let description: Description = serde_json::from_slice(answer)
            .map_err(|error| PluginError::NotADescription { line: error.line(), column: error.column() })?;
        if description.protocol != 1 {
            return Err(PluginError::Protocol(description.protocol));
        }
        let speaks = speaks(description.api.as_deref())?;
        if let Some(version) = &description.version {
            title("version", version)?;
        }
        let health = description.health.map(|at| path("health", at)).transpose()?;
        let loading = statuses(description.loading)?;
        Ok(Self {
            product: match description.name {
                Some(name) => title("name", &name)?,
                None => PROFILE.product.clone(),
            },
            speaks,
            health: Some(HealthCheck {
                path: health.unwrap_or(Self::DESCRIPTION_PATH.into()),
                loading,
                in_words: false,
            }),
            version: description.version.map(|_| VersionCheck {
                path: Self::DESCRIPTION_PATH.into(),
                member: "version".into(),
                demanded: false,
            }),
            lists: lists(speaks, description.models)?,
            running: match description.running {
                Some(at) => Some(ModelList { path: path("running", at)?, ..ollama_list("", Loaded::All) }),
                None => None,
            },
            metrics: description.metrics.map(|at| path("metrics", at)).transpose()?,
            load: description.load.map(|call| model_call("load", call)).transpose()?,
            unload: description.unload.map(|call| model_call("unload", call)).transpose()?,
            names: if speaks.ollama { Names::OLLAMA } else { Names::EXACT },
            ..PROFILE.clone()
        })
    }
}

fn speaks(api: Option<&[String]>) -> Result<Speaks, PluginError> {
    let Some(api) = api else { return Ok(PROFILE.speaks) };
    let mut speaks = Speaks { other: true, ..Speaks::default() };
    for name in api {
        match name.as_str() {
            "ollama" => speaks.add(Api::Ollama),
            "openai" => speaks.add(Api::OpenAi),
            _ => return Err(PluginError::Member { member: "api", rule: "a list of ollama, openai or both" }),
        }
    }
    match speaks {
        Speaks { ollama: false, openai: false, .. } => {
            Err(PluginError::Member { member: "api", rule: "a list of ollama, openai or both" })
        }
        speaks => Ok(speaks),
    }
}

/// One list is enough, as with Ollama: it is translated for who asks in the other API.
fn lists(speaks: Speaks, at: Option<String>) -> Result<Lists, PluginError> {
    let mut list = if speaks.ollama {
        ollama_list("/api/tags", Loaded::Elsewhere)
    } else {
        openai_list("/v1/models", ROUTER_STATE)
    };
    if let Some(at) = at {
        list.path = path("models", at)?;
    }
    Ok(Lists::First(vec![list].into()))
}

fn model_call(member: &'static str, call: Call) -> Result<ModelCall, PluginError> {
    let body = call.body.unwrap_or_else(|| r#"{"model":{model}}"#.to_owned());
    if body.len() > LONGEST_BODY || !body.contains("{model}") {
        return Err(PluginError::Member {
            member,
            rule: "an object whose body is a short text with {model} in it",
        });
    }
    Ok(ModelCall {
        method: Method::POST,
        path: path(member, call.path)?,
        body: body.into(),
        answers_when_done: true,
        needs: None,
    })
}

fn path(member: &'static str, text: String) -> Result<Text, PluginError> {
    let fits = text.starts_with('/')
        && text.len() <= LONGEST_PATH
        && !text.contains('#')
        && PathAndQuery::try_from(text.as_str()).is_ok();
    if fits {
        Ok(text.into())
    } else {
        Err(PluginError::Member { member, rule: "a path such as /v1/models" })
    }
}

fn title(member: &'static str, text: &str) -> Result<Text, PluginError> {
    let trimmed = text.trim();
    let fits = (1..=LONGEST_NAME).contains(&trimmed.chars().count()) && !trimmed.contains(char::is_control);
    if fits {
        Ok(trimmed.to_owned().into())
    } else {
        Err(PluginError::Member { member, rule: "a text of 1 to 64 characters" })
    }
}

fn statuses(loading: Option<Vec<u16>>) -> Result<Cow<'static, [u16]>, PluginError> {
    let Some(loading) = loading else { return Ok(Cow::Borrowed(LOADING)) };
    let fits = loading.len() <= MOST_STATUSES && loading.iter().all(|status| (400..600).contains(status));
    if fits {
        Ok(loading.into())
    } else {
        Err(PluginError::Member { member: "loading", rule: "a short list of statuses from 400 to 599" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(description: serde_json::Value) -> Result<Profile, PluginError> {
        Profile::of_plugin(description.to_string().as_bytes())
    }

    #[test]
    fn a_plugin_that_says_nothing_but_the_protocol_speaks_openais_api() {
        assert_eq!(read(json!({ "protocol": 1 })), Ok(PROFILE.clone()));
    }

    #[test]
    fn what_a_plugin_says_is_taken() {
        let profile = read(json!({
            "protocol": 1, "name": " My GPU ", "version": "1.2", "api": ["openai", "ollama"], "health": "/healthz",
            "loading": [502, 503], "models": "/models?all=1", "running": "/loaded", "metrics": "/m",
            "load": { "path": "/up" }, "unload": { "path": "/down", "body": "{\"name\":{model}}" }, "later": true,
        }));
        let profile = profile.unwrap();
        assert_eq!((profile.name.as_ref(), profile.product.as_ref()), ("plugin", "My GPU"));
        assert_eq!(profile.speaks, Speaks::BOTH);
        let health = profile.health.unwrap();
        assert_eq!((health.path.as_ref(), health.loading.as_ref()), ("/healthz", &[502, 503][..]));
        let list = &profile.lists.all()[0];
        assert_eq!((list.path.as_ref(), list.entries.as_ref()), ("/models?all=1", "models"));
        assert_eq!(profile.running.unwrap().path, "/loaded");
        assert_eq!(profile.load.unwrap().body_for("m", &json!(null)), r#"{"model":"m"}"#);
        assert_eq!(profile.unload.unwrap().body_for("m", &json!(null)), r#"{"name":"m"}"#);
        assert_eq!(profile.version.unwrap().path, "/_plugin");
        assert_eq!((profile.names, profile.side), (Names::OLLAMA, Side::Local));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_member_and_not_repeated() {
        for (member, bad) in [
            ("api", json!([])),
            ("api", json!(["grpc"])),
            ("health", json!("healthz")),
            ("health", json!("/a\r\nHost: x")),
            ("models", json!(format!("/{}", "x".repeat(300)))),
            ("metrics", json!("/a b")),
            ("name", json!("")),
            ("name", json!("a\nb")),
            ("version", json!("v".repeat(65))),
            ("loading", json!([200])),
            ("load", json!({ "path": "/load", "body": "{}" })),
        ] {
            let mut description = json!({ "protocol": 1 });
            description[member] = bad;
            let error = read(description).unwrap_err();
            assert!(
                matches!(error, PluginError::Member { member: told, .. } if told == member),
                "{member}: {error}"
            );
        }
    }

    #[test]
    fn other_protocols_and_other_answers_are_no_descriptions() {
        assert_eq!(read(json!({ "protocol": 2 })), Err(PluginError::Protocol(2)));
        for other in [
            json!({}),
            json!([1]),
            json!("x"),
            json!({ "protocol": "1" }),
            json!({ "protocol": 1, "api": "openai" }),
        ] {
            assert!(matches!(read(other.clone()), Err(PluginError::NotADescription { .. })), "{other}");
        }
        let endless = vec![b' '; Profile::LARGEST_DESCRIPTION + 1];
        assert_eq!(Profile::of_plugin(&endless), Err(PluginError::TooLarge));
        assert!(Profile::of_plugin(b"<html>").is_err());
    }
}
