//! The encrypted file: where there is no keyring.
//!
//! Two files in the state directory, both mode 0600: the login, sealed with AES-256-GCM, and 32 random bytes from
//! which, together with this machine's id, the key is derived. That protects a copy of one of the files without
//! the other, and both on another machine without this one's id: a backup, a synchronised folder, a file sent by
//! mistake. It does not protect from anyone who runs programs as this user: whatever this daemon can read, they
//! can. For that there are keyrings.

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use tunnel_api::auth::StoredIn;

use self::sealed::Sealed;
use super::account::Account;
use super::credentials::Credentials;
use super::store::{SecretStore, StoreError};

mod sealed;

/// The sealed files of one state directory.
#[derive(Debug)]
pub(super) struct SealedFiles {
    /// `None` where nothing can be kept.
    directory: Option<PathBuf>,
    machine_id: PathBuf,
}

/// Where systemd keeps the machine's id.
const MACHINE_ID: &str = "/etc/machine-id";

impl SealedFiles {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, machine_id: MACHINE_ID.into() }
    }

    /// Runs file work where it may block.
    fn run<'a, T: Send + 'static>(
        &'a self,
        account: &'a Account,
        work: impl FnOnce(Sealed) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        let directory = self.directory.clone();
        Box::pin(async move {
            let directory = directory.ok_or(StoreError::NoDirectory)?;
            let sealed = Sealed::new(directory, self.machine_id.clone(), account.clone());
            match tokio::task::spawn_blocking(move || work(sealed)).await {
                Ok(done) => done,
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
        })
    }
}

impl SecretStore for SealedFiles {
    fn place(&self) -> StoredIn {
        StoredIn::File
    }

    fn load<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Result<Option<Credentials>, StoreError>> {
        let loaded = self.run(account, |sealed| sealed.load());
        Box::pin(async {
            match loaded.await {
                // Nothing is kept there, which is no failure of the one who looks.
                Err(StoreError::NoDirectory) => Ok(None),
                loaded => loaded,
            }
        })
    }

    fn save<'a>(
        &'a self,
        account: &'a Account,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let credentials = credentials.clone();
        self.run(account, move |sealed| sealed.save(&credentials))
    }

    fn remove<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Result<(), StoreError>> {
        self.run(account, |sealed| sealed.remove())
    }

    fn connections(&self) -> BoxFuture<'_, Vec<String>> {
        let Some(directory) = self.directory.clone() else { return Box::pin(std::future::ready(Vec::new())) };
        let listed = tokio::task::spawn_blocking(move || sealed::connections(&directory));
        Box::pin(async { listed.await.unwrap_or_default() })
    }
}
