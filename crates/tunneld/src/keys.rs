//! Keys for apps: narrower tokens, which the relay makes for one who is logged in.
//!
//! The daemon asks the relay with its own token, hands the key on to the one who asked, and keeps what it allows, so
//! that it can be listed and revoked. The key itself is kept nowhere.

mod book;
mod error;
mod relay;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::info;
use tunnel_api::{Key, KeyRequest, NewKey};
use tunnel_transport::RelayUrl;

use self::book::KeyBook;
pub(crate) use self::error::KeyError;
use self::relay::KeyOffice;
use crate::secrets::{TokenHandle, Way};
use crate::store::RecorderHandle;
use crate::tunnel::Settings;

/// Makes, lists and revokes keys; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: watch::Receiver<Arc<Settings>>,
    token: TokenHandle,
    record: RecorderHandle,
    book: Mutex<KeyBook>,
    /// Waits for what was begun, whether or not the one who asked for it does: a key that was made and is not written
    /// down could not be revoked from here.
    tracker: TaskTracker,
}

impl Keys {
    /// Goes on with the keys that an earlier run wrote down.
    pub(crate) fn new(
        former: Vec<Key>,
        settings: watch::Receiver<Arc<Settings>>,
        token: TokenHandle,
        record: RecorderHandle,
        tracker: TaskTracker,
    ) -> Self {
        let book = Mutex::new(KeyBook::new(former));
        Self { shared: Arc::new(Shared { settings, token, record, book, tracker }) }
    }

    /// Returns the keys that were made from this machine, the newest first.
    pub(crate) fn list(&self) -> Vec<Key> {
        self.shared.book().newest_first()
    }

    /// Has the relay make one.
    pub(crate) async fn create(&self, request: KeyRequest) -> Result<NewKey, KeyError> {
        relay::check(&request)?;
        let shared = Arc::clone(&self.shared);
        self.carry_out(async move { shared.create(request).await }).await
    }

    /// Has the relay take one back. It need not have been made here.
    pub(crate) async fn revoke(&self, id: String) -> Result<Key, KeyError> {
        if !relay::is_id(&id) {
            return Err(KeyError::Unknown);
        }
        let shared = Arc::clone(&self.shared);
        self.carry_out(async move { shared.revoke(id).await }).await
    }

    /// Carries on when the one who asked has gone.
    async fn carry_out<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, KeyError>> + Send + 'static,
    ) -> Result<T, KeyError> {
        match self.shared.tracker.spawn(work).await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => Err(KeyError::ShuttingDown),
            },
        }
    }
}

impl Shared {
    async fn create(&self, request: KeyRequest) -> Result<NewKey, KeyError> {
        let office = self.office()?;
        if !self.book().has_room(Timestamp::now()) {
            return Err(KeyError::TooMany);
        }
        let new = office.create(request).await?;
        info!(key = new.key.id, "key made");
        self.change(|book| book.add(new.key.clone(), Timestamp::now()));
        Ok(new)
    }

    async fn revoke(&self, id: String) -> Result<Key, KeyError> {
        let office = self.office()?;
        let relay = office.name();
        let known = self.book().find(&relay, &id).cloned();
        if known.is_none()
            && let Some(other) = self.book().relay_of(&id)
        {
            return Err(KeyError::OtherRelay { relay: other.to_owned() });
        }
        office.revoke(&id).await.map_err(|error| match error {
            // It is on the list, which the usual words would send its user to.
            KeyError::Unknown if known.is_some() => KeyError::NotTheirs { relay: relay.clone() },
            error => error,
        })?;
        info!(key = id, "key revoked");
        let now = Timestamp::now();
        self.change(|book| book.revoked(&relay, &id, now));
        Ok(Key { revoked_at: Some(now), ..known.unwrap_or_else(|| Key { id, relay, ..Key::default() }) })
    }

    fn office(&self) -> Result<KeyOffice, KeyError> {
        let settings = Arc::clone(&self.settings.borrow());
        if !settings.enabled {
            return Err(KeyError::SwitchedOff);
        }
        let relay: &RelayUrl = &settings.relay;
        let token = self.token.current(relay).map_err(|_| KeyError::NoToken)?;
        Ok(KeyOffice::new(relay, token.secret, Way::of(&settings)))
    }

    fn change(&self, change: impl FnOnce(&mut KeyBook)) {
        let keys = {
            let mut book = self.book();
            change(&mut book);
            book.all()
        };
        self.record.keys(keys);
    }

    fn book(&self) -> MutexGuard<'_, KeyBook> {
        // No code that holds it can panic half-way.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
