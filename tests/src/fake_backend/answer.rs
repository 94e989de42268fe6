//! What the scripted backend answers, in the shapes that a real Ollama 0.12 and OpenAI's API use.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Exchange, Flavor, Shared,
    script::{Api, Script, Sink},
};
use crate::content::{Pattern, PatternCheck};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

// What one read of a fast server gives: enough that a download is not a test of small writes.
const BULK_CHUNK_BYTES: usize = 64 * 1024;
const EMBEDDING: [f64; 4] = [-0.012_178, 0.25, 0.5, -0.125];

pub(super) async fn answer(
    shared: &Shared,
    exchange: Arc<Exchange>,
    request: Request<Incoming>,
) -> Response<Body> {
    // From here on a connection that goes away drops this future, then the body: either notes the end.
    let mut noted = Guarded { body: empty(), exchange, answered: false };
    let exchange = &noted.exchange;
    let script = exchange.script.clone();
    let response = match script.sink {
        Some(sink) => upload(exchange, request.into_body(), sink).await,
        None => match read(exchange, request.into_body()).await {
            Ok(body) => reply(shared, exchange, &script, &body).await,
            Err(error) => plain(StatusCode::BAD_REQUEST, &format!("reading the body: {error}")),
        },
    };
    response.map(|body| {
        noted.body = body;
        noted.answered = true;
        noted.boxed_unsync()
    })
}

/// A response body that notes when its exchange ended, and whether it was complete by then.
struct Guarded {
    body: Body,
    exchange: Arc<Exchange>,
    answered: bool,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.exchange.end(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.exchange.end(self.answered && self.body.is_end_stream());
    }
}

async fn reply(shared: &Shared, exchange: &Arc<Exchange>, script: &Script, body: &Bytes) -> Response<Body> {
    if shared.loading.load(Ordering::Relaxed) {
        return json_body(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}),
        );
    }
    if script.hang {
        std::future::pending::<()>().await;
    }
    if script.first_byte_ms > 0 {
        tokio::time::sleep(Duration::from_millis(script.first_byte_ms)).await;
    }
    if script.echo {
        return echo(exchange, body);
    }
    let path = exchange.target.path();
    if let Some(status) = script.status.and_then(|status| StatusCode::from_u16(status).ok()) {
        return error(path, status, "scripted failure");
    }
    if let Some(bytes) = script.bytes {
        return download(exchange, script, bytes);
    }
    route(shared, exchange, script, body)
}

