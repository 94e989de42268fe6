//! Keys for apps: narrower tokens that the relay makes for one who is logged in, and local ones, made here for callers of
//! the gateway that are not this user's own programs.
//!
//! For a remote key the daemon asks the relay with its own token and hands the key on to the one who asked. Of either
//! kind it keeps what it allows, so that it can be listed and revoked; the key itself is kept nowhere, and of a local
//! one a hash. Requests are held against the [`KeyRing`].

mod admitted;
mod book;
mod error;
mod failures;
mod limits;
mod local;
mod refusal;
mod relay;
mod ring;
mod shown;
mod token;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;
use tunnel_api::{Key, KeyReach, KeyRequest, NewKey};
use tunnel_transport::RelayUrl;

pub(crate) use self::admitted::{Admitted, KeyedBody};
use self::book::KeyBook;
pub(crate) use self::error::KeyError;
pub(crate) use self::failures::Failures;
pub(crate) use self::refusal::KeyRefusal;
use self::relay::KeyOffice;
pub(crate) use self::relay::is_id as is_key_id;
pub(crate) use self::ring::{BadKey, KeyInUse, KeyRing};
pub(crate) use self::shown::{is_local_key, shown};
pub(crate) use self::token::SecretHash;
use crate::secrets::{TokenHandle, Way};
use crate::store::{RecorderHandle, StoredKey, Written};
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
    ring: KeyRing,
    /// Waits for what was begun, whether or not the one who asked for it does: a key that was made and is not written
    /// down could not be revoked from here.
    tracker: TaskTracker,
}

impl Keys {
    /// How often it is written down when keys were last used.
    const NOTE_USE: Duration = Duration::from_secs(60);

    /// Goes on with the keys that an earlier run wrote down.
    pub(crate) fn new(
        former: Vec<StoredKey>,
        settings: watch::Receiver<Arc<Settings>>,
        token: TokenHandle,
        record: RecorderHandle,
        tracker: TaskTracker,
    ) -> Self {
        let ring = KeyRing::default();
        ring.replace(&former, Instant::now());
        let book = Mutex::new(KeyBook::new(former));
        Self { shared: Arc::new(Shared { settings, token, record, book, ring, tracker }) }
    }

    /// What requests are held against.
    pub(crate) fn ring(&self) -> KeyRing {
        self.shared.ring.clone()
    }

    /// Writes down, once a minute at most, when keys were last used; until `soft` ends.
    pub(crate) async fn keep_use(self, soft: CancellationToken) {
        while soft.run_until_cancelled(tokio::time::sleep(Self::NOTE_USE)).await.is_some() {
            self.shared.write_use();
        }
        self.shared.write_use();
    }

    /// Returns the keys that were made from this machine, the newest first.
    pub(crate) fn list(&self) -> Vec<Key> {
        let mut keys = self.shared.book().newest_first();
        for key in &mut keys {
            self.shared.ring.note_use(key);
        }
        keys
    }

    /// Makes one, or has the relay make it.
    pub(crate) async fn create(&self, request: KeyRequest) -> Result<NewKey, KeyError> {
        relay::check(&request)?;
        match request.reach {
            KeyReach::Remote => relay::check_remote(&request)?,
            KeyReach::Local => return self.shared.create_local(request).await,
            KeyReach::Unknown => {
                return Err(KeyError::Unusable { field: "reach", rule: "remote or local" });
            }
        }
        let shared = Arc::clone(&self.shared);
        self.carry_out(async move { shared.create(request).await }).await
    }

    /// Makes one void, or has the relay do so; a remote one need not have been made here. What runs with it ends.
    pub(crate) async fn revoke(&self, id: String) -> Result<Key, KeyError> {
        if !relay::is_id(&id) {
            return Err(KeyError::Unknown);
        }
        if let Some(revoked) = self.shared.revoke_local(&id).await {
            return revoked;
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
        let limits = request.limits;
        let mut new = office.create(request).await?;
        new.key.limits = limits.into();
        info!(key = new.key.id, "key made");
        let stored = StoredKey { key: new.key.clone(), hash: None };
        self.change(|book| book.add(stored, Timestamp::now()));
        Ok(new)
    }

    async fn create_local(&self, request: KeyRequest) -> Result<NewKey, KeyError> {
        local::check(&request)?;
        let now = Timestamp::now();
        if !self.book().has_room(now) || !self.book().has_room_for_local(now) {
            return Err(KeyError::TooMany);
        }
        let (stored, new) = local::make(request, now)?;
        let written = self.change(|book| book.add(stored, now));
        if !written.in_time().await {
            // Nobody has it yet; it must not come up later as one that holds.
            self.change(|book| book.revoked("", &new.key.id, now));
            return Err(KeyError::NotMade);
        }
        info!(key = new.key.id, "local key made");
        Ok(new)
    }

    /// Returns none when there is no local key of this id. It is void at once; to be void after a restart, too, it has to
    /// be written down.
    async fn revoke_local(&self, id: &str) -> Option<Result<Key, KeyError>> {
        self.book().find("", id)?;
        let now = Timestamp::now();
        let written = self.change(|book| book.revoked("", id, now));
        info!(key = id, "local key revoked");
        let key = self.book().find("", id).cloned()?;
        Some(if written.in_time().await { Ok(key) } else { Err(KeyError::NotWritten) })
    }

    fn write_use(&self) {
        let news = self.book().all_mut().fold(false, |news, key| self.ring.note_use(key) | news);
        if news {
            self.change(|_| {});
        }
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

    fn change(&self, change: impl FnOnce(&mut KeyBook)) -> Written {
        let keys = {
            let mut book = self.book();
            change(&mut book);
            book.all()
        };
        self.ring.replace(&keys, Instant::now());
        self.record.keys(keys)
    }

    fn book(&self) -> MutexGuard<'_, KeyBook> {
        // No code that holds it can panic half-way.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
