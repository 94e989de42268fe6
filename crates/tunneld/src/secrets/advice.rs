//! What trouble with a login means to its user.

use tunnel_api::warning::{LOGIN_EXPIRED, TOKEN_NOT_STORED, TOKEN_REFRESH_FAILED};
use tunnel_api::{Severity, Warning};

use super::oauth::RefreshError;

/// Explains why the token was not renewed.
pub(super) fn not_renewed(error: &RefreshError) -> Warning {
    let sentence = crate::daemon::chain(error);
    match error {
        RefreshError::LoginExpired { .. } => {
            let next_step =
                "log in again: tunnelctl login, or store a new token: tunnelctl login --token-stdin";
            Warning::new(LOGIN_EXPIRED, format!("the login has expired: {sentence}"), next_step)
                .with_severity(Severity::Error)
        }
        RefreshError::Refused { .. } => Warning::new(
            TOKEN_REFRESH_FAILED,
            sentence,
            "check client_id and token_endpoint of the login, and store it again: PUT /api/auth/token",
        ),
        RefreshError::Unavailable { .. } | RefreshError::BadAnswer { .. } | RefreshError::Call(_) => {
            let message = format!("the token could not be renewed: {sentence}");
            Warning::new(TOKEN_REFRESH_FAILED, message, "check the network; tunneld tries again by itself")
        }
    }
}

/// Explains that a renewed token is in memory alone.
pub(super) fn not_stored() -> Warning {
    Warning::new(
        TOKEN_NOT_STORED,
        "the renewed token could not be stored, a restart of tunneld takes a new login",
        "unlock the keyring, or let this user write the state directory; tunneld tries again by itself",
    )
}