fn route(shared: &Shared, exchange: &Arc<Exchange>, script: &Script, body: &Bytes) -> Response<Body> {
    let path = exchange.target.path();
    if path.starts_with("/api/") && shared.options.flavor == Flavor::OpenAi {
        return plain(StatusCode::NOT_FOUND, "404 page not found");
    }
    match (exchange.method.clone(), path) {
        (Method::GET | Method::HEAD, "/") => plain(StatusCode::OK, "Ollama is running"),
        (Method::GET | Method::HEAD, "/api/version") => {
            json_body(StatusCode::OK, &json!({"version": "0.12.0"}))
        }
        (Method::GET | Method::HEAD, "/api/tags") => {
            let models: Vec<Value> = shared.options.models.iter().map(|name| tag(name)).collect();
            json_body(StatusCode::OK, &json!({"models": models}))
        }
        (Method::GET, "/api/ps") => {
            let models: Vec<Value> = shared.options.models.iter().map(|name| loaded(name)).collect();
            json_body(StatusCode::OK, &json!({"models": models}))
        }
        (Method::GET, "/v1/models") => {
            let models: Vec<Value> = shared.options.models.iter().map(|name| listed(name)).collect();
            json_body(StatusCode::OK, &json!({"object": "list", "data": models}))
        }
        (Method::GET, "/health") => json_body(StatusCode::OK, &json!({"status": "ok"})),
        (Method::GET, _) if path.starts_with("/v1/models/") => {
            let name = path.trim_start_matches("/v1/models/");
            match known(shared, name) {
                Some(name) => json_body(StatusCode::OK, &listed(&name)),
                None => unknown_model(path, name),
            }
        }
        (
            Method::POST,
            "/api/show"
            | "/api/chat"
            | "/api/generate"
            | "/api/embed"
            | "/api/embeddings"
            | "/v1/chat/completions"
            | "/v1/completions"
            | "/v1/embeddings",
        ) => with_model(shared, exchange, script, body),
        // What changes the models of a real server: answered kindly, so that a test sees if it was ever reached.
        (Method::POST, "/api/pull" | "/api/push" | "/api/create") => {
            json_lines(&[json!({"status": "success"})])
        }
        (Method::POST, "/api/copy") | (Method::DELETE, "/api/delete") => plain(StatusCode::OK, ""),
        (_, "/api/chat" | "/api/generate" | "/api/show" | "/api/tags" | "/api/embed") => {
            plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed")
        }
        (_, _) => plain(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn with_model(shared: &Shared, exchange: &Arc<Exchange>, script: &Script, body: &Bytes) -> Response<Body> {
    let path = exchange.target.path();
    if body.is_empty() {
        return error(path, StatusCode::BAD_REQUEST, "missing request body");
    }
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return error(path, StatusCode::BAD_REQUEST, "unexpected EOF");
    };
    let Some(asked) = request.get("model").and_then(Value::as_str) else {
        return error(path, StatusCode::BAD_REQUEST, "model is required");
    };
    let Some(model) = known(shared, asked) else { return unknown_model(path, asked) };
    match path {
        "/api/show" => json_body(
            StatusCode::OK,
            &json!({"modelfile": format!("FROM {model}\n"), "parameters": "", "template": "{{ .Prompt }}",
                "details": details(), "model_info": {"general.architecture": "llama", "llama.context_length": 8192},
                "capabilities": ["completion"], "modified_at": "2026-01-01T00:00:00Z"}),
        ),
        "/api/embed" => {
            let n = inputs(&request);
            let embeddings = vec![EMBEDDING; n];
            json_body(
                StatusCode::OK,
                &json!({"model": model, "embeddings": embeddings, "total_duration": 1, "load_duration": 1,
                    "prompt_eval_count": n}),
            )
        }
        "/api/embeddings" => json_body(StatusCode::OK, &json!({"embedding": EMBEDDING})),
        "/v1/embeddings" => {
            let data: Vec<Value> = (0..inputs(&request))
                .map(|index| json!({"object": "embedding", "index": index, "embedding": EMBEDDING}))
                .collect();
            json_body(
                StatusCode::OK,
                &json!({"object": "list", "data": data, "model": model,
                    "usage": {"prompt_tokens": data.len(), "total_tokens": data.len()}}),
            )
        }
        "/api/chat" => generate(exchange, script, Api::OllamaChat, &model, &request, true),
        "/api/generate" => generate(exchange, script, Api::OllamaGenerate, &model, &request, true),
        "/v1/chat/completions" => generate(exchange, script, Api::OpenAiChat, &model, &request, false),
        _ => generate(exchange, script, Api::OpenAiCompletions, &model, &request, false),
    }
}

/// How many texts an embedding request has.
fn inputs(request: &Value) -> usize {
    request.get("input").and_then(Value::as_array).map_or(1, Vec::len)
}

fn generate(
    exchange: &Arc<Exchange>,
    script: &Script,
    api: Api,
    model: &str,
    request: &Value,
    streams_by_default: bool,
) -> Response<Body> {
    let tokens = script.n_tokens(request);
    if request.get("stream").and_then(Value::as_bool).unwrap_or(streams_by_default) {
        return token_stream(exchange, script, api, model, tokens);
    }
    let text = script.text(tokens);
    let usage = json!({"prompt_tokens": 11, "completion_tokens": tokens, "total_tokens": tokens + 11});
    let value = match api {
        Api::OllamaChat => json!({"model": model, "created_at": "2026-01-01T00:00:00Z",
            "message": {"role": "assistant", "content": text}, "done": true, "done_reason": "stop",
            "total_duration": 3_087_881_183_u64, "load_duration": 35_730_708, "prompt_eval_count": 11,
            "prompt_eval_duration": 2_872_442_189_u64, "eval_count": tokens, "eval_duration": 178_955_373}),
        Api::OllamaGenerate => json!({"model": model, "created_at": "2026-01-01T00:00:00Z", "response": text,
            "done": true, "done_reason": "stop", "context": [1, 2, 3], "total_duration": 197_304_622,
            "load_duration": 28_678_517, "prompt_eval_count": 11, "prompt_eval_duration": 19_197_384,
            "eval_count": tokens, "eval_duration": 148_676_427}),
        Api::OpenAiChat => json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1_760_000_000,
            "model": model, "system_fingerprint": "fp_ollama", "usage": usage,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}),
        Api::OpenAiCompletions => {
            json!({"id": "cmpl-1", "object": "text_completion", "created": 1_760_000_000,
            "model": model, "system_fingerprint": "fp_ollama", "usage": usage,
            "choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})
        }
    };
    json_body(StatusCode::OK, &value)
}

fn token_stream(
    exchange: &Arc<Exchange>,
    script: &Script,
    api: Api,
    model: &str,
    tokens: u32,
) -> Response<Body> {
    let content_type = if api.is_sse() { "text/event-stream" } else { "application/x-ndjson" };
    let (script, model) = (script.clone(), model.to_owned());
    let chunks = Chunks { exchange: Arc::clone(exchange), script, chunk_bytes: 1, started: Instant::now() };
    let n = u64::from(tokens);
    let body = chunks.body(n + 1, move |script, index| {
        let chunk = if index == n {
            script.last_chunk(api, &model, tokens)
        } else {
            script.chunk(api, &model, index)
        };
        Bytes::from(chunk)
    });
    respond(StatusCode::OK, content_type, body)
}

fn download(exchange: &Arc<Exchange>, script: &Script, bytes: u64) -> Response<Body> {
    let pattern = Pattern::new(script.seed);
    let chunk_bytes = BULK_CHUNK_BYTES as u64;
    let chunks = Chunks {
        exchange: Arc::clone(exchange),
        script: script.clone(),
        chunk_bytes,
        started: Instant::now(),
    };
    let mut offset = 0;
    let body = chunks.body_until(move |_, _| {
        let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
        let chunk = pattern.slice(offset, BULK_CHUNK_BYTES.min(left));
        offset += chunk.len() as u64;
        (!chunk.is_empty()).then_some(chunk)
    });
    let mut response = respond(StatusCode::OK, "application/octet-stream", body);
    response.headers_mut().insert(header::CONTENT_LENGTH, bytes.into());
    response
}

/// Yields the chunks of an answer when they are due, and breaks or falls silent where the script says.
struct Chunks {
    exchange: Arc<Exchange>,
    script: Script,
    chunk_bytes: u64,
    started: Instant,
}

impl Chunks {
    fn body(self, n: u64, mut chunk: impl FnMut(&Script, u64) -> Bytes + Send + 'static) -> Body {
        self.body_until(move |script, index| (index < n).then(|| chunk(script, index)))
    }

    fn body_until(self, chunk: impl FnMut(&Script, u64) -> Option<Bytes> + Send + 'static) -> Body {
        let stream = stream::unfold((self, chunk, 0), |(chunks, mut chunk, index)| async move {
            let script = &chunks.script;
            if script.hang_after == Some(index) {
                std::future::pending::<()>().await;
            }
            let due = script.due(index, chunks.chunk_bytes);
            if !due.is_zero() {
                tokio::time::sleep_until(chunks.started + due).await;
            }
            if script.break_after == Some(index) {
                chunks.exchange.connection.reset.store(true, Ordering::Relaxed);
                return Some((Err(io::Error::other("scripted break")), (chunks, chunk, index)));
            }
            let bytes = chunk(script, index)?;
            chunks.exchange.sent_chunks.fetch_add(1, Ordering::Relaxed);
            Some((Ok(Frame::data(bytes)), (chunks, chunk, index + 1)))
        });
        StreamBody::new(stream).boxed_unsync()
    }
}

async fn read(exchange: &Arc<Exchange>, mut body: Incoming) -> Result<Bytes, hyper::Error> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            exchange.received_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.into())
}

