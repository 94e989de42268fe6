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
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;
use tunnel_api::{Key, KeyReach, KeyRequest, NewKey};
use tunnel_broker::Broker;
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
    /// Where what runs with a key that ends is cut, also for callers that do not read.
    broker: Broker,
    /// Told when there are other keys than before.
    changed: Notify,
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
        broker: Broker,
        tracker: TaskTracker,
    ) -> Self {
        let ring = KeyRing::default();
        ring.replace(&former, Instant::now());
        let book = Mutex::new(KeyBook::new(former));
        let changed = Notify::new();
        Self { shared: Arc::new(Shared { settings, token, record, book, ring, broker, changed, tracker }) }
    }

    /// What requests are held against.
    pub(crate) fn ring(&self) -> KeyRing {
        self.shared.ring.clone()
    }

    /// Ends what runs with keys whose time is over, and writes down, once a minute at most, when keys were last used; until
    /// `soft` ends.
    pub(crate) async fn keep(self, soft: CancellationToken) {
        let mut note_at = Instant::now() + Self::NOTE_USE;
        while soft.run_until_cancelled(self.shared.wait_until(note_at)).await.is_some() {
            self.shared.end_expired();
            if Instant::now() >= note_at {
                self.shared.write_use();
                note_at = Instant::now() + Self::NOTE_USE;
            }
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
        let shared = Arc::clone(&self.shared);
        match request.reach {
            KeyReach::Remote => {
                relay::check_remote(&request)?;
                self.carry_out(async move { shared.create(request).await }).await
            }
            KeyReach::Local => {
                local::check(&request)?;
                shared.create_local(request).await
            }
            KeyReach::Unknown => Err(KeyError::Unusable { field: "reach", rule: "remote or local" }),
        }
    }

    /// Makes one void, or has the relay do so; a remote one need not have been made here. What runs with it ends.
    ///
    /// Of a whole key its id is taken: the rest of it must not go to the relay.
    pub(crate) async fn revoke(&self, id: &str) -> Result<Key, KeyError> {
        let shared = Arc::clone(&self.shared);
        if let Some(id) = tunnel_api::local_key_id(id) {
            return shared.revoke_local(id).await;
        }
        let id = Some(id).filter(|id| relay::is_id(id)).ok_or(KeyError::Unknown)?.to_owned();
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
        let now = Timestamp::now();
        if !self.book().has_room(now) || !self.book().has_room_for_local(now) {
            return Err(KeyError::TooMany);
        }
        let (stored, new) = local::make(request, now)?;
        let written = self.change(|book| book.add(stored, now));
        let undelivered = Undelivered { shared: self, id: &new.key.id };
        if !written.in_time().await {
            return Err(KeyError::NotMade);
        }
        std::mem::forget(undelivered);
        info!(key = new.key.id, "local key made");
        Ok(new)
    }

    /// The key is void at once, with what runs with it, before anything is waited for; to be void after a restart, too, it has to be written down.
    async fn revoke_local(&self, id: &str) -> Result<Key, KeyError> {
        let now = Timestamp::now();
        self.book().find("", id).ok_or(KeyError::Unknown)?;
        let written = self.change(|book| book.revoked("", id, now));
        self.broker.cancel_caller(id);
        info!(key = id, "local key revoked");
        let key = self.book().find("", id).cloned().ok_or(KeyError::Unknown)?;
        if written.in_time().await { Ok(key) } else { Err(KeyError::NotWritten) }
    }

    /// Waits until then, until the next key is over, or until there are other keys.
    async fn wait_until(&self, then: Instant) {
        let next_end = self.ring.next_end().map(|end| Timestamp::now().duration_until(end));
        // One that is over by now is none to wait for, and none to wait for twice.
        let until_end = next_end.map(|left| Duration::try_from(left).unwrap_or_default());
        let until_end =
            until_end.map(|left| Instant::now() + left.min(Keys::NOTE_USE) + Duration::from_millis(1));
        let until = until_end.map_or(then, |end| end.min(then));
        tokio::select! {
            () = self.changed.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    fn end_expired(&self) {
        for key in self.ring.end_expired(Timestamp::now()) {
            info!(key = &*key.0, "key is over");
            self.broker.cancel_caller(&key.0);
        }
    }

    /// Takes back a local key that nobody has got.
    fn forget(&self, id: &str) {
        self.change(|book| book.forget("", id));
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
        self.broker.cancel_caller(&id);
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
        self.changed.notify_one();
        self.record.keys(keys)
    }

    fn book(&self) -> MutexGuard<'_, KeyBook> {
        // No code that holds it can panic half-way.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A local key on its way to the one who asked for it. Dropped on that way, because it could not be written down or because
/// who asked has gone, it is forgotten: it would hold with a secret that nobody has.
struct Undelivered<'a> {
    shared: &'a Shared,
    id: &'a str,
}

impl Drop for Undelivered<'_> {
    fn drop(&mut self) {
        self.shared.forget(self.id);
    }
}
