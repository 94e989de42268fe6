//! The desktop's keyring: the Secret Service, over the session bus.
//!
//! Each operation opens a connection, does its work within [`LIMIT`] and drops the connection: a bus that hangs
//! costs one wait and is not kept, and an idle daemon is not woken by what happens on the bus.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::SelectAll;
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use secret_service::{EncryptionType, Error, SecretService};
use tokio::time::timeout;
use tracing::debug;
use tunnel_api::auth::StoredIn;
use zbus::{MatchRule, MessageStream, fdo};

use super::account::Account;
use super::bus::SessionBus;
use super::credentials::Credentials;
use super::store::{SecretStore, StoreError};

/// Longest time for one operation as a whole: connecting, agreeing on a session key, all questions and answers.
pub(super) const LIMIT: Duration = Duration::from_secs(3);

const APPLICATION: &str = "cloudtolocalllm";
const CONTENT_TYPE: &str = "application/json";
const BUS_NAME: &str = "org.freedesktop.secrets";
const COLLECTION: &str = "org.freedesktop.Secret.Collection";
/// All objects of the keyring are below it.
const ROOT: &str = "/org/freedesktop/secrets";
/// Signals that wait to be looked at. One is enough to look again; the bus connection waits while there are more.
const MAX_SIGNALS: usize = 4;

/// The keyring on one bus.
#[derive(Debug)]
pub(super) struct Keyring {
    bus: SessionBus,
}

impl Keyring {
    pub(super) fn new(bus: SessionBus) -> Self {
        Self { bus }
    }

    async fn connect(&self) -> Result<SecretService<'static>, StoreError> {
        let connection = connect(&self.bus).await?;
        // Encrypted on its way, so that neither the bus nor those who watch it see the secret.
        SecretService::connect_with_existing(EncryptionType::Dh, connection).await.map_err(failed)
    }

    async fn load(&self, account: &Account) -> Result<Option<Credentials>, StoreError> {
        let service = self.connect().await?;
        let found = service.search_items(attributes(account)).await.map_err(failed)?;
        let mut newest: Option<Credentials> = None;
        // One, unless somebody has copied it to another keyring.
        for item in &found.unlocked {
            let secret = Zeroizing::new(item.get_secret().await.map_err(failed)?);
            let entry = Credentials::from_json(&secret).ok_or(StoreError::ForeignEntry)?;
            if newest.as_ref().is_none_or(|newest| newest.stored_at < entry.stored_at) {
                newest = Some(entry);
            }
        }
        if newest.is_some() {
            return Ok(newest);
        }
        if !found.locked.is_empty() {
            return Err(StoreError::Locked { holds_login: true });
        }
        // Not every keyring tells what is in it while it is locked.
        match service.get_default_collection().await {
            Ok(collection) if collection.is_locked().await.map_err(failed)? => {
                Err(StoreError::Locked { holds_login: false })
            }
            Ok(_) | Err(Error::NoResult) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    async fn save(&self, account: &Account, credentials: &Credentials) -> Result<(), StoreError> {
        let service = self.connect().await?;
        let collection = service.get_default_collection().await.map_err(failed)?;
        if collection.is_locked().await.map_err(failed)? {
            return Err(StoreError::Locked { holds_login: false });
        }
        let label = match account.connection_name() {
            Some(name) => format!("CloudToLocalLLM: secret {name} of a connection"),
            None => format!("CloudToLocalLLM: login at {account}"),
        };
        let secret = credentials.to_json();
        collection
            .create_item(&label, attributes(account), secret.expose_secret(), true, CONTENT_TYPE)
            .await
            .map_err(failed)?;
        Ok(())
    }

    async fn remove(&self, account: &Account) -> Result<(), StoreError> {
        let service = self.connect().await?;
        let found = service.search_items(attributes(account)).await.map_err(failed)?;
        if !found.locked.is_empty() {
            return Err(StoreError::Locked { holds_login: true });
        }
        for item in &found.unlocked {
            item.delete().await.map_err(failed)?;
        }
        Ok(())
    }
}

impl Keyring {
    async fn names_of_connections(&self) -> Result<Vec<String>, StoreError> {
        let service = self.connect().await?;
        let found =
            service.search_items(HashMap::from([("application", APPLICATION)])).await.map_err(failed)?;
        let mut names = Vec::new();
        for item in found.unlocked.iter().chain(&found.locked) {
            let attributes = item.get_attributes().await.map_err(failed)?;
            let name = attributes.get("account").and_then(|account| Account::read_connection(account));
            names.extend(name.map(str::to_owned));
        }
        Ok(names)
    }
}

impl SecretStore for Keyring {
    fn place(&self) -> StoredIn {
        StoredIn::Keyring
    }

    fn load<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Result<Option<Credentials>, StoreError>> {
        Box::pin(limited(self.load(account)))
    }

    fn save<'a>(
        &'a self,
        account: &'a Account,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(limited(self.save(account, credentials)))
    }

    fn remove<'a>(&'a self, account: &'a Account) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(limited(self.remove(account)))
    }

    fn connections(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async { limited(self.names_of_connections()).await.unwrap_or_default() })
    }

    /// Holds a connection while it waits.
    fn recovered(&self) -> BoxFuture<'static, ()> {
        let bus = self.bus.clone();
        Box::pin(async move {
            // There may be nothing to hear from; who waits has a time of its own to look again.
            let Ok(mut signals) = limited(watch(&bus)).await else { return std::future::pending().await };
            if signals.next().await.is_none() {
                // The bus is gone, and with it the keyring.
                std::future::pending::<()>().await;
            }
        })
    }
}

