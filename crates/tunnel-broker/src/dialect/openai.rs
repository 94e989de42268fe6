use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

/// The content type of answers under `/v1`.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

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

/// Adds to an entry what OpenAI's clients rely on and not every server sends.
pub(crate) fn completed(entry: &Value, backend: &str) -> Value {
    let mut entry = entry.clone();
    if let Value::Object(members) = &mut entry {
        let publisher = members.get("publisher").filter(|value| value.is_string()).cloned();
        members.entry("object").or_insert_with(|| "model".into());
        members.entry("created").or_insert_with(|| 0.into());
        members.entry("owned_by").or_insert_with(|| publisher.unwrap_or_else(|| backend.into()));
    }
    entry
}

/// Describes a model of which only the configured name is known.
pub(crate) fn declared(name: &str, backend: &str) -> Value {
    json!({ "id": name, "object": "model", "created": 0, "owned_by": backend })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_what_clients_rely_on() {
        let own = json!({"id":"m","type":"llm","publisher":"qwen","state":"loaded"});
        let whole = json!({"id":"m","type":"llm","publisher":"qwen","state":"loaded","object":"model","created":0,
            "owned_by":"qwen"});
        assert_eq!(completed(&own, "studio"), whole);
        assert_eq!(completed(&whole, "studio"), whole);
        assert_eq!(completed(&json!({"id":"m"}), "studio")["owned_by"], "studio");
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
