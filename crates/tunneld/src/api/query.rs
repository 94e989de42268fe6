//! The query of a request, with errors as the rest of the API has them.

use axum::extract::{FromRequestParts, Query as AxumQuery};
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// A query that was read as `T`. Parameters that `T` does not know are skipped.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match AxumQuery::from_request_parts(parts, state).await {
            Ok(AxumQuery(query)) => Ok(Self(query)),
            Err(_) => {
                let sentence =
                    "the query cannot be read: each parameter may come once, percent-encoded UTF-8";
                Err(ApiError::new(StatusCode::BAD_REQUEST, "bad_request", sentence))
            }
        }
    }
}
