use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::dialect::{ollama, openai};
use crate::path::Dialect;
use crate::prefix::LARGEST_SEARCHED;
use crate::queue::Crowd;

/// Why the broker itself answers with an error. The texts go to the caller.
///
/// Model names in them come from the caller and go back to the caller only; they are not logged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("model '{0}' not found")]
    UnknownModel(String),
    #[error("no connection with the id '{0}'")]
    UnknownConnection(String),
    #[error(
        "'{alias}' is an alias of the configuration and no model; name the model itself, '{model}', or take the alias out of \
         'aliases'"
    )]
    IsAlias { alias: String, model: String },
    #[error("not found")]
    NotFound,
    #[error("method not allowed")]
    MethodNotAllowed,
    #[error("{subject} speaks another API than this path's: use {instead}")]
    WrongDialect { subject: String, instead: &'static str },
    #[error(
        "{subject} in the cloud only, and routingPolicy localOnly keeps requests away from there; ask for a model of a \
         local connection, or set routingPolicy to preferLocal"
    )]
    LocalOnly { subject: String },
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
    #[error("connection '{id}' is down{}", because(.why))]
    Down { id: String, why: Option<String> },
    #[error("connection '{0}' still loads its model; try again in a few seconds")]
    Warming(String),
    #[error("connection '{0}' is busy: as many requests run as it may run at once")]
    Full(String),
    #[error("{}", full(.at, .crowd))]
    QueueFull { at: Vec<String>, crowd: Crowd },
    #[error("{}", timeout(.at, .after, .crowd))]
    QueueTimeout { at: Vec<String>, after: Duration, crowd: Crowd },
    #[error(
        "connection '{id}' has been loading its model for {} s and is not ready yet (firstByteTimeout); try again, or ask \
         another connection", .after.as_secs_f32()
    )]
    StillLoading { id: String, after: Duration },
    #[error("connection '{id}' could not be reached{}", because(.why))]
    Unreachable { id: String, why: Option<String> },
    #[error(
        "connection '{0}' does not accept this request with the credential that is stored for it: the credential is \
         wrong, or not for this model or path; on the machine that serves it, 'tunnelctl connections' shows which"
    )]
    Unauthorised(String),
    #[error("connection '{0}' is down: it has stopped answering")]
    Hangs(String),
    #[error("connection '{0}' broke before the response began")]
    Lost(String),
    #[error("connection '{0}' answered something that is not HTTP")]
    NotHttp(String),
    #[error("connection '{id}' sent no response within {} s", .after.as_secs_f32())]
    FirstByteTimeout { id: String, after: Duration },
    #[error(
        "the first {} MiB of the request's body name no model, and which server it is for depends on it; send the member \
         \"model\" before the others", LARGEST_SEARCHED >> 20
    )]
    ModelTooLate,
    #[error(
        "too many long requests are being read that name their model late; try again in a few seconds, or send the member \
         \"model\" before the others"
    )]
    NoRoom,
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
            Self::WrongDialect { .. } | Self::IsAlias { .. } | Self::UploadFailed => StatusCode::BAD_REQUEST,
            Self::PathNotAllowed
            | Self::LocalOnly { .. }
            | Self::PathNotInScope
            | Self::ModelNotInScope
            | Self::BodyNotInScope(_) => StatusCode::FORBIDDEN,
            Self::NoBackend
            | Self::Down { .. }
            | Self::Unauthorised(_)
            | Self::Hangs(_)
            | Self::Warming(_)
            | Self::StillLoading { .. }
            | Self::NoRoom
            | Self::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Self::Full(_) | Self::QueueFull { .. } | Self::QueueTimeout { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Unreachable { .. } | Self::Lost(_) | Self::NotHttp(_) => StatusCode::BAD_GATEWAY,
            Self::FirstByteTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::UploadStalled => StatusCode::REQUEST_TIMEOUT,
            Self::ModelTooLate => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// Leaves out what concerns only the machine's own user: addresses, paths and names of secrets.
    pub(crate) fn for_strangers(self) -> Self {
        match self {
            Self::Down { id, .. } => Self::Down { id, why: None },
            Self::Unreachable { id, .. } => Self::Unreachable { id, why: None },
            told => told,
        }
    }

    /// Adds for who manages models why no other backend was asked.
    pub(crate) fn for_managers(self) -> Self {
        let hint = |why: Option<String>| {
            let why = why.map(|why| format!("{why}; ")).unwrap_or_default();
            Some(format!(
                "{why}what manages models is sent to no other connection unless the header X-Tunnel-Connection names it"
            ))
        };
        match self {
            Self::Down { id, why } => Self::Down { id, why: hint(why) },
            Self::Unreachable { id, why } => Self::Unreachable { id, why: hint(why) },
            told => told,
        }
    }

    /// The machine-readable reason.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::UnknownModel(_) => "model_not_found",
            Self::UnknownConnection(_) => "unknown_connection",
            Self::IsAlias { .. } => "is_alias",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::WrongDialect { .. } => "wrong_api",
            Self::LocalOnly { .. } => "local_only",
            Self::PathNotAllowed | Self::PathNotInScope => "path_not_allowed",
            Self::ModelNotInScope | Self::BodyNotInScope(_) => "model_not_allowed",
            Self::NoBackend => "no_backend",
            Self::Down { .. } | Self::Hangs(_) => "backend_down",
            Self::Unauthorised(_) => "backend_unauthorised",
            Self::Full(_) | Self::QueueFull { .. } => "queue_full",
            Self::QueueTimeout { .. } => "queue_timeout",
            Self::Warming(_) | Self::StillLoading { .. } => "backend_loading",
            Self::Unreachable { .. } => "backend_unreachable",
            Self::Lost(_) => "backend_lost",
            Self::NotHttp(_) => "backend_invalid",
            Self::FirstByteTimeout { .. } => "first_byte_timeout",
            Self::ModelTooLate => "model_too_late",
            Self::NoRoom => "no_room",
            Self::UploadStalled => "upload_stalled",
            Self::UploadFailed => "upload_failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// When the same request may do better.
    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::NoBackend | Self::Down { .. } | Self::Hangs(_) => Some(HeaderValue::from_static("2")),
            Self::QueueFull { crowd, .. } | Self::QueueTimeout { crowd, .. } => Some(seconds(crowd).into()),
            Self::Warming(_) | Self::StillLoading { .. } | Self::NoRoom => {
                Some(HeaderValue::from_static("5"))
            }
            Self::Full(_) => Some(HeaderValue::from_static("1")),
            Self::UnknownModel(_)
            | Self::UnknownConnection(_)
            | Self::IsAlias { .. }
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::WrongDialect { .. }
            | Self::LocalOnly { .. }
            | Self::PathNotAllowed
            | Self::PathNotInScope
            | Self::ModelNotInScope
            | Self::BodyNotInScope(_)
            | Self::Unauthorised(_)
            | Self::Unreachable { .. }
            | Self::Lost(_)
            | Self::NotHttp(_)
            | Self::FirstByteTimeout { .. }
            | Self::ModelTooLate
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

/// Returns when to come again, in seconds: when one that came now would get a slot. 1 to 60.
fn seconds(crowd: &Crowd) -> u64 {
    // Nothing has ended yet: a second each is a guess, better than one for all.
    let unknown = || Duration::from_secs((crowd.waiting / crowd.slots.max(1)) as u64 + 1);
    let wait = crowd.wait.unwrap_or_else(unknown);
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).clamp(1, 60)
}

