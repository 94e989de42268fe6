//! How a model server is asked to take a model into memory, and to let it go. Pure.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::Listed;
use crate::config::BackendKind;
use crate::memory::KeepAlive;

/// What is wanted of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wish<'a> {
    Load(Option<&'a KeepAlive>),
    Unload,
}

/// A request that grants a wish.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    pub(crate) path: &'static str,
    pub(crate) body: Value,
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
pub(crate) fn way(kind: BackendKind, listed: Option<&Listed>, model: &str, wish: Wish<'_>) -> Way {
    match kind {
        BackendKind::Ollama => Way::Ask(Ask {
            path: "/api/generate",
            body: without_prompt(model, wish),
            answers_when_done: true,
        }),
        BackendKind::OpenAi => {
            // llama.cpp's router says how each model stands; it is the one that can load and unload.
            let routed = listed.is_some_and(|listed| listed.entry.pointer("/status/value").is_some());
            let in_memory = listed.is_some_and(|listed| listed.loaded);
            match wish {
                Wish::Load(_) if in_memory => Way::Already,
                Wish::Load(_) if routed => Way::Ask(of_router("/models/load", model)),
                Wish::Unload if routed => Way::Ask(of_router("/models/unload", model)),
                Wish::Load(_) => {
                    Way::No("has no way to load a model: its server loads what it was started with")
                }
                Wish::Unload => Way::No(
                    "cannot unload: its server keeps the model that it was started with; stop the server to free the \
                     memory",
                ),
            }
        }
    }
}

/// Returns what to ask in place of what was answered so: Ollama loads a model that only embeds by an empty embedding.
pub(crate) fn instead(ask: &Ask, status: StatusCode, answer: &[u8]) -> Option<Ask> {
    const EMBEDS_ONLY: &[u8] = b"does not support generate";
    let refused = ask.path == "/api/generate" && status == StatusCode::BAD_REQUEST;
    (refused && memchr::memmem::find(answer, EMBEDS_ONLY).is_some()).then(|| {
        let mut body = ask.body.clone();
        body["input"] = "".into();
        Ask { path: "/api/embed", body, ..*ask }
    })
}

/// Ollama loads or unloads, and generates nothing, when there is no prompt.
fn without_prompt(model: &str, wish: Wish<'_>) -> Value {
    let mut body = json!({ "model": model, "stream": false });
    match wish {
        Wish::Load(None) => {}
        Wish::Load(Some(keep_alive)) => body["keep_alive"] = keep_alive.to_json(),
        Wish::Unload => body["keep_alive"] = 0.into(),
    }
    body
}

fn of_router(path: &'static str, model: &str) -> Ask {
    Ask { path, body: json!({ "model": model }), answers_when_done: false }
}

/// How often a server is asked whether it has done what it has begun.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(loaded: bool, entry: Value) -> Listed {
        Listed { name: "m".to_owned(), loaded, size_bytes: None, entry }
    }

    fn ask(way: Way) -> (&'static str, Value) {
        match way {
            Way::Ask(Ask { path, body, .. }) => (path, body),
            Way::Already | Way::No(_) => panic!("{way:?}"),
        }
    }

    #[test]
    fn ollama_is_asked_without_a_prompt() {
        let way = |wish| ask(way(BackendKind::Ollama, None, "m:1", wish));
        let (path, body) = way(Wish::Load(Some(&KeepAlive::Seconds(-1))));
        assert_eq!(
            (path, body),
            ("/api/generate", json!({ "model": "m:1", "stream": false, "keep_alive": -1 }))
        );
        assert_eq!(way(Wish::Load(None)).1, json!({ "model": "m:1", "stream": false }));
        assert_eq!(way(Wish::Unload).1["keep_alive"], 0);
    }

    #[test]
    fn a_model_that_only_embeds_is_loaded_by_an_embedding() {
        let Way::Ask(first) = way(BackendKind::Ollama, None, "e", Wish::Load(None)) else { panic!("an ask") };
        let answer = br#"{"error":"\"e\" does not support generate"}"#;
        let second = instead(&first, StatusCode::BAD_REQUEST, answer).unwrap();
        assert_eq!((second.path, &second.body["input"]), ("/api/embed", &json!("")));
        assert_eq!(instead(&second, StatusCode::BAD_REQUEST, answer), None, "once");
        assert_eq!(instead(&first, StatusCode::NOT_FOUND, answer), None);
    }

    #[test]
    fn servers_with_one_model_say_that_they_keep_it() {
        let only = listed(true, json!({ "id": "m" }));
        let kind = BackendKind::OpenAi;
        assert_eq!(way(kind, Some(&only), "m", Wish::Load(None)), Way::Already);
        assert!(matches!(way(kind, Some(&only), "m", Wish::Unload), Way::No(_)));
        assert!(matches!(way(kind, None, "m", Wish::Load(None)), Way::No(_)));
        let routed = |loaded, state| listed(loaded, json!({ "id": "m", "status": { "value": state } }));
        let (path, body) = ask(way(kind, Some(&routed(false, "unloaded")), "m", Wish::Load(None)));
        assert_eq!((path, body), ("/models/load", json!({ "model": "m" })));
        assert_eq!(ask(way(kind, Some(&routed(true, "loaded")), "m", Wish::Unload)).0, "/models/unload");
    }
}
