//! `GET /openapi.json`: the description of this API, kept in the repository as `docs/openapi.json`.
//!
//! The file is made from [`operations`] and the types of `tunnel-api`; a test compares, and with `UPDATE_DOCS=1` writes.
//! Another walks the routes, so that none is without a description and none is described that is not there.

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};

/// The file of the repository.
const DOCUMENT: &str = include_str!("../../../../docs/openapi.json");

pub(super) async fn document() -> ([(HeaderName, HeaderValue); 1], &'static str) {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT)
}

#[cfg(test)]
mod document;
#[cfg(test)]
mod markdown;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod tests;
