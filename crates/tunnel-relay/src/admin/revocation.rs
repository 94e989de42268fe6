//! An operator's order that a token is not to be taken any more.

use axum::http::StatusCode;

use crate::admin::problem::Problem;
use crate::auth::revoked::RevokeError;
use crate::relay::Shared;

/// Revokes a token of a subject: requests with it are refused, streams and sessions that it opened end.
pub(super) async fn revoke(shared: &Shared, subject: &str, token_id: &str) -> Result<(), Problem> {
    shared.authority.revoke(subject, token_id, None).await.map_err(|error| {
        let (status, code) = match error {
            RevokeError::BadId => (StatusCode::BAD_REQUEST, "bad_request"),
            RevokeError::Full | RevokeError::FullOfSubject | RevokeError::Unsaved(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "not_revoked")
            }
        };
        Problem::new(status, code, format!("{error}."))
    })
}
