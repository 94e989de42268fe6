use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::dialect::{ollama, openai};
use crate::path::Dialect;

/// Why the broker itself answers with an error. The texts go to the caller.
///
/// Model names in them come from the caller and go back to the caller only; they are not logged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("model '{0}' not found")]
    UnknownModel(String),
    #[error("no connection with the id '{0}'")]
    UnknownConnection(String),
    #[error("not found")]
    NotFound,
    #[error("method not allowed")]
    MethodNotAllowed,
    #[error("{subject} speaks another API than this path's: use {instead}")]
    WrongDialect { subject: String, instead: &'static str },
    #[error(
        "this path is not open through the tunnel; on the machine that serves it, the configuration key \
         remotePaths can allow it"
    )]
    PathNotAllowed,
    #[error(
        "the key that was sent is not for this path; a key for others is made on the machine that serves it, with: \
         tunnelctl keys create --local --paths RULE"
    )]
    PathNotInScope,
    #[error(
        "the key that was sent is not for this model; GET /v1/models shows those that it is for, and a key for others is \
         made on the machine that serves it, with: tunnelctl keys create --local --model NAME"
    )]
    ModelNotInScope,
    #[error("the key that was sent is for some models only, and {0}")]
    BodyNotInScope(&'static str),
    #[error("no model server is configured")]
    NoBackend,
    #[error("connection '{id}' is down{}", .why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Down { id: String, why: Option<String> },
    #[error("connection '{0}' is busy: as many requests run as it may run at once")]
    Full(String),
    #[error("connection '{id}' could not be reached: {why}")]
    Unreachable { id: String, why: String },
    #[error("connection '{0}' broke before the response began")]
    Lost(String),
    #[error("connection '{0}' answered something that is not HTTP")]
    NotHttp(String),
    #[error("connection '{id}' sent no response within {} s", .after.as_secs_f32())]
    FirstByteTimeout { id: String, after: Duration },
    #[error("the request body stopped arriving")]
    UploadStalled,
    #[error("the request body could not be read")]
    UploadFailed,
    #[error("the request was cancelled on the machine that serves it")]
    Cancelled,
}

impl Failure {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::UnknownModel(_) | Self::UnknownConnection(_) | Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::WrongDialect { .. } | Self::UploadFailed => StatusCode::BAD_REQUEST,
            Self::PathNotAllowed | Self::PathNotInScope | Self::ModelNotInScope | Self::BodyNotInScope(_) => {
                StatusCode::FORBIDDEN
            }
            Self::NoBackend | Self::Down { .. } | Self::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Self::Full(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unreachable { .. } | Self::Lost(_) | Self::NotHttp(_) => StatusCode::BAD_GATEWAY,
            Self::FirstByteTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::UploadStalled => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The machine-readable reason.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::UnknownModel(_) => "model_not_found",
            Self::UnknownConnection(_) => "unknown_connection",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::WrongDialect { .. } => "wrong_api",
            Self::PathNotAllowed | Self::PathNotInScope => "path_not_allowed",
            Self::ModelNotInScope | Self::BodyNotInScope(_) => "model_not_allowed",
            Self::NoBackend => "no_backend",
            Self::Down { .. } => "backend_down",
            Self::Full(_) => "queue_full",
            Self::Unreachable { .. } => "backend_unreachable",
            Self::Lost(_) => "backend_lost",
            Self::NotHttp(_) => "backend_invalid",
            Self::FirstByteTimeout { .. } => "first_byte_timeout",
            Self::UploadStalled => "upload_stalled",
            Self::UploadFailed => "upload_failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// When the same request may do better.
    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::NoBackend | Self::Down { .. } => Some(HeaderValue::from_static("2")),
            Self::Full(_) => Some(HeaderValue::from_static("1")),
            Self::UnknownModel(_)
            | Self::UnknownConnection(_)
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::WrongDialect { .. }
            | Self::PathNotAllowed
            | Self::PathNotInScope
            | Self::ModelNotInScope
            | Self::BodyNotInScope(_)
            | Self::Unreachable { .. }
            | Self::Lost(_)
            | Self::NotHttp(_)
            | Self::FirstByteTimeout { .. }
            | Self::UploadStalled
            | Self::UploadFailed
            | Self::Cancelled => None,
        }
    }

    /// Writes the answer as the caller's client expects it.
    pub(crate) fn response(&self, dialect: Dialect) -> Response<Body> {
        let mut response = match dialect {
            Dialect::Ollama => json(self.status(), ollama::JSON, ollama::error(&self.to_string())),
            Dialect::OpenAi => json(
                self.status(),
                openai::JSON,
                openai::error(self.status(), &self.to_string(), self.shown_code()),
            ),
            Dialect::Other => {
                json(self.status(), HeaderValue::from_static("application/problem+json"), self.problem())
            }
        };
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        if matches!(self, Self::MethodNotAllowed) {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        response.extensions_mut().insert(FailureCode(self.code()));
        response
    }

    /// The code in OpenAI's error object. Ollama, which this API's clients know, gives none for an unknown model.
    fn shown_code(&self) -> Option<&'static str> {
        match self {
            Self::UnknownModel(_) => None,
            other => Some(other.code()),
        }
    }

    /// RFC 9457.
    fn problem(&self) -> Vec<u8> {
        let status = self.status();
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "code": self.code(),
            "detail": self.to_string(),
        });
        problem.to_string().into_bytes()
    }
}

/// The machine-readable reason of an answer that the broker made itself; an extension of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureCode(pub &'static str);

/// Builds an answer of known length.
pub(crate) fn json(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Response<Body> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Body::full(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}
