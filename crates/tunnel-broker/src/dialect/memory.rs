//! How a model server is asked to take a model into memory, and to let it go. Pure.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;

use super::Listed;
use crate::memory::KeepAlive;
use crate::profile::{ModelCall, Profile, Text};

/// What is wanted of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wish<'a> {
    Load(Option<&'a KeepAlive>),
    Unload,
}

/// A request that grants a wish.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: Text,
    /// JSON.
    pub(crate) body: String,
    /// Whether a good answer comes when it is done. If not, it has only begun, and the server's list tells the end.
    pub(crate) answers_when_done: bool,
}

/// What has to be done for a wish.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Way {
    Ask(Ask),
    /// It is so already, and cannot be otherwise.
    Already,
    /// Why it cannot be granted: completes "connection 'x' …".
    No(&'static str),
}

/// Says how a wish about a model is granted. `listed`: what the server said of the model; none when it was configured
/// only.
pub(crate) fn way(profile: &Profile, listed: Option<&Listed>, model: &str, wish: Wish<'_>) -> Way {
    let (call, keep_alive) = match wish {
        Wish::Load(keep_alive) => (&profile.load, keep_alive.map_or(Value::Null, KeepAlive::to_json)),
        Wish::Unload => (&profile.unload, Value::Null),
    };
    let possible = |call: &&ModelCall| {
        let has = |pointer: &Text| listed.is_some_and(|listed| listed.entry.pointer(pointer).is_some());
        call.needs.as_ref().is_none_or(has)
    };
    let call = call.as_ref().filter(possible);
    let in_memory = listed.is_some_and(|listed| listed.loaded);
    // One that takes a time to stay is told again: the time begins anew.
    let renews = call.is_some_and(|call| call.body.contains("{keep_alive}"));
    match (call, wish) {
        (_, Wish::Load(_)) if in_memory && !renews => Way::Already,
        (Some(call), _) => Way::Ask(Ask {
            method: call.method.clone(),
            path: call.path.clone(),
            body: call.body_for(model, &keep_alive),
            answers_when_done: call.answers_when_done,
        }),
        (None, Wish::Load(_)) => {
            Way::No("has no way to load a model: its server loads what it was started with")
        }
        (None, Wish::Unload) => Way::No(
            "cannot unload: its server keeps the model that it was started with; stop the server to free the memory",
        ),
    }
}

/// Returns what to ask in place of what was answered so: Ollama loads a model that only embeds by an empty embedding.
pub(crate) fn instead(ask: &Ask, status: StatusCode, answer: &[u8]) -> Option<Ask> {
    const EMBEDS_ONLY: &[u8] = b"does not support generate";
    let refused = ask.path == "/api/generate" && status == StatusCode::BAD_REQUEST;
    if !refused || memchr::memmem::find(answer, EMBEDS_ONLY).is_none() {
        return None;
    }
    let mut body: Value = serde_json::from_str(&ask.body).ok()?;
    body["input"] = "".into();
    Some(Ask { path: Text::Borrowed("/api/embed"), body: body.to_string(), ..ask.clone() })
}

/// Tells whether a load has come to nothing, by what the server says of the model: llama.cpp's router lists one that
/// could not be loaded like one that nobody has asked for, with a note; one that was unloaded meanwhile without.
/// `begun`: it was seen to be loading.
pub(crate) fn has_failed(listed: &Listed, begun: bool) -> bool {
    let noted = || listed.entry.pointer("/status/failed").and_then(Value::as_bool) == Some(true);
    let is_out = || listed.entry.pointer("/status/value").and_then(Value::as_str) == Some("unloaded");
    !listed.loaded && (noted() || (begun && is_out()))
}

/// Tells whether a router says of a model that it is being loaded.
pub(crate) fn is_loading(listed: &Listed) -> bool {
    listed.entry.pointer("/status/value").and_then(Value::as_str) == Some("loading")
}

