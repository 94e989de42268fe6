//! The token that is in force, and why there may be none.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;

use super::account::Account;
use super::store::StoreError;

/// A token, and which one it is.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) secret: SecretString,
    /// Grows with each token since the daemon started: another number is another token.
    pub(crate) version: u64,
}

/// Why there is no usable token, as a sentence.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is still being looked for")]
    Looking,
    #[error("there is no token yet")]
    None,
    #[error("the token was removed")]
    Removed,
    #[error("the token has expired and is being renewed")]
    Renewing,
    #[error("there is no token to be had")]
    Store(#[source] Arc<StoreError>),
    #[error("there is no token: {} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("there is no token: {} is empty", .0.display())]
    Empty(PathBuf),
    #[error("the token file {} cannot be read", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("{} holds something else than one token", .0.display())]
    NotAToken(PathBuf),
}

/// What the keeper publishes.
#[derive(Debug, Clone)]
pub(super) struct Current {
    /// The only relay that may see the token; `None` for any.
    pub(super) account: Option<Account>,
    pub(super) token: Result<Token, TokenError>,
}

impl Current {
    pub(super) fn looking() -> Self {
        Self { account: None, token: Err(TokenError::Looking) }
    }

    /// Tells whether a reader could not tell it from `other`.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_token = match (&self.token, &other.token) {
            (Ok(one), Ok(another)) => one.version == another.version,
            (Err(one), Err(another)) => crate::daemon::chain(one) == crate::daemon::chain(another),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        same_token && self.account == other.account
    }
}
