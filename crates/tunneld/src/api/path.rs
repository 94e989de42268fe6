//! The parts of a request's path, with errors as the rest of the API has them.

use axum::extract::{FromRequestParts, Path as AxumPath};
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// The parameters of the route, read as `T`.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match AxumPath::from_request_parts(parts, state).await {
            Ok(AxumPath(path)) => Ok(Self(path)),
            Err(_) => {
                let sentence = "the path cannot be read: it must be percent-encoded UTF-8";
                Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence))
            }
        }
    }
}
