//! What the keeper tells: the token, how the login stands, and what someone should look at.

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{info, warn};
use tunnel_api::auth::{AuthStatus, StoredIn};
use tunnel_api::{Severity, Warning};

use super::{Held, Source, TokenKeeper};
use crate::secrets::advice;
use crate::secrets::stores::Stores;
use crate::secrets::token::{Current, Token, TokenError};

/// Where the keeper tells what it has.
pub(in crate::secrets) struct Outlets {
    pub(in crate::secrets) current: watch::Sender<Current>,
    pub(in crate::secrets) status: watch::Sender<AuthStatus>,
    pub(in crate::secrets) warnings: watch::Sender<Vec<Warning>>,
}

impl TokenKeeper {
    /// Tells the news, if there is any.
    pub(super) fn publish(&self) {
        let current = self.current();
        self.outlets.current.send_if_modified(|before| {
            let modified = !before.is_same(&current);
            *before = current;
            modified
        });
        let status = self.status();
        self.outlets.status.send_if_modified(|before| {
            let modified = *before != status;
            *before = status;
            modified
        });
        let warnings = self.warnings();
        self.outlets.warnings.send_if_modified(|before| {
            for warning in warnings.iter().filter(|warning| !before.contains(warning)) {
                let (code, next_step) = (&warning.code, &warning.next_step);
                match warning.severity {
                    Severity::Info | Severity::Unknown => info!(code, next_step, "{}", warning.message),
                    Severity::Warning | Severity::Error => warn!(code, next_step, "{}", warning.message),
                }
            }
            let modified = *before != warnings;
            *before = warnings;
            modified
        });
    }

    fn current(&self) -> Current {
        let account = match self.source {
            Source::TokenFile(_) => None,
            Source::Stores(_) => Some(self.account.clone()),
        };
        let token = match &self.token {
            // It would only be refused; a failed renewal leaves the last word to the relay and its clock.
            Ok(held)
                if held.is_over(now()) && held.login.renewal.is_some() && !self.schedule.has_failed() =>
            {
                Err(TokenError::Renewing)
            }
            Ok(held) => Ok(Token { secret: held.login.access_token.clone(), version: self.version }),
            Err(error) => Err(error.clone()),
        };
        Current { account, token }
    }

    fn status(&self) -> AuthStatus {
        let trouble = self.trouble.as_ref().map(|warning| warning.message.clone());
        match &self.token {
            Ok(Held { login, place }) => AuthStatus {
                authenticated: true,
                subject: login.subject.clone(),
                expires_at: login.lease.and_then(|lease| Timestamp::from_second(lease.expires_at).ok()),
                stored_in: *place,
                refreshable: login.renewal.is_some(),
                last_error: trouble,
            },
            Err(error) => AuthStatus {
                stored_in: StoredIn::None,
                last_error: error.is_fault().then(|| crate::daemon::chain(error)),
                ..AuthStatus::default()
            },
        }
    }

    fn warnings(&self) -> Vec<Warning> {
        let stores = match &self.source {
            Source::TokenFile(_) => None,
            Source::Stores(stores) => Some(stores),
        };
        let failures = stores.into_iter().flat_map(Stores::failures);
        let mut warnings: Vec<Warning> = failures.filter_map(|error| error.warning()).collect();
        warnings.extend(self.unsaved.then(advice::not_stored));
        warnings.extend(self.trouble.clone());
        warnings
    }
}

impl TokenError {
    /// Tells whether it is more than the lack of a token.
    fn is_fault(&self) -> bool {
        match self {
            Self::Looking | Self::None | Self::Removed | Self::Renewing => false,
            Self::Store(_)
            | Self::Missing(_)
            | Self::Empty(_)
            | Self::Unreadable { .. }
            | Self::NotAToken(_) => true,
        }
    }
}

/// The wall clock, in seconds since the epoch.
pub(super) fn now() -> i64 {
    Timestamp::now().as_second()
}