/// How often a server is asked whether it has done what it has begun.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::BackendKind;
    use crate::profile::Api;

    fn listed(loaded: bool, entry: Value) -> Listed {
        Listed { name: "m".to_owned(), loaded, size_bytes: None, api: Api::OpenAi, entry }
    }

    fn ask(way: Way) -> (String, Value) {
        match way {
            Way::Ask(Ask { path, body, .. }) => (path.into_owned(), serde_json::from_str(&body).unwrap()),
            Way::Already | Way::No(_) => panic!("{way:?}"),
        }
    }

    #[test]
    fn ollama_is_asked_without_a_prompt() {
        let loaded = listed(true, json!({}));
        let way = |wish| ask(way(BackendKind::Ollama.profile(), Some(&loaded), "m:1", wish));
        let (path, body) = way(Wish::Load(Some(&KeepAlive::Seconds(-1))));
        assert_eq!(
            (path.as_str(), body),
            ("/api/generate", json!({ "model": "m:1", "stream": false, "keep_alive": -1 }))
        );
        assert_eq!(way(Wish::Load(None)).1["keep_alive"], Value::Null);
        assert_eq!(way(Wish::Unload).1["keep_alive"], 0);
    }

    #[test]
    fn a_model_that_only_embeds_is_loaded_by_an_embedding() {
        let Way::Ask(first) = way(BackendKind::Ollama.profile(), None, "e", Wish::Load(None)) else {
            panic!("an ask")
        };
        let answer = br#"{"error":"\"e\" does not support generate"}"#;
        let second = instead(&first, StatusCode::BAD_REQUEST, answer).unwrap();
        let body: Value = serde_json::from_str(&second.body).unwrap();
        assert_eq!((&*second.path, &body["input"]), ("/api/embed", &json!("")));
        assert_eq!(instead(&second, StatusCode::BAD_REQUEST, answer), None, "once");
        assert_eq!(instead(&first, StatusCode::NOT_FOUND, answer), None);
    }

    #[test]
    fn a_router_notes_a_load_that_failed() {
        let router = include_bytes!("../../tests/recorded/llamacpp-router-models.json");
        let router: Value = serde_json::from_slice(router).unwrap();
        let model = |at: usize| listed(at == 0, router["data"][at].clone());
        assert_eq!([0, 1, 2, 3].map(|at| has_failed(&model(at), false)), [false, false, false, true]);
        assert_eq!([0, 1, 2, 3].map(|at| has_failed(&model(at), true)), [false, true, false, true]);
        assert_eq!([0, 1, 2, 3].map(|at| is_loading(&model(at))), [false, false, true, false]);
    }

    #[test]
    fn servers_with_one_model_say_that_they_keep_it() {
        let only = listed(true, json!({ "id": "m" }));
        for kind in [BackendKind::OpenAi, BackendKind::LlamaCpp] {
            let profile = kind.profile();
            assert_eq!(way(profile, Some(&only), "m", Wish::Load(None)), Way::Already);
            assert!(matches!(way(profile, Some(&only), "m", Wish::Unload), Way::No(_)));
            assert!(matches!(way(profile, None, "m", Wish::Load(None)), Way::No(_)));
            let routed = |loaded, state| listed(loaded, json!({ "id": "m", "status": { "value": state } }));
            let (path, body) = ask(way(profile, Some(&routed(false, "unloaded")), "m", Wish::Load(None)));
            assert_eq!((path.as_str(), body), ("/models/load", json!({ "model": "m" })));
            assert_eq!(
                ask(way(profile, Some(&routed(true, "loaded")), "m", Wish::Unload)).0,
                "/models/unload"
            );
        }
    }

    #[test]
    fn what_nobody_can_load_is_refused() {
        for kind in [BackendKind::Cloud, BackendKind::Vllm] {
            assert!(matches!(way(kind.profile(), None, "m", Wish::Load(None)), Way::No(_)), "{kind:?}");
        }
    }
}
