//! How a response that has begun tells of its failure. Pure.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};

use crate::body::BodyError;
use crate::dialect::{ollama, openai};
use crate::media::Media;

/// The form of a stream's error, and how far the stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InBand {
    form: Form,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Server-sent events.
    Events,
    /// One JSON document a line.
    Lines,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Where an event or a line may begin.
    Start,
    /// After one line of an event.
    LineEnd,
    Inside,
}

impl InBand {
    /// Returns the form for a response; none when its length is fixed, or when it is not a stream.
    pub(crate) fn of(media: Media, headers: &HeaderMap) -> Option<Self> {
        let form = match media {
            Media::Events => Form::Events,
            Media::Lines => Form::Lines,
            Media::Document => return None,
        };
        (!headers.contains_key(CONTENT_LENGTH)).then_some(Self { form, at: At::Start })
    }

    /// Notes what has been passed on.
    pub(crate) fn sent(&mut self, data: &[u8]) {
        self.at = match (self.form, data) {
            (_, []) => return,
            (Form::Lines, [.., b'\n']) => At::Start,
            (Form::Events, [.., b'\n', b'\n'] | [.., b'\n', b'\r', b'\n']) => At::Start,
            (Form::Events, [b'\n'] | [b'\r', b'\n']) if self.at != At::Inside => At::Start,
            (Form::Events, [.., b'\n']) => At::LineEnd,
            _ => At::Inside,
        };
    }

    /// Returns the error as the stream's next event or line, with what ends the one that was cut.
    pub(crate) fn words(self, error: BodyError) -> Bytes {
        let (cut, head, body, tail): (&[u8], &[u8], _, &[u8]) = match (self.form, self.at) {
            (Form::Lines, At::Start) => (b"", b"", ollama::error(&error.to_string()), b"\n"),
            (Form::Lines, _) => (b"\n", b"", ollama::error(&error.to_string()), b"\n"),
            (Form::Events, at) => {
                let cut: &[u8] = match at {
                    At::Start => b"",
                    At::LineEnd => b"\n",
                    At::Inside => b"\n\n",
                };
                let status = StatusCode::BAD_GATEWAY;
                let mut object = openai::error(status, &error.to_string(), Some(error.code()));
                object.truncate(object.trim_ascii_end().len());
                (cut, b"data: ", object, b"\n\n")
            }
        };
        Bytes::from([cut, head, &body, tail].concat())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};

    use super::*;

    fn in_band(pairs: &[(HeaderName, &'static str)]) -> Option<InBand> {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let headers: HeaderMap = headers.collect();
        InBand::of(Media::of(&headers)?, &headers)
    }

    fn after(content_type: &'static str, chunks: &[&str]) -> String {
        let mut in_band = in_band(&[(CONTENT_TYPE, content_type)]).unwrap();
        for chunk in chunks {
            in_band.sent(chunk.as_bytes());
        }
        String::from_utf8(in_band.words(BodyError::BackendLost).to_vec()).unwrap()
    }

    const EVENT: &str = "data: {\"error\":{\"message\":\"the model server broke off its response\",\
                         \"type\":\"api_error\",\"param\":null,\"code\":\"backend_lost\"}}\n\n";
    const LINE: &str = "{\"error\":\"the model server broke off its response\"}\n";

    #[test]
    fn an_event_stream_gets_an_event() {
        let sse = "text/event-stream; charset=utf-8";
        assert_eq!(after(sse, &[]), EVENT);
        assert_eq!(after(sse, &["data: 1\n\n"]), EVENT);
        assert_eq!(after(sse, &["data: 1\r\n\r\n"]), EVENT);
        assert_eq!(after(sse, &["data: 1\n", "\n"]), EVENT);
        assert_eq!(after(sse, &["data: 1\n"]), format!("\n{EVENT}"));
        assert_eq!(after(sse, &["data: {\"a"]), format!("\n\n{EVENT}"));
        assert_eq!(after(sse, &["data: {\"a", "\n"]), format!("\n{EVENT}"));
    }

    #[test]
    fn json_lines_get_a_line() {
        let ndjson = "application/x-ndjson";
        assert_eq!(after(ndjson, &["{}\n"]), LINE);
        assert_eq!(after(ndjson, &["{\"a"]), format!("\n{LINE}"));
    }

    #[test]
    fn nothing_is_added_where_it_would_not_be_read() {
        assert_eq!(in_band(&[(CONTENT_TYPE, "application/json")]), None);
        assert_eq!(in_band(&[(CONTENT_TYPE, "text/event-stream"), (CONTENT_LENGTH, "9")]), None);
        assert_eq!(in_band(&[(CONTENT_TYPE, "text/event-stream"), (CONTENT_ENCODING, "gzip")]), None);
        assert_eq!(in_band(&[]), None);
    }
}