/// Listens for a collection that is locked or unlocked, and for a keyring that starts.
async fn watch(bus: &SessionBus) -> Result<SelectAll<MessageStream>, StoreError> {
    let connection = connect(bus).await?;
    let signal = || MatchRule::builder().msg_type(zbus::message::Type::Signal);
    let changed = signal()
        .interface("org.freedesktop.DBus.Properties")
        .and_then(|rule| rule.member("PropertiesChanged"))
        .and_then(|rule| rule.path_namespace(ROOT))
        .and_then(|rule| rule.arg(0, COLLECTION))
        .map_err(of_zbus)?;
    let started = signal()
        .sender("org.freedesktop.DBus")
        .and_then(|rule| rule.member("NameOwnerChanged"))
        .and_then(|rule| rule.arg(0, BUS_NAME))
        .map_err(of_zbus)?;
    let mut signals = SelectAll::new();
    for rule in [changed, started] {
        let stream = MessageStream::for_match_rule(rule.build(), &connection, Some(MAX_SIGNALS)).await;
        signals.push(stream.map_err(of_zbus)?);
    }
    Ok(signals)
}

async fn connect(bus: &SessionBus) -> Result<zbus::Connection, StoreError> {
    let address = bus.address().ok_or(StoreError::Absent("there is no session bus"))?;
    let builder = zbus::connection::Builder::address(address.as_str()).map_err(of_zbus)?;
    builder.method_timeout(LIMIT).build().await.map_err(of_zbus)
}

async fn limited<T>(operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(LIMIT, operation).await.unwrap_or(Err(StoreError::Timeout))
}

fn attributes(account: &Account) -> HashMap<&str, &str> {
    HashMap::from([("application", APPLICATION), ("account", account.as_str())])
}

/// Says what an error means. Only names of errors are taken from the bus: its texts are not ours to vouch for.
fn failed(error: Error) -> StoreError {
    match error {
        Error::Zbus(error) => of_zbus(error),
        Error::ZbusFdo(error) => of_fdo(error),
        Error::Locked | Error::Prompt | Error::PromptDisconnected => {
            StoreError::Locked { holds_login: false }
        }
        Error::NoResult => StoreError::Absent("it has no default keyring yet"),
        Error::Unavailable => StoreError::Absent("the session bus cannot be reached"),
        Error::Crypto(what) => StoreError::Keyring(what.to_owned()),
        Error::Zvariant(_) => unexpected("an answer of another shape"),
        error => {
            debug!(%error, "unknown error of the keyring");
            unexpected("an unknown error")
        }
    }
}

fn unexpected(what: &str) -> StoreError {
    StoreError::Keyring(what.to_owned())
}

fn of_fdo(error: fdo::Error) -> StoreError {
    match error {
        fdo::Error::ZBus(error) => of_zbus(error),
        fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_) => NO_PROVIDER,
        fdo::Error::NoReply(_) | fdo::Error::TimedOut(_) | fdo::Error::Timeout(_) => StoreError::Timeout,
        error => StoreError::Keyring(zbus::DBusError::name(&error).to_string()),
    }
}

const NO_PROVIDER: StoreError = StoreError::Absent("no program on the session bus provides one");

fn of_zbus(error: zbus::Error) -> StoreError {
    match error {
        zbus::Error::Address(_) => StoreError::Absent("the address of the session bus is not one"),
        zbus::Error::Connection(..) => StoreError::Absent("the session bus cannot be reached"),
        zbus::Error::InputOutput(error) if error.kind() == io::ErrorKind::TimedOut => StoreError::Timeout,
        zbus::Error::InputOutput(_) => StoreError::Absent("the session bus has hung up"),
        zbus::Error::Handshake(_) => StoreError::Absent("the session bus does not let us in"),
        zbus::Error::FDO(error) => of_fdo(*error),
        zbus::Error::MethodError(name, _, _) => match name.as_str() {
            "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner" => {
                NO_PROVIDER
            }
            "org.freedesktop.DBus.Error.NoReply" | "org.freedesktop.DBus.Error.TimedOut" => {
                StoreError::Timeout
            }
            "org.freedesktop.Secret.Error.IsLocked" => StoreError::Locked { holds_login: true },
            // It is installed and does not start.
            spawn if spawn.starts_with("org.freedesktop.DBus.Error.Spawn") => {
                StoreError::Absent("the program that provides one does not start")
            }
            name => StoreError::Keyring(name.to_owned()),
        },
        _ => unexpected("an answer that makes no sense"),
    }
}

#[cfg(test)]
mod tests;
