//! The device token: where it is kept, how it stays fresh, and who may change it.
//!
//! One task, the keeper, owns it. It looks for the token in the file that the user named, or else in the keyring,
//! in systemd's credential and in an encrypted file; it renews what can be renewed, and publishes what is in
//! force. All others hold a [`TokenHandle`]: the tunnel reads and follows the token, the control API stores and
//! removes it. Nothing waits for a keyring: until the keeper has looked there is no token, which is a normal state.

mod account;
mod advice;
mod bus;
mod call;
mod claims;
mod credential;
mod credentials;
mod endpoint;
mod file;
mod handle;
mod keeper;
mod oauth;
mod schedule;
mod secret_service;
mod store;
mod stores;
#[cfg(test)]
pub(crate) mod testing;
mod token;
mod token_file;
mod vault;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tunnel_api::auth::{AuthStatus, StoredIn};
use tunnel_runtime::CriticalTasks;
use tunnel_transport::RelayUrl;

pub(crate) use bus::SessionBus;
pub(crate) use call::{Answer, Call, CallError, Way};
pub(crate) use claims::TokenTimes;
pub(crate) use credentials::{Credentials, Lease, Renewal, parse_token};
pub(crate) use endpoint::{Endpoint, EndpointError};
pub(crate) use handle::{ChangeError, TokenHandle};
pub(crate) use oauth::{Issued, issued};
pub(crate) use token::{Token, TokenError};
pub(crate) use vault::Vault;

use crate::config::Options;
use crate::tunnel::Settings;

/// Where a token may be.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// `--token-file`: where it is named, nothing else counts.
    pub(crate) token_file: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`.
    pub(crate) credentials_directory: Option<PathBuf>,
    /// For the encrypted file; `None` where nothing can be kept.
    pub(crate) state_dir: Option<PathBuf>,
    /// The keyring's.
    pub(crate) bus: SessionBus,
}

/// What a relay is called beside what is kept for it.
pub(crate) fn account_name(relay: &RelayUrl) -> String {
    account::Account::of(relay).to_string()
}

/// Orders that wait for the keeper. It is never busy for longer than a few operations of a keyring: a sender
/// waits for room.
const MAX_WAITING_ORDERS: usize = 4;

impl Places {
    pub(crate) fn of(options: &Options, state_dir: Option<PathBuf>) -> Self {
        Self {
            token_file: options.token_file.clone(),
            credentials_directory: options.var("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            state_dir,
            bus: SessionBus::of(options),
        }
    }

    fn source(self) -> keeper::Source {
        if let Some(path) = self.token_file {
            return keeper::Source::TokenFile(token_file::TokenFile::new(path));
        }
        keeper::Source::Stores(self.stores())
    }

    /// The places for the secrets of connections. The file that `--token-file` names is for the login alone.
    fn stores_of_connections(self) -> stores::Stores {
        self.stores()
    }

    fn stores(self) -> stores::Stores {
        let mut places: Vec<Box<dyn store::SecretStore>> =
            vec![Box::new(secret_service::Keyring::new(self.bus))];
        if let Some(directory) = self.credentials_directory {
            places.push(Box::new(credential::Credential::new(&directory)));
        }
        places.push(Box::new(file::SealedFiles::new(self.state_dir)));
        stores::Stores::new(places)
    }
}

/// Starts the keeper, one of `tasks`; it ends with `soft`, after a renewal that is under way.
pub(crate) fn start(
    places: Places,
    settings: watch::Receiver<Arc<Settings>>,
    soft: CancellationToken,
    tasks: &CriticalTasks,
) -> TokenHandle {
    let (orders, arriving) = mpsc::channel(MAX_WAITING_ORDERS);
    let (current_tx, current) = watch::channel(token::Current::looking());
    let nothing = AuthStatus { stored_in: StoredIn::None, ..AuthStatus::default() };
    let (status_tx, status) = watch::channel(nothing);
    let (warnings_tx, warnings) = watch::channel(Vec::new());
    let nudge = Arc::new(Notify::new());
    let handle = TokenHandle {
        orders,
        current,
        status,
        warnings,
        nudge: Arc::clone(&nudge),
        tracker: tasks.tracker().clone(),
        token_file: places.token_file.clone(),
    };
    let ears = keeper::Ears { orders: arriving, nudge, soft: soft.clone() };
    let outlets = keeper::Outlets { current: current_tx, status: status_tx, warnings: warnings_tx };
    let keeper = keeper::TokenKeeper::new(places.source(), settings, ears, outlets);
    tasks.spawn("token keeper", soft, keeper.run());
    handle
}
