//! The errors of the control API.

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use jiff::Timestamp;
use tunnel_api::ErrorBody;
use tunnel_api::config::Fault;

use crate::guard::Refusal;

/// An answer that is an error. The router's outermost layer writes its body, where the request's id is known.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    sentence: String,
    faults: Vec<Fault>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, sentence: impl Into<String>) -> Self {
        Self { status, code, sentence: sentence.into(), faults: Vec::new() }
    }

    /// Returns what to answer instead of an error that is not ours: a library's, in plain text or without a body.
    pub(crate) fn in_place_of(response: &Response<Body>) -> Option<Self> {
        let status = response.status();
        let failed = status.is_client_error() || status.is_server_error();
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !failed || kind.is_some_and(|kind| kind.starts_with("application/json")) {
            return None;
        }
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
            _ if status.is_client_error() => "bad_request",
            _ => "internal_error",
        };
        let reason = status.canonical_reason().unwrap_or("unknown status");
        Some(Self::new(status, code, format!("the request cannot be answered: {reason}")))
    }

    /// Adds what is wrong with a configuration.
    pub(crate) fn with_faults(self, faults: Vec<Fault>) -> Self {
        Self { faults, ..self }
    }

    /// Returns a response that carries the error beside an empty body.
    pub(crate) fn into_marker(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }

    /// Returns the JSON body, with the id under which the request is known.
    pub(crate) fn body(self, request_id: &str) -> Bytes {
        let body = ErrorBody {
            error: self.sentence,
            code: self.code.to_owned(),
            status_code: self.status.as_u16(),
            request_id: request_id.to_owned(),
            timestamp: Timestamp::now(),
            faults: self.faults,
        };
        serde_json::to_vec(&body).map(Bytes::from).unwrap_or_default()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        self.into_marker()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::new(Refusal::STATUS, refusal.code(), refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_plain_text_are_replaced_and_json_and_good_answers_are_not() {
        let answer = |status: u16, kind: &str| {
            Response::builder().status(status).header(CONTENT_TYPE, kind).body(Body::from("text")).unwrap()
        };
        for (status, code) in [(400, "bad_request"), (413, "body_too_large"), (500, "internal_error")] {
            let error = ApiError::in_place_of(&answer(status, "text/plain")).unwrap();
            assert_eq!((error.status.as_u16(), error.code), (status, code));
        }
        assert!(ApiError::in_place_of(&answer(404, "application/json")).is_none());
        assert!(ApiError::in_place_of(&answer(200, "text/plain")).is_none());
    }
}
