use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

/// The forms of a response's text that can be read while it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    /// Server-sent events.
    Events,
    /// One JSON document a line.
    Lines,
    /// One JSON document.
    Document,
}

impl Media {
    /// Returns the form that the headers declare; none when it is another, or when the bytes are not plain text.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(CONTENT_TYPE)?.as_bytes();
        let essence = content_type.split(|b| *b == b';').next().unwrap_or_default();
        let media = match essence.trim_ascii() {
            b"text/event-stream" => Self::Events,
            b"application/x-ndjson" | b"application/ndjson" | b"application/jsonl" => Self::Lines,
            b"application/json" => Self::Document,
            _ => return None,
        };
        (!headers.contains_key(CONTENT_ENCODING)).then_some(media)
    }
}
