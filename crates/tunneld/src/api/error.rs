//! The errors of the control API.

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use tunnel_api::ErrorBody;

use crate::guard::Refusal;

/// An answer that is an error. The router's outermost layer writes its body, where the request's id is known.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    sentence: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, sentence: impl Into<String>) -> Self {
        Self { status, code, sentence: sentence.into() }
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
