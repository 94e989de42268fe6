//! `PROXY_REQUEST`: a request to a model over the WebSocket, for clients that speak nothing else.

use std::collections::HashMap;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tunnel_broker::{Broker, Ingress};

/// The requests of one client. They end with it.
#[derive(Debug)]
pub(super) struct Proxies {
    broker: Broker,
    running: JoinSet<()>,
    by_id: HashMap<String, AbortHandle>,
    answers: mpsc::Receiver<Value>,
    answer: mpsc::Sender<Value>,
}

/// Requests of one client at a time; one more is refused.
const MAX_RUNNING: usize = 16;
/// Parts of answers that wait to be written; a model server is held up by more.
const MAX_WAITING: usize = 8;
/// Longest answer that is sent in one piece. A stream has no limit.
const MAX_RESULT_BYTES: usize = 16 * 1024 * 1024;

impl Proxies {
    pub(super) fn new(broker: Broker) -> Self {
        let (answer, answers) = mpsc::channel(MAX_WAITING);
        Self { broker, running: JoinSet::new(), by_id: HashMap::new(), answers, answer }
    }

    /// Starts a request. The error is for the client.
    pub(super) fn start(&mut self, id: Value, payload: &Map<String, Value>) -> Result<(), String> {
        self.by_id.retain(|_, request| !request.is_finished());
        while self.running.try_join_next().is_some() {}
        if self.by_id.len() >= MAX_RUNNING {
            return Err(format!(
                "{MAX_RUNNING} requests of this client run; wait for one to end, or cancel one"
            ));
        }
        let key = id.to_string();
        if self.by_id.contains_key(&key) {
            return Err("a request with this id runs".to_owned());
        }
        let request = request(payload)?;
        let streams = payload.get("stream").and_then(Value::as_bool).unwrap_or(false);
        let (broker, answer) = (self.broker.clone(), self.answer.clone());
        let task = self.running.spawn(async move {
            let response = broker.handle(Ingress::Local, request).await;
            if streams { stream(response, &id, &answer).await } else { whole(response, &id, &answer).await }
        });
        self.by_id.insert(key, task);
        Ok(())
    }

    /// Ends a request and tells whether it ran. Its model server stops at once.
    pub(super) fn cancel(&mut self, id: &Value) -> bool {
        match self.by_id.remove(&id.to_string()) {
            Some(request) => {
                let ran = !request.is_finished();
                request.abort();
                ran
            }
            None => false,
        }
    }

    /// Waits for the next message to the client. None once nothing runs any more and all is told, if `leaving`.
    /// Loses nothing when dropped.
    pub(super) async fn next(&mut self, leaving: bool) -> Option<Value> {
        loop {
            if leaving && self.running.is_empty() && self.answers.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                // Cannot end: this side holds a sender too.
                Some(answer) = self.answers.recv() => return Some(answer),
                Some(_ended) = self.running.join_next(), if !self.running.is_empty() => {}
            }
        }
    }
}

fn request(payload: &Map<String, Value>) -> Result<Request<Full<Bytes>>, String> {
    let text = |key: &str| payload.get(key).and_then(Value::as_str);
    let method = match text("method") {
        Some(method) => Method::from_bytes(method.to_ascii_uppercase().as_bytes())
            .map_err(|_| "method is none that HTTP has")?,
        None => Method::POST,
    };
    let path = text("path")
        .filter(|path| path.starts_with('/'))
        .ok_or("path is missing, or does not begin with /")?;
    let target: Uri = path.parse().map_err(|_| "path is none that HTTP can carry")?;
    let body = match payload.get("data") {
        None | Some(Value::Null) => Bytes::new(),
        Some(data) => data.to_string().into(),
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = target;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(request)
}

/// Sends the whole answer as one message.
async fn whole(response: http::Response<tunnel_broker::Body>, id: &Value, answer: &mpsc::Sender<Value>) {
    let (head, body) = response.into_parts();
    let message = match http_body_util::Limited::new(body, MAX_RESULT_BYTES).collect().await {
        Ok(collected) => {
            let bytes = collected.to_bytes();
            let value = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
            let key = if head.status.is_success() { "result" } else { "error" };
            json!({ "id": id, key: value, "status": head.status.as_u16() })
        }
        Err(error) => json!({ "id": id, "error": format!("the answer broke off: {error}"), "status": 502 }),
    };
    // Fails when the client has gone, who does not need it.
    let _gone = answer.send(message).await;
}

/// Sends each part as it comes, then an end; an answer that broke off ends with an error.
async fn stream(response: http::Response<tunnel_broker::Body>, id: &Value, answer: &mpsc::Sender<Value>) {
    let (head, mut body) = response.into_parts();
    let mut text = Utf8Parts::default();
    while let Some(frame) = body.frame().await {
        let message = match frame {
            Ok(frame) => match frame.into_data() {
                Ok(bytes) => match text.push(&bytes) {
                    Some(chunk) => json!({ "id": id, "chunk": chunk }),
                    None => continue,
                },
                // Trailers.
                Err(_) => continue,
            },
            Err(error) => {
                let error =
                    json!({ "id": id, "error": format!("the answer broke off: {error}"), "status": 502 });
                let _gone = answer.send(error).await;
                return;
            }
        };
        if answer.send(message).await.is_err() {
            return;
        }
    }
    let _gone = answer.send(json!({ "id": id, "end": true, "status": head.status.as_u16() })).await;
}

/// Cuts a stream of bytes between characters.
#[derive(Debug, Default)]
struct Utf8Parts {
    /// The beginning of a character; at most 3 bytes.
    rest: Vec<u8>,
}

impl Utf8Parts {
    /// Returns the text up to the last whole character. `None` if there is none.
    fn push(&mut self, bytes: &[u8]) -> Option<String> {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let end = match std::str::from_utf8(&all) {
            Ok(_) => all.len(),
            // A character that may be completed; anything else is shown as it is.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => all.len(),
        };
        self.rest = all.split_off(end);
        (!all.is_empty()).then(|| String::from_utf8_lossy(&all).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        let text = "a€😀b";
        for cut in 0..=text.len() {
            let mut parts = Utf8Parts::default();
            let (a, b) = text.as_bytes().split_at(cut);
            let joined: String = [a, b].iter().filter_map(|part| parts.push(part)).collect();
            assert_eq!(joined, text, "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_pile_up() {
        let mut parts = Utf8Parts::default();
        for _ in 0..100 {
            assert!(parts.push(&[0xff, 0xfe]).is_some());
            assert!(parts.rest.len() <= 3);
        }
    }

    #[test]
    fn requests_are_checked() {
        let of = |value: Value| request(value.as_object().unwrap());
        assert!(of(json!({})).is_err());
        assert!(of(json!({ "path": "api/chat" })).is_err());
        assert!(of(json!({ "path": "/api chat" })).is_err());
        assert!(of(json!({ "path": "/x", "method": "PO ST" })).is_err());
        let request = of(json!({ "path": "/api/chat?x=1", "method": "post", "data": { "a": 1 } })).unwrap();
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/api/chat"));
    }
}
