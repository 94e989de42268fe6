//! Errors of our own at the doors of the data plane, in the dialect of the path, so that the caller's library shows the
//! sentence.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// An answer that no model server was asked for.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    /// What OpenAI's clients call this kind of error.
    pub(crate) kind: &'static str,
    /// The stable word by which programs know it.
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Refused {
    /// Writes it as the caller's client expects it.
    pub(crate) fn response(self, path: &str) -> Response<Full<Bytes>> {
        let Self { status, kind, code, message } = self;
        let (content_type, body) = if under(path, "/v1") {
            let error = serde_json::json!({ "message": message, "type": kind, "param": null, "code": code });
            ("application/json", serde_json::json!({ "error": error }))
        } else if under(path, "/api") {
            ("application/json", serde_json::json!({ "error": message }))
        } else {
            let title = status.canonical_reason().unwrap_or_default();
            let problem = serde_json::json!({
                "title": title, "status": status.as_u16(), "detail": message, "code": code,
            });
            ("application/problem+json", problem)
        };
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

fn under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body_of(path: &str) -> (String, serde_json::Value) {
        let status = StatusCode::FORBIDDEN;
        let refused = Refused { status, kind: "permission_error", code: "no", message: "why".to_owned() };
        let response = refused.response(path);
        assert_eq!(response.status(), 403);
        let content_type = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (content_type, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn refusal_speaks_the_dialect_of_the_path() {
        let (_, ollama) = body_of("/api/chat").await;
        assert_eq!(ollama["error"], "why");
        let (_, openai) = body_of("/v1/chat/completions").await;
        assert_eq!(
            (&openai["error"]["code"], &openai["error"]["type"]),
            (&"no".into(), &"permission_error".into())
        );
        let (content_type, problem) = body_of("/v1x").await;
        assert_eq!((content_type.as_str(), &problem["status"]), ("application/problem+json", &403.into()));
    }
}
