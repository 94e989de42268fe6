//! systemd's credentials: `cloud-token`, and `connection.NAME` for the secret NAME. Given by the unit, read only.

use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use tunnel_api::auth::StoredIn;
use tunnel_api::config::is_connection_id;

use super::account::Account;
use super::credentials::Credentials;
use super::store::{SecretStore, StoreError};
use super::{TokenError, token_file};

/// Name of the credential: `LoadCredential=cloud-token:FILE` in the unit.
const NAME: &str = "cloud-token";

/// The credentials; `cloud-token` is for whatever relay is configured.
#[derive(Debug)]
pub(super) struct Credential {
    directory: PathBuf,
}

/// What stands before the name of a connection's secret.
const OF_CONNECTIONS: &str = "connection.";

impl Credential {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn read(&self, account: &Account) -> Result<Option<Credentials>, StoreError> {
        let path = match account.connection_name() {
            Some(name) => self.directory.join(format!("{OF_CONNECTIONS}{name}")),
            None => self.directory.join(NAME),
        };
        match token_file::read(&path) {
            // Older than anything that was ever stored.
            Ok(token) => Ok(Some(Credentials { stored_at: 0, ..Credentials::bare(token, 0) })),
            Err(TokenError::Missing(_) | TokenError::Empty(_)) => Ok(None),
            Err(TokenError::Unreadable { path, source }) => {
                Err(StoreError::Io { path, done: "read", source: source.kind().into() })
            }
            Err(_) => Err(StoreError::BadCredential { path }),
        }
    }
}

impl SecretStore for Credential {
    fn place(&self) -> StoredIn {
        StoredIn::Credential
    }

    fn load<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Result<Option<Credentials>, StoreError>> {
        // A few bytes out of memory: systemd keeps credentials in a file system of their own.
        Box::pin(async { self.read(account) })
    }

    fn connections(&self) -> BoxFuture<'_, Vec<String>> {
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_prefix(OF_CONNECTIONS).filter(|name| is_connection_id(name)).map(str::to_owned)
        };
        let list = std::fs::read_dir(&self.directory).into_iter().flatten().filter_map(name).collect();
        Box::pin(std::future::ready(list))
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
        let relay = Account::of(&tunnel_transport::RelayUrl::parse("https://relay.example").unwrap());
        assert!(matches!(credential.read(&relay), Ok(None)));
        std::fs::write(directory.path().join(NAME), "a.b.c\n").unwrap();
        assert_eq!(credential.read(&relay).unwrap().unwrap().access_token.expose_secret(), "a.b.c");
        std::fs::write(directory.path().join(NAME), "two words").unwrap();
        assert!(matches!(credential.read(&relay), Err(StoreError::BadCredential { .. })));
    }
}