async fn upload(exchange: &Arc<Exchange>, mut body: Incoming, sink: Sink) -> Response<Body> {
    let mut check = PatternCheck::new(exchange.script.seed);
    let mut total = 0_u64;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map(|frame| frame.into_data().unwrap_or_default()) else {
            exchange.end(false);
            return plain(StatusCode::BAD_REQUEST, "the upload broke off");
        };
        // The part of this piece that lies within the pattern.
        let start = sink.prefix_bytes.saturating_sub(total).min(data.len() as u64);
        let end = (sink.prefix_bytes + sink.pattern_bytes).saturating_sub(total).min(data.len() as u64);
        let range =
            usize::try_from(start).unwrap_or_default()..usize::try_from(end.max(start)).unwrap_or_default();
        check.feed(&data[range]);
        total += data.len() as u64;
        exchange.received_bytes.store(total, Ordering::Relaxed);
    }
    json_body(
        StatusCode::OK,
        &json!({"received": total, "pattern": check.received(), "first_wrong": check.first_wrong()}),
    )
}

fn echo(exchange: &Arc<Exchange>, body: &Bytes) -> Response<Body> {
    let headers: Vec<Value> = exchange
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let mut response = json_body(
        StatusCode::OK,
        &json!({"method": exchange.method.as_str(), "target": exchange.target.to_string(), "headers": headers,
            "body_bytes": body.len(), "body": body.iter().map(|byte| u32::from(*byte)).sum::<u32>()}),
    );
    let headers = response.headers_mut();
    headers.insert("x-end-to-end", "kept".parse().expect("a plain value"));
    headers.insert("x-hop", "dropped".parse().expect("a plain value"));
    headers.insert(header::CONNECTION, "x-hop".parse().expect("a plain value"));
    response
}

