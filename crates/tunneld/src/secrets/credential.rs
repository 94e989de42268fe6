//! systemd's credential `cloud-token`: given by the unit, read only.

use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use tunnel_api::auth::StoredIn;

use super::account::Account;
use super::credentials::Credentials;
use super::store::{SecretStore, StoreError};
use super::{TokenError, token_file};

/// Name of the credential: `LoadCredential=cloud-token:FILE` in the unit.
const NAME: &str = "cloud-token";

/// The credential; it is for whatever relay is configured.
#[derive(Debug)]
pub(super) struct Credential {
    path: PathBuf,
}

impl Credential {
    pub(super) fn new(directory: &Path) -> Self {
        Self { path: directory.join(NAME) }
    }

    fn read(&self) -> Result<Option<Credentials>, StoreError> {
        match token_file::read(&self.path) {
            // Older than anything that was ever stored.
            Ok(token) => Ok(Some(Credentials { stored_at: 0, ..Credentials::bare(token, 0) })),
            Err(TokenError::Missing(_) | TokenError::Empty(_)) => Ok(None),
            Err(TokenError::Unreadable { path, source }) => {
                Err(StoreError::Io { path, done: "read", source: source.kind().into() })
            }
            Err(_) => Err(StoreError::BadCredential { path: self.path.clone() }),
        }
    }
}

impl SecretStore for Credential {
    fn place(&self) -> StoredIn {
        StoredIn::Credential
    }

    fn load<'a>(&'a self, _: &'a Account) -> BoxFuture<'a, Result<Option<Credentials>, StoreError>> {
        // A few bytes out of memory: systemd keeps credentials in a file system of their own.
        Box::pin(async { self.read() })
    }

    fn save<'a>(&'a self, _: &'a Account, _: &'a Credentials) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Err(StoreError::ReadOnly) })
    }

    fn remove<'a>(&'a self, _: &'a Account) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Err(StoreError::ReadOnly) })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn credential_is_read_and_may_be_missing() {
        let directory = tempfile::tempdir().unwrap();
        let credential = Credential::new(directory.path());
        assert!(matches!(credential.read(), Ok(None)));
        std::fs::write(directory.path().join(NAME), "a.b.c\n").unwrap();
        assert_eq!(credential.read().unwrap().unwrap().access_token.expose_secret(), "a.b.c");
        std::fs::write(directory.path().join(NAME), "two words").unwrap();
        assert!(matches!(credential.read(), Err(StoreError::BadCredential { .. })));
    }
}
