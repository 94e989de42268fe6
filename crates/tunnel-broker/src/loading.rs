//! The answer of a server that is there and still loads its model.

use http::response::Parts;
use http::{StatusCode, header};
use serde::Deserialize;

use crate::profile::Profile;

/// Longest body that is read in order to find out: llama.cpp's has 80 bytes.
const LONGEST: u64 = 4 << 10;

/// Tells whether an answer may say so, and its body is worth a look. `length`: the body's, where it is known.
pub(crate) fn may_say_loading(profile: &Profile, head: &Parts, length: Option<u64>) -> bool {
    let json = || {
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        content_type.is_some_and(|text| text.starts_with("application/json"))
    };
    profile.health.as_ref().is_some_and(|health| health.loading.contains(&head.status.as_u16()))
        && length.is_some_and(|length| length <= LONGEST)
        && json()
}

/// Tells whether the answer to a probe says so.
pub(crate) fn probe_says_loading(profile: &Profile, status: StatusCode, body: &[u8]) -> bool {
    profile.health.as_ref().is_some_and(|health| {
        health.loading.contains(&status.as_u16()) && (!health.in_words || says_loading(body))
    })
}

/// Reads llama.cpp's words: `{"error":{"message":"Loading model","type":"unavailable_error","code":503}}`.
pub(crate) fn says_loading(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        message: String,
        #[serde(rename = "type")]
        kind: String,
    }
    serde_json::from_slice::<Answer>(body).is_ok_and(|Answer { error }| {
        error.kind == "unavailable_error" && error.message.eq_ignore_ascii_case("loading model")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendKind;

    #[test]
    fn only_llama_cpps_words_say_it() {
        assert!(says_loading(
            br#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#
        ));
        for other in [
            r#"{"error":{"message":"no slot is free","type":"unavailable_error","code":503}}"#,
            r#"{"error":{"message":"Loading model","type":"server_error"}}"#,
            r#"{"error":"Loading model"}"#,
            "Loading model",
            "",
        ] {
            assert!(!says_loading(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_503_of_a_proxy_before_a_dead_server_says_nothing_of_loading() {
        let words = br#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
        for kind in [BackendKind::OpenAi, BackendKind::LlamaCpp] {
            let says = |status, body: &[u8]| {
                probe_says_loading(kind.profile(), StatusCode::from_u16(status).unwrap(), body)
            };
            assert!(says(503, words), "{kind:?}");
            assert!(!says(503, b"<html><h1>503 Service Temporarily Unavailable</h1></html>"), "{kind:?}");
            assert!(!says(500, words), "{kind:?}");
        }
        // What a plugin describes is meant.
        let mut plugin = Profile::clone(BackendKind::LlamaCpp.profile());
        plugin.health.as_mut().unwrap().in_words = false;
        assert!(probe_says_loading(&plugin, StatusCode::SERVICE_UNAVAILABLE, b""));
    }

    #[test]
    fn only_a_short_json_503_is_looked_at() {
        let head = |status: u16, content_type: &str| {
            let response = http::Response::builder().status(status).header("content-type", content_type);
            response.body(()).unwrap().into_parts().0
        };
        let json = "application/json; charset=utf-8";
        let may = |kind: BackendKind, head: Parts, length| may_say_loading(kind.profile(), &head, length);
        assert!(may(BackendKind::OpenAi, head(503, json), Some(80)));
        assert!(!may(BackendKind::Ollama, head(503, json), Some(80)));
        assert!(!may(BackendKind::OpenAi, head(500, json), Some(80)));
        assert!(!may(BackendKind::OpenAi, head(503, "text/html"), Some(80)));
        assert!(!may(BackendKind::OpenAi, head(503, json), Some(LONGEST + 1)));
        assert!(!may(BackendKind::OpenAi, head(503, json), None), "it may have no end");
    }
}