fn known(shared: &Shared, asked: &str) -> Option<String> {
    let latest = format!("{asked}:latest");
    shared.options.models.iter().find(|name| **name == asked || **name == latest).cloned()
}

fn unknown_model(path: &str, name: &str) -> Response<Body> {
    error(path, StatusCode::NOT_FOUND, &format!("model '{name}' not found"))
}

fn error(path: &str, status: StatusCode, message: &str) -> Response<Body> {
    if path.starts_with("/v1/") {
        return json_body(
            status,
            &json!({"error": {"message": message, "type": "api_error", "param": null, "code": null}}),
        );
    }
    json_body(status, &json!({"error": message}))
}

fn details() -> Value {
    json!({"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
        "parameter_size": "134.52M", "quantization_level": "Q4_1"})
}

fn tag(name: &str) -> Value {
    json!({"name": name, "model": name, "modified_at": "2026-01-01T00:00:00Z", "size": 98_363_007,
        "digest": "6cd1b1211b259e3efd467e296aa5bfb24ade828e555772533ec2e2d3bdf05e66", "details": details()})
}

fn loaded(name: &str) -> Value {
    json!({"name": name, "model": name, "size": 298_153_728,
        "digest": "6cd1b1211b259e3efd467e296aa5bfb24ade828e555772533ec2e2d3bdf05e66", "details": details(),
        "expires_at": "2030-01-01T00:00:00Z", "size_vram": 0, "context_length": 4096})
}

fn listed(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": 1_760_000_000, "owned_by": "library"})
}

fn json_body(status: StatusCode, value: &Value) -> Response<Body> {
    respond(status, "application/json; charset=utf-8", full(value.to_string()))
}

fn json_lines(values: &[Value]) -> Response<Body> {
    let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
    respond(StatusCode::OK, "application/x-ndjson", full(lines))
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", full(text.to_owned()))
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> Body {
    full(String::new())
}
