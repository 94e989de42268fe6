//! What a scripted backend does with one request.

use std::time::Duration;

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::monotonic_ns;

/// The request header that carries a [`Script`] as JSON. It is end-to-end, so relay and daemon pass it on.
pub(crate) const HEADER: &str = "fake-script";

// What a real server takes unless the caller limits it; short, since most tests only look at the shape.
const DEFAULT_TOKENS: u32 = 8;

/// What the backend does with one request. The default answers at once with eight tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Script {
    /// Under which name [`super::FakeBackend::request`] finds it.
    pub id: Option<String>,
    /// Makes the tokens of one answer differ from those of another.
    pub seed: u64,
    /// How many tokens are generated. Default: what the request says (`num_predict`, `max_tokens`), else 8.
    pub tokens: Option<u32>,
    /// Default: as fast as they can be written.
    pub tokens_per_s: Option<f64>,
    /// Wait before the response's head.
    pub first_byte_ms: u64,
    /// Each token carries the time of its sending in `sent_ns` ([`crate::monotonic_ns`]).
    pub stamp: bool,
    /// Never answers.
    pub hang: bool,
    /// Answers with what came: method, target, headers and the body's length.
    pub echo: bool,
    /// Answers with this status and an error in the dialect.
    pub status: Option<u16>,
    /// Answers with as many bytes of [`crate::Pattern`] instead of tokens.
    pub bytes: Option<u64>,
    /// Limits the bytes; default: as fast as they can be written.
    pub bytes_per_s: Option<u64>,
    /// Takes an upload without keeping it, and answers with how much came and whether it was right.
    pub sink: Option<Sink>,
    /// Breaks off with an RST after as many tokens (or chunks of bytes).
    pub break_after: Option<u64>,
    /// Falls silent after as many tokens (or chunks of bytes).
    pub hang_after: Option<u64>,
}

/// An upload: `prefix_bytes` of anything, then `pattern_bytes` of [`crate::Pattern`] with the script's seed, then anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    /// Bytes before the pattern.
    pub prefix_bytes: u64,
    /// Bytes of the pattern.
    pub pattern_bytes: u64,
}

/// Whose words an answer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/api/chat`
    OllamaChat,
    /// `/api/generate`
    OllamaGenerate,
    /// `/v1/chat/completions`
    OpenAiChat,
    /// `/v1/completions`
    OpenAiCompletions,
}

impl Api {
    /// The path that it is at.
    pub fn path(self) -> &'static str {
        match self {
            Self::OllamaChat => "/api/chat",
            Self::OllamaGenerate => "/api/generate",
            Self::OpenAiChat => "/v1/chat/completions",
            Self::OpenAiCompletions => "/v1/completions",
        }
    }

    /// A request for a stream from this model.
    pub fn request(self, model: &str) -> Value {
        match self {
            Self::OllamaChat | Self::OpenAiChat => {
                json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "Say hi"}]})
            }
            Self::OllamaGenerate | Self::OpenAiCompletions => {
                json!({"model": model, "stream": true, "prompt": "Say hi"})
            }
        }
    }

    /// Tells whether the answer is a stream of server-sent events rather than lines of JSON.
    pub fn is_sse(self) -> bool {
        matches!(self, Self::OpenAiChat | Self::OpenAiCompletions)
    }
}

impl Script {
    /// An answer of as many tokens at this rate.
    pub fn tokens(tokens: u32, tokens_per_s: f64) -> Self {
        Self { tokens: Some(tokens), tokens_per_s: Some(tokens_per_s), ..Self::default() }
    }

