//! How the rest of the daemon sees the token.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use tunnel_api::Warning;
use tunnel_api::auth::{AuthStatus, StoredIn};
use tunnel_transport::RelayUrl;

use super::account::Account;
use super::call::Way;
use super::credentials::Credentials;
use super::oauth::{self, RevokeError};
use super::token::{Current, Token, TokenError};

/// Reads and changes the token; clones share it. All work is the keeper's.
#[derive(Debug, Clone)]
pub(crate) struct TokenHandle {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) current: watch::Receiver<Current>,
    pub(super) status: watch::Receiver<AuthStatus>,
    pub(super) warnings: watch::Receiver<Vec<Warning>>,
    pub(super) nudge: Arc<Notify>,
    /// Waits for what was begun, whether or not the one who asked for it does.
    pub(super) tracker: TaskTracker,
    /// Where it is named, no other token counts.
    pub(super) token_file: Option<PathBuf>,
}

/// What the keeper is asked to do, with the way back for the answer.
pub(super) enum Order {
    Set {
        login: Box<Credentials>,
        /// Whose token it is; `None` for the relay in force.
        account: Option<Account>,
        answer: oneshot::Sender<Result<StoredIn, ChangeError>>,
    },
    Remove(oneshot::Sender<Result<Removed, ChangeError>>),
}

/// What was taken away.
#[derive(Debug)]
pub(super) struct Removed {
    pub(super) login: Option<Credentials>,
    /// To its server.
    pub(super) way: Way,
}

/// Why the login was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(
        "the token comes from the file {}, which wins over all other places; change it there, or start tunneld \
         without --token-file", .0.display()
    )]
    TokenFile(PathBuf),
    #[error(
        "the token comes from systemd's credential cloud-token, which cannot be changed from here; change \
         LoadCredential in the unit, or unlock a keyring"
    )]
    Credential,
    #[error(
        "the secret {0} comes from systemd's credential connection.{0}, which cannot be changed from here; change \
         LoadCredential in the unit, or unlock a keyring"
    )]
    Given(String),
    #[error("the token could not be {done}: {reasons}")]
    Stores { done: &'static str, reasons: String },
    #[error(
        "no secret of this name is in the places that can be looked at, and one cannot be: {reasons}; nothing was \
         removed, so repeat it when that place is there"
    )]
    Unseen { reasons: String },
    #[error(
        "no secret of this name is in the places that there are ({reasons}); GET /api/credentials lists them. One that \
         is in a place that is missing now stays there: repeat this when it is back"
    )]
    NotHere { reasons: String },
    #[error("it is not one token as it was issued: no spaces, no line ends, at most 32 KiB")]
    NotAToken,
    #[error("tunneld is shutting down")]
    ShuttingDown,
}

impl ChangeError {
    /// The code under which every way into the daemon tells it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::TokenFile(_) => "token_file_in_use",
            Self::Credential | Self::Given(_) => "credential_in_use",
            Self::Stores { .. } | Self::Unseen { .. } => "secret_store_unavailable",
            Self::NotHere { .. } => "unknown_credential",
            Self::NotAToken => "bad_request",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

impl TokenHandle {
    /// Returns the token that may be shown to `relay` now.
    pub(crate) fn current(&self, relay: &RelayUrl) -> Result<Token, TokenError> {
        Self::fit(&self.current.borrow(), relay)
    }

    /// Like [`TokenHandle::current`]; what it returns is no news to [`TokenHandle::changed`] any more.
    pub(crate) fn current_and_seen(&mut self, relay: &RelayUrl) -> Result<Token, TokenError> {
        Self::fit(&self.current.borrow_and_update(), relay)
    }

    fn fit(current: &Current, relay: &RelayUrl) -> Result<Token, TokenError> {
        match &current.account {
            // The keeper has yet to hear that the relay is another one.
            Some(account) if *account != Account::of(relay) => Err(TokenError::Looking),
            _ => current.token.clone(),
        }
    }

    /// Waits for another token, or another reason for there being none.
    pub(crate) async fn changed(&mut self) {
        if self.current.changed().await.is_err() {
            // The keeper has ended with the daemon: there is no more news.
            std::future::pending::<()>().await;
        }
    }

    /// Has the places looked at again that failed before.
    pub(crate) fn look_again(&self) {
        self.nudge.notify_one();
    }

    /// Tells whether a login could be stored, before somebody goes to the trouble of getting one.
    pub(crate) fn takes_logins(&self) -> Result<(), ChangeError> {
        match &self.token_file {
            Some(path) => Err(ChangeError::TokenFile(path.clone())),
            None => Ok(()),
        }
    }

    /// Stores a login and puts it in force. Returns where it was stored.
    pub(crate) async fn set(&self, login: Credentials) -> Result<StoredIn, ChangeError> {
        self.store(None, login).await
    }

    /// Stores a login for `relay`. It is in force at once if that is the relay in force, or else as soon as it is.
    pub(crate) async fn set_for(
        &self,
        relay: &RelayUrl,
        login: Credentials,
    ) -> Result<StoredIn, ChangeError> {
        self.store(Some(Account::of(relay)), login).await
    }

    async fn store(&self, account: Option<Account>, login: Credentials) -> Result<StoredIn, ChangeError> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Set { login: Box::new(login), account, answer }).await?;
        answered.await.map_err(|_| ChangeError::ShuttingDown)?
    }

    /// Forgets the login, here and in its store.
    pub(crate) async fn remove(&self) -> Result<(), ChangeError> {
        self.take_away().await.map(drop)
    }

    /// Forgets the login and has its server make it void; the inner result is the server's.
    ///
    /// Goes on when it is dropped: once the login is forgotten, nobody else could make it void.
    pub(crate) async fn logout(&self) -> Result<Result<bool, RevokeError>, ChangeError> {
        let handle = self.clone();
        match self.tracker.spawn(async move { handle.take_away_and_revoke().await }).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => Err(ChangeError::ShuttingDown),
            },
        }
    }

    async fn take_away_and_revoke(&self) -> Result<Result<bool, RevokeError>, ChangeError> {
        let Removed { login, way } = self.take_away().await?;
        Ok(match login {
            Some(login) => oauth::revoke(&login, &way).await,
            None => Ok(false),
        })
    }

    async fn take_away(&self) -> Result<Removed, ChangeError> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Remove(answer)).await?;
        answered.await.map_err(|_| ChangeError::ShuttingDown)?
    }

    async fn order(&self, order: Order) -> Result<(), ChangeError> {
        self.orders.send(order).await.map_err(|_| ChangeError::ShuttingDown)
    }

    /// Returns how the login stands at `now`.
    pub(crate) fn status(&self, now: Timestamp) -> AuthStatus {
        let mut status = self.status.borrow().clone();
        status.authenticated &= status.expires_at.is_none_or(|expires_at| now < expires_at);
        status
    }

    /// Follows how the login stands, its end by the clock apart.
    #[cfg(test)]
    pub(crate) fn statuses(&self) -> watch::Receiver<AuthStatus> {
        self.status.clone()
    }

    /// Follows what someone should look at.
    pub(crate) fn warnings(&self) -> watch::Receiver<Vec<Warning>> {
        self.warnings.clone()
    }
}