fn because(why: &Option<String>) -> String {
    why.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
}

fn full(at: &[String], crowd: &Crowd) -> String {
    let waiting = match crowd.waiting {
        0 => "none may wait".to_owned(),
        1 => "1 request waits already".to_owned(),
        n => format!("{n} requests wait already"),
    };
    format!(
        "{}, and {waiting} (queue.maxWaiting); {}",
        taken(at, crowd),
        advice(crowd, "or raise the connection's maxConcurrent if its server can do more at once")
    )
}

fn timeout(at: &[String], after: &Duration, crowd: &Crowd) -> String {
    format!(
        "the request waited {} s (queue.maxWait) and its turn did not come: {}; {}",
        after.as_secs_f32(),
        taken(at, crowd),
        advice(crowd, "or add a connection that has the model")
    )
}

fn taken(at: &[String], crowd: &Crowd) -> String {
    let ids: Vec<String> = at.iter().map(|id| format!("'{id}'")).collect();
    let noun = if ids.len() == 1 { "connection" } else { "connections" };
    match crowd.slots {
        1 => format!("the only slot of {noun} {} is taken", ids.join(", ")),
        // One that loads its model, and has no limit.
        usize::MAX => format!("{noun} {} cannot take a request yet", ids.join(", ")),
        n => format!("all {n} slots of {noun} {} are taken", ids.join(", ")),
    }
}

fn advice(crowd: &Crowd, other: &str) -> String {
    format!("try again in {} s, {other}", seconds(crowd))
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
