//! The places where a login can be kept.

use std::io;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use tunnel_api::auth::StoredIn;
use tunnel_api::warning::{
    KEYRING_ABSENT, KEYRING_FAILED, KEYRING_LOCKED, KEYRING_TIMEOUT, SECRET_FILE_UNUSABLE,
};
use tunnel_api::{Severity, Warning};

use super::account::Account;
use super::credentials::Credentials;
use super::secret_service;

/// A place for one login of each account. Each call has an end: a place that hangs is one that fails.
pub(crate) trait SecretStore: Send + Sync {
    /// Which place it is.
    fn place(&self) -> StoredIn;

    /// Reads the login; `None` when there is none.
    fn load<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Result<Option<Credentials>, StoreError>>;

    /// Keeps the login, instead of the one that was there.
    fn save<'a>(
        &'a self,
        account: &'a Account,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Takes the login away; none there is as good.
    fn remove<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Lists the secrets of connections that it keeps, by name. What it cannot list is as good as not there.
    fn connections(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Waits until a place that failed may work again; for ever where it cannot tell.
    fn recovered(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// Why a place cannot be used now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("there is no keyring: {0}")]
    Absent(&'static str),
    #[error("the keyring is locked")]
    Locked {
        /// Whether it is known to hold a login of ours.
        holds_login: bool,
    },
    #[error("the keyring did not answer within {} s", secret_service::LIMIT.as_secs())]
    Timeout,
    #[error("the keyring failed: {0}")]
    Keyring(String),
    #[error("the keyring's entry for tunneld is not one that this version can read")]
    ForeignEntry,
    #[error("systemd's credential cannot be changed from here")]
    ReadOnly,
    #[error("systemd's credential {} is not a token", .path.display())]
    BadCredential { path: PathBuf },
    #[error("there is no state directory to keep it in")]
    NoDirectory,
    #[error("{} may be read by others (mode {mode:03o})", .path.display())]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("the key {} to the stored login is gone", .path.display())]
    KeyMissing { path: PathBuf },
    #[error("{} was changed, or sealed on another machine or with another key", .path.display())]
    Damaged { path: PathBuf },
    #[error("{} cannot be {done}", .path.display())]
    Io {
        path: PathBuf,
        /// What was to be done with it: `read`, `written`, `removed`.
        done: &'static str,
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// What the user can do about it.
    pub(crate) fn next_step(&self) -> String {
        const AGAIN: &str =
            "log in again: tunnelctl login, or store the token again: tunnelctl login --token-stdin";
        match self {
            Self::Absent(_) => "nothing, unless you want a keyring: install one such as gnome-keyring".to_owned(),
            Self::Locked { .. } => {
                "unlock the keyring, as a login at the desktop does; tunneld looks again by itself".to_owned()
            }
            Self::Timeout | Self::Keyring(_) => {
                "see whether the keyring works (secret-tool search application cloudtolocalllm); tunneld looks \
                 again by itself"
                    .to_owned()
            }
            Self::ForeignEntry => AGAIN.to_owned(),
            Self::ReadOnly => "change the unit's LoadCredential, then restart tunneld".to_owned(),
            Self::BadCredential { .. } => "give systemd just the token, as it was issued".to_owned(),
            Self::NoDirectory => "name a directory that this user can write: --state-dir DIR".to_owned(),
            Self::TooOpen { path, .. } => format!("chmod 600 {}", path.display()),
            Self::KeyMissing { .. } | Self::Damaged { .. } => AGAIN.to_owned(),
            Self::Io { path, done: "read", .. } => {
                format!("let this user read it: chmod 600 {}", path.display())
            }
            Self::Io { path, .. } => {
                format!("let this user write the directory of {}", path.display())
            }
        }
    }

    /// What the status shows of it; `None` where another warning says so already.
    pub(crate) fn warning(&self) -> Option<Warning> {
        let (code, severity) = match self {
            Self::Absent(_) => (KEYRING_ABSENT, Severity::Info),
            Self::Locked { holds_login: true } => (KEYRING_LOCKED, Severity::Warning),
            // It may be empty of us; then nobody has to unlock it.
            Self::Locked { holds_login: false } => (KEYRING_LOCKED, Severity::Info),
            Self::Timeout => (KEYRING_TIMEOUT, Severity::Warning),
            Self::Keyring(_) | Self::ForeignEntry => (KEYRING_FAILED, Severity::Warning),
            Self::BadCredential { .. }
            | Self::TooOpen { .. }
            | Self::KeyMissing { .. }
            | Self::Damaged { .. }
            | Self::Io { .. } => (SECRET_FILE_UNUSABLE, Severity::Warning),
            // The missing state directory has its own warning; nobody asked to change the credential.
            Self::NoDirectory | Self::ReadOnly => return None,
        };
        let sentence = match self {
            Self::Absent(_) => format!("{self}; the token is kept in an encrypted file"),
            Self::Locked { .. } | Self::Timeout => {
                format!("{self}; other places are looked at for the token")
            }
            _ => crate::daemon::chain(self),
        };
        Some(Warning::new(code, sentence, self.next_step()).with_severity(severity))
    }

    /// Tells whether there is nothing behind this error that could hold a login.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::NoDirectory | Self::ReadOnly)
    }
}
