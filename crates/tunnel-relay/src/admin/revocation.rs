//! An operator's order that a token is not to be taken any more.

use axum::http::StatusCode;

use crate::admin::problem::Problem;
use crate::relay::Shared;

/// Revokes a token of a subject.
pub(super) fn revoke(_shared: &Shared, _subject: &str, _token_id: &str) -> Result<(), Problem> {
    Err(Problem::new(
        StatusCode::NOT_IMPLEMENTED,
        "revocation_unavailable",
        "This relay keeps no list of revoked tokens. To void all tokens, replace issuer.key in the data directory.",
    ))
}
