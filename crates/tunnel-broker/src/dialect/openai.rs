use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Asker, Habits, Listed, Listing, ProbeError, Probed};

/// The content type of answers under `/v1`.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

const HEALTH: &str = "/health";
const MODELS: &str = "/v1/models";

/// Writes OpenAI's error object, with the line end that Ollama puts after it.
pub(crate) fn error(status: StatusCode, message: &str, code: Option<&str>) -> Vec<u8> {
    // Ollama calls an unknown model an `api_error` too.
    let kind = match status {
        StatusCode::NOT_FOUND => "api_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::FORBIDDEN => "permission_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "api_error",
    };
    // By hand, in the order in which the servers write it; only the message and the code are data.
    let (message, code) = (Value::from(message), code.map_or(Value::Null, Value::from));
    format!("{{\"error\":{{\"message\":{message},\"type\":\"{kind}\",\"param\":null,\"code\":{code}}}}}\n")
        .into_bytes()
}

pub(super) async fn probe(
    asker: &Asker<'_>,
    declared: bool,
    habits: &mut Habits,
) -> Result<Probed, ProbeError> {
    let asked = Instant::now();
    let mut latency = None;
    if !habits.no_health {
        let (status, _) = asker.ask(HEALTH).await?;
        latency = Some(asked.elapsed());
        match status {
            // llama.cpp answers so until the model is in memory.
            StatusCode::SERVICE_UNAVAILABLE => return Err(ProbeError::Loading),
            status if status.is_server_error() => return Err(ProbeError::Status { path: HEALTH, status }),
            status => habits.no_health = status.is_client_error(),
        }
    }
    let (status, body) = asker.ask(MODELS).await?;
    let latency = latency.unwrap_or_else(|| asked.elapsed());
    let listing = match status {
        status if status.is_success() => listing(&body)
            .ok_or(ProbeError::Strange { path: MODELS, server: "an OpenAI-compatible server" })?,
        // A server that lists nothing is fine when the configuration says what it has.
        StatusCode::NOT_FOUND if declared => Listing::default(),
        StatusCode::SERVICE_UNAVAILABLE => return Err(ProbeError::Loading),
        status => return Err(ProbeError::Status { path: MODELS, status }),
    };
    Ok(Probed { version: None, latency, listing })
}

fn listing(body: &Bytes) -> Option<Listing> {
    #[derive(Deserialize)]
    struct Models {
        data: Option<Vec<Value>>,
    }
    let entries = serde_json::from_slice::<Models>(body).ok()?.data?;
    let listed = |entry: Value| {
        let name = entry.get("id")?.as_str()?.to_owned();
        // llama.cpp's router says it; servers with one model have it in memory.
        let state = entry.pointer("/status/value").and_then(Value::as_str);
        let size_bytes = entry.pointer("/meta/size").and_then(Value::as_u64);
        Some(Listed { name, loaded: state.is_none_or(|state| state == "loaded"), size_bytes, entry })
    };
    Some(Listing { models: entries.into_iter().filter_map(listed).collect(), running: Vec::new() })
}

/// Describes a model of which only the configured name is known.
pub(crate) fn declared(name: &str, backend: &str) -> Value {
    json!({ "id": name, "object": "model", "created": 0, "owned_by": backend })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_several_servers_are_read() {
        let body = Bytes::from_static(
            br#"{"object":"list","data":[{"id":"a","object":"model","meta":{"size":7}},{"id":"b","status":{"value":"unloaded"}},{"no":"id"}]}"#,
        );
        let listing = listing(&body).unwrap();
        let read: Vec<_> = listing.models.iter().map(|m| (m.name.as_str(), m.loaded, m.size_bytes)).collect();
        assert_eq!(read, [("a", true, Some(7)), ("b", false, None)]);
        assert!(super::listing(&Bytes::from_static(br#"{"models":[]}"#)).is_none());
    }

    #[test]
    fn errors_read_as_a_recorded_one() {
        let recorded = "{\"error\":{\"message\":\"model 'nope' not found\",\"type\":\"api_error\",\"param\":null,\"code\":null}}\n";
        assert_eq!(error(StatusCode::NOT_FOUND, "model 'nope' not found", None), recorded.as_bytes());
        let value: Value = serde_json::from_slice(&error(StatusCode::FORBIDDEN, "\"\n", Some("c"))).unwrap();
        assert_eq!(value["error"]["message"], "\"\n");
        assert_eq!(value["error"]["code"], "c");
    }
}
