//! What is said in a response that has begun and will not be complete.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::BrokenOff;
use crate::error::openai_error;

/// How a caller can be told, in a body that has begun, that it will not be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastWords {
    /// Server-sent events.
    Sse,
    /// One JSON object a line.
    Ndjson,
    /// Nothing would be understood: the cut must do.
    None,
}

/// How far a body has come that can be told its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Where an event or a line may begin.
    Start,
    /// After one line of an event.
    LineEnd,
    Inside,
}

impl LastWords {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        // Text in a compressed body is noise, and a length that was promised leaves no room.
        if headers.contains_key(CONTENT_ENCODING) || headers.contains_key(CONTENT_LENGTH) {
            return Self::None;
        }
        let content_type =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("text/event-stream") {
            Self::Sse
        } else if ["application/x-ndjson", "application/ndjson", "application/jsonl"]
            .iter()
            .any(|lines| essence.eq_ignore_ascii_case(lines))
        {
            Self::Ndjson
        } else {
            Self::None
        }
    }

    /// Returns how far a body has come that was at `at` before `data`.
    pub(super) fn after(self, at: At, data: &[u8]) -> At {
        match (self, data) {
            (_, []) => at,
            (Self::Ndjson, [.., b'\n']) => At::Start,
            (Self::Sse, [.., b'\n', b'\n'] | [.., b'\n', b'\r', b'\n']) => At::Start,
            // The blank line, or its end, comes by itself.
            (Self::Sse, [b'\n'] | [b'\r', b'\n']) if at != At::Inside => At::Start,
            (Self::Sse, [.., b'\n']) => At::LineEnd,
            _ => At::Inside,
        }
    }

    pub(super) fn about(self, broken: BrokenOff, device: &str, at: At) -> Option<Bytes> {
        let (code, sentence) = match broken {
            BrokenOff::Reset => (
                "backend_unreachable",
                format!("The model server on the device {device} broke off in the middle of the response."),
            ),
            BrokenOff::TunnelLost => (
                "tunnel_lost",
                format!("The connection to the device {device} was lost in the middle of the response."),
            ),
            BrokenOff::Revoked => (
                "token_invalid",
                "The token of this request was revoked in the middle of the response.".to_owned(),
            ),
            BrokenOff::Idle(limit) => (
                "idle_timeout",
                format!(
                    "The device {device} sent nothing for {} s in the middle of the response.",
                    limit.as_secs()
                ),
            ),
        };
        // What was cut in the middle of a line or an event must not swallow the error.
        let text = match self {
            Self::Sse => {
                let error = openai_error(StatusCode::BAD_GATEWAY, code, &sentence);
                let cut = match at {
                    At::Start => "",
                    At::LineEnd => "\n",
                    At::Inside => "\n\n",
                };
                format!("{cut}data: {error}\n\n")
            }
            Self::Ndjson => {
                let cut = if at == At::Start { "" } else { "\n" };
                format!("{cut}{}\n", json!({ "error": sentence }))
            }
            Self::None => return None,
        };
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(headers: &[(&str, &str)], chunks: &[&str]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let words = LastWords::of(&map);
        let at = chunks.iter().fold(At::Start, |at, chunk| words.after(at, chunk.as_bytes()));
        let words = words.about(BrokenOff::TunnelLost, "desk", at)?;
        Some(String::from_utf8(words.to_vec()).unwrap())
    }

    #[test]
    fn a_stream_is_told_in_its_own_language_that_it_broke_off() {
        let sse = words(&[("content-type", "text/event-stream; charset=utf-8")], &[]).unwrap();
        let event: serde_json::Value = serde_json::from_str(sse.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["error"]["code"], "tunnel_lost");
        assert!(sse.ends_with("}\n\n") && !sse.contains("[DONE]"));

        let ndjson = words(&[("content-type", "application/x-ndjson")], &[]).unwrap();
        let line: serde_json::Value = serde_json::from_str(&ndjson).unwrap();
        assert!(line["error"].as_str().unwrap().contains("desk"));
        assert!(ndjson.ends_with("}\n"));
    }

    #[test]
    fn an_error_after_half_a_line_or_event_starts_a_new_one() {
        let sse = |chunks| words(&[("content-type", "text/event-stream")], chunks).unwrap();
        let cases: [(&[&str], &str); 6] = [
            (&["data: 1\n\n"], "data: {"),
            (&["data: 1\r\n\r\n"], "data: {"),
            (&["data: 1\n", "\n"], "data: {"),
            (&["data: 1\n"], "\ndata: {"),
            (&["data: {\"a", "\n"], "\ndata: {"),
            (&["data: {\"a"], "\n\ndata: {"),
        ];
        for (chunks, start) in cases {
            assert!(sse(chunks).starts_with(start), "{chunks:?}");
        }
        for lines in ["application/x-ndjson", "application/ndjson", "application/jsonl"] {
            assert!(words(&[("content-type", lines)], &["{\"a"]).unwrap().starts_with("\n{"));
            assert!(words(&[("content-type", lines)], &["{}\n"]).unwrap().starts_with('{'));
        }
    }

    #[test]
    fn where_words_would_be_noise_there_are_none() {
        assert_eq!(words(&[("content-type", "application/json")], &[]), None);
        assert_eq!(words(&[], &[]), None);
        assert_eq!(words(&[("content-type", "text/event-stream"), ("content-encoding", "gzip")], &[]), None);
        assert_eq!(words(&[("content-type", "application/x-ndjson"), ("content-length", "9")], &[]), None);
    }
}
