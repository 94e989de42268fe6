//! The body of a request, with errors that say what is wrong and repeat nothing of it.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// A body of at most [`super::MAX_BODY_BYTES`], as it came.
pub(super) struct RawBody(pub(super) Bytes);

/// A body that was read as `T`.
pub(super) struct Body<T>(pub(super) T);

/// Reads a body that may be left out; `None` of anything but an object with the right fields.
pub(super) fn object_or_default<T: Default + DeserializeOwned>(body: &[u8]) -> Option<T> {
    if body.is_empty() {
        return Some(T::default());
    }
    // A list of the fields' values would be taken for the object, too.
    let value: serde_json::Value = serde_json::from_slice(body).ok().filter(serde_json::Value::is_object)?;
    serde_json::from_value(value).ok()
}

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let sentence = format!("the body is larger than {} KiB", super::MAX_BODY_BYTES / 1024);
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", sentence)
            }
            _ => ApiError::new(StatusCode::BAD_REQUEST, "bad_request", "the body did not arrive whole"),
        })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let RawBody(bytes) = RawBody::from_request(request, state).await?;
        let bad = |sentence: String| ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence);
        let other_shape = || {
            "the body is JSON, but not an object with the fields that this takes; see docs/local-api.md"
                .to_owned()
        };
        // serde's own messages name values of the body.
        let read = serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            bad(match error.classify() {
                serde_json::error::Category::Data => other_shape(),
                _ => format!("the body is not JSON: line {}, column {}", error.line(), error.column()),
            })
        })?;
        // A list of the fields' values would be taken for the object, too.
        if bytes.trim_ascii_start().starts_with(b"{") { Ok(read) } else { Err(bad(other_shape())) }
    }
}