    /// An answer of as many bytes.
    pub fn bytes(bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..Self::default() }
    }

    /// Names it.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Seeds what it answers.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The value of the header that carries it.
    pub fn header(&self) -> String {
        serde_json::to_string(self).expect("a script is plain data")
    }

    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        serde_json::from_slice(headers.get(HEADER)?.as_bytes()).ok()
    }

    /// How many tokens the answer to this request body has.
    pub(super) fn n_tokens(&self, request: &Value) -> u32 {
        let asked = || {
            let value = request.pointer("/options/num_predict").or_else(|| request.get("max_tokens"))?;
            u32::try_from(value.as_u64()?).ok()
        };
        self.tokens.or_else(asked).unwrap_or(DEFAULT_TOKENS)
    }

    /// When the chunk `index` is due, counted from the first.
    pub(super) fn due(&self, index: u64, chunk_bytes: u64) -> Duration {
        match (self.tokens_per_s, self.bytes_per_s) {
            (Some(rate), _) => Duration::from_secs_f64(index as f64 / rate),
            (None, Some(rate)) => Duration::from_secs_f64((index * chunk_bytes) as f64 / rate as f64),
            (None, None) => Duration::ZERO,
        }
    }

    /// The text of one token.
    pub fn word(&self, index: u64) -> String {
        format!(" w{:x}-{index}", self.seed)
    }

    /// All tokens in a row.
    pub fn text(&self, tokens: u32) -> String {
        (0..u64::from(tokens)).map(|index| self.word(index)).collect()
    }

    /// The chunk of the stream that carries token `index`.
    pub fn chunk(&self, api: Api, model: &str, index: u64) -> String {
        let word = self.word(index);
        let mut value = match api {
            Api::OllamaChat => json!({"model": model, "created_at": created_at(index),
                "message": {"role": "assistant", "content": word}, "done": false}),
            Api::OllamaGenerate => {
                json!({"model": model, "created_at": created_at(index), "response": word, "done": false})
            }
            Api::OpenAiChat => {
                json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_760_000_000,
                "model": model, "system_fingerprint": "fp_ollama",
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": null}]})
            }
            Api::OpenAiCompletions => {
                json!({"id": "cmpl-1", "object": "text_completion", "created": 1_760_000_000,
                "model": model, "choices": [{"index": 0, "text": word, "finish_reason": null}]})
            }
        };
        if self.stamp
            && let Some(object) = value.as_object_mut()
        {
            object.insert("sent_ns".to_owned(), monotonic_ns().into());
        }
        if api.is_sse() { format!("data: {value}\n\n") } else { format!("{value}\n") }
    }

    /// The chunk that ends a stream in peace.
    pub fn last_chunk(&self, api: Api, model: &str, tokens: u32) -> String {
        let done = json!({"model": model, "created_at": created_at(tokens.into()), "done": true, "done_reason": "stop",
            "total_duration": 306_680_521, "load_duration": 37_827_290, "prompt_eval_count": 11,
            "prompt_eval_duration": 141_142_518, "eval_count": tokens, "eval_duration": 127_111_414});
        let with = |key: &str, value: Value| {
            let mut done = done.clone();
            if let Some(object) = done.as_object_mut() {
                object.insert(key.to_owned(), value);
            }
            format!("{done}\n")
        };
        match api {
            Api::OllamaChat => with("message", json!({"role": "assistant", "content": ""})),
            Api::OllamaGenerate => with("response", "".into()),
            Api::OpenAiChat => format!(
                "data: {}\n\ndata: [DONE]\n\n",
                json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_760_000_000, "model": model,
                    "system_fingerprint": "fp_ollama",
                    "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]})
            ),
            Api::OpenAiCompletions => format!(
                "data: {}\n\ndata: [DONE]\n\n",
                json!({"id": "cmpl-1", "object": "text_completion", "created": 1_760_000_000, "model": model,
                    "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
            ),
        }
    }

    /// The whole body of the stream, as the backend writes it. Only without stamps is it the same each time.
    pub fn whole_stream(&self, api: Api, model: &str, tokens: u32) -> String {
        let mut body: String = (0..u64::from(tokens)).map(|index| self.chunk(api, model, index)).collect();
        body.push_str(&self.last_chunk(api, model, tokens));
        body
    }
}

/// A time that depends on the token alone, so that a stream can be compared byte by byte.
fn created_at(index: u64) -> String {
    format!("2026-01-01T00:00:00.{:06}Z", index % 1_000_000)
}
