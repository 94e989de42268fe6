//! The places in their order, and what each of them held when it was looked at last.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tracing::debug;
use tunnel_api::auth::StoredIn;
use tunnel_api::credential::StoredCredential;

use super::account::Account;
use super::credentials::Credentials;
use super::handle::ChangeError;
use super::store::{SecretStore, StoreError};

/// All places for a login, the best one first.
pub(super) struct Stores {
    slots: Vec<Slot>,
}

struct Slot {
    store: Box<dyn SecretStore>,
    held: Result<Option<Credentials>, Arc<StoreError>>,
}

/// Which places to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    All,
    /// Those that failed when they were looked at last.
    Failed,
    /// All but those that did not answer the last time, whatever they were asked for.
    Answering,
}

impl Stores {
    pub(super) fn new(stores: Vec<Box<dyn SecretStore>>) -> Self {
        Self { slots: stores.into_iter().map(|store| Slot { store, held: Ok(None) }).collect() }
    }

    /// Reads the login of `account` from the places. Loses nothing when dropped.
    pub(super) async fn look(&mut self, account: &Account, which: Which) {
        for slot in &mut self.slots {
            let silent = matches!(&slot.held, Err(error) if matches!(**error, StoreError::Timeout));
            let is_meant = match which {
                Which::All => true,
                Which::Failed => slot.held.is_err(),
                Which::Answering => !silent,
            };
            if is_meant {
                slot.held = slot.store.load(account).await.map_err(Arc::new);
            }
        }
    }

    /// Returns the login that counts: of keyring and file the newer one, since what could not be written to the
    /// keyring went to the file; the credential where the keyring has none.
    pub(super) fn found(&self) -> Option<(StoredIn, Credentials)> {
        let held = self.slots.iter().filter_map(|slot| {
            let login = slot.held.as_ref().ok()?.as_ref()?;
            Some((slot.store.place(), login))
        });
        let best = held.reduce(|best, other| {
            let given = [best.0, other.0].contains(&StoredIn::Credential);
            if !given && other.1.stored_at > best.1.stored_at { other } else { best }
        });
        best.map(|(place, login)| (place, login.clone()))
    }

    /// Stores a login in the best place that takes it, and takes older ones away from the others.
    pub(super) async fn save(
        &mut self,
        account: &Account,
        login: &Credentials,
    ) -> Result<StoredIn, ChangeError> {
        let mut reasons = Vec::new();
        let mut saved = None;
        for slot in &mut self.slots {
            if slot.store.place() == StoredIn::Credential {
                // What is stored below it would not count.
                match slot.held {
                    Ok(Some(_)) => return Err(ChangeError::Credential),
                    Ok(None) | Err(_) => continue,
                }
            }
            match slot.store.save(account, login).await {
                Ok(()) => {
                    slot.held = Ok(Some(login.clone()));
                    saved = Some(slot.store.place());
                    break;
                }
                Err(error) => {
                    reasons.push(crate::daemon::chain(&error));
                    slot.held = Err(Arc::new(error));
                }
            }
        }
        let saved =
            saved.ok_or_else(|| ChangeError::Stores { done: "stored", reasons: reasons.join("; ") })?;
        for slot in self.slots.iter_mut().filter(|slot| slot.store.place() != saved) {
            if !matches!(slot.held, Ok(Some(_))) || slot.store.place() == StoredIn::Credential {
                continue;
            }
            match slot.store.remove(account).await {
                Ok(()) => slot.held = Ok(None),
                // It is the older one, and does not count.
                Err(error) => debug!(%error, place = %slot.store.place(), "an old login stays behind"),
            }
        }
        Ok(saved)
    }

    /// Makes a login newer than the one that was found, also after the clock was set back.
    pub(super) fn date(&self, login: &mut Credentials) {
        if let Some((_, older)) = self.found() {
            login.stored_at = login.stored_at.max(older.stored_at.saturating_add(1));
        }
    }

    /// Like [`Stores::save`] for another account than the one that was looked at: what was found of that one stays.
    ///
    /// Must not be dropped halfway.
    pub(super) async fn save_aside(
        &mut self,
        account: &Account,
        mut login: Credentials,
    ) -> Result<StoredIn, ChangeError> {
        let found: Vec<_> =
            self.slots.iter_mut().map(|slot| std::mem::replace(&mut slot.held, Ok(None))).collect();
        self.look(account, Which::All).await;
        self.date(&mut login);
        let saved = self.save(account, &login).await;
        for (slot, held) in self.slots.iter_mut().zip(found) {
            slot.held = held;
        }
        saved
    }

    /// Takes the login away everywhere, or fails at the best place that may still have one.
    pub(super) async fn remove(&mut self, account: &Account) -> Result<(), ChangeError> {
        let given =
            |slot: &Slot| slot.store.place() == StoredIn::Credential && matches!(slot.held, Ok(Some(_)));
        if self.slots.iter().any(given) {
            return Err(ChangeError::Credential);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.store.place() != StoredIn::Credential) {
            match slot.store.remove(account).await {
                Ok(()) => {
                    if slot.held.is_ok() {
                        slot.held = Ok(None);
                    }
                }
                // Looked at again, in case it comes back with the login.
                Err(error) if error.is_absence() => slot.held = Err(Arc::new(error)),
                Err(error) => {
                    let reasons = format!("{}; {}", crate::daemon::chain(&error), error.next_step());
                    return Err(ChangeError::Stores { done: "removed", reasons });
                }
            }
        }
        Ok(())
    }

    /// The places that failed, the best one first.
    pub(super) fn failures(&self) -> impl Iterator<Item = &Arc<StoreError>> {
        self.slots.iter().filter_map(|slot| slot.held.as_ref().err())
    }

    /// The failures that leave it open whether there is a login.
    pub(super) fn troubles(&self) -> impl Iterator<Item = &StoreError> {
        self.failures().map(|error| &**error).filter(|error| !error.is_absence())
    }

    /// Why it is not known of each place whether it has a login; `None` where it is.
    ///
    /// Unlike [`Stores::troubles`] it counts a keyring that is not there: it may be there the next time.
    pub(super) fn doubt(&self) -> Option<String> {
        let holds_nothing =
            |error: &StoreError| matches!(error, StoreError::NoDirectory | StoreError::ReadOnly);
        let open = self.failures().filter(|error| !holds_nothing(error));
        let reasons: Vec<String> = open.map(|error| crate::daemon::chain(&**error)).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Lists the secrets of connections, by name, each with the best place that has it.
    pub(super) async fn connections(&self) -> Vec<StoredCredential> {
        let mut all: BTreeMap<String, StoredIn> = BTreeMap::new();
        for slot in &self.slots {
            for name in slot.store.connections().await {
                all.entry(name).or_insert_with(|| slot.store.place());
            }
        }
        let named = |(name, stored_in)| StoredCredential { name, stored_in, connections: Vec::new() };
        all.into_iter().map(named).collect()
    }

    /// Waits until a locked place is worth another look; `None` while none is locked.
    pub(super) fn recovered(&self) -> Option<BoxFuture<'static, ()>> {
        let locked =
            |slot: &&Slot| matches!(&slot.held, Err(error) if matches!(**error, StoreError::Locked { .. }));
        self.slots.iter().find(locked).map(|slot| slot.store.recovered())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use secrecy::ExposeSecret;
    use tunnel_transport::RelayUrl;

    use super::*;

    /// A place in memory that fails when told to.
    #[derive(Clone)]
    struct Shelf {
        place: StoredIn,
        login: Arc<Mutex<Option<Credentials>>>,
        locked: Arc<Mutex<bool>>,
    }

    impl Shelf {
        fn new(place: StoredIn) -> Self {
            Self { place, login: Arc::default(), locked: Arc::default() }
        }

        fn open<T>(&self, work: impl FnOnce(&mut Option<Credentials>) -> T) -> Result<T, StoreError> {
            match *self.locked.lock().unwrap() {
                true => Err(StoreError::Locked { holds_login: true }),
                false => Ok(work(&mut self.login.lock().unwrap())),
            }
        }

        fn put(&self, token: &str, stored_at: i64) {
            *self.login.lock().unwrap() = Some(login(token, stored_at));
        }

        fn token(&self) -> Option<String> {
            self.login.lock().unwrap().as_ref().map(|login| login.access_token.expose_secret().to_owned())
        }

        fn lock(&self, locked: bool) {
            *self.locked.lock().unwrap() = locked;
        }
    }

    impl SecretStore for Shelf {
        fn place(&self) -> StoredIn {
            self.place
        }

        fn load<'a>(&'a self, _: &'a Account) -> BoxFuture<'a, Result<Option<Credentials>, StoreError>> {
            Box::pin(async { self.open(|login| login.clone()) })
        }

        fn save<'a>(&'a self, _: &'a Account, new: &'a Credentials) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async { self.open(|login| *login = Some(new.clone())) })
        }

        fn remove<'a>(&'a self, _: &'a Account) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async { self.open(|login| *login = None) })
        }
    }

    fn login(token: &str, stored_at: i64) -> Credentials {
        Credentials::bare(token.to_owned().into(), stored_at)
    }

    fn account() -> Account {
        Account::of(&RelayUrl::parse("https://relay.example").unwrap())
    }

    struct Fixture {
        keyring: Shelf,
        credential: Shelf,
        file: Shelf,
        stores: Stores,
    }

    fn fixture() -> Fixture {
        let [keyring, credential, file] =
            [StoredIn::Keyring, StoredIn::Credential, StoredIn::File].map(Shelf::new);
        let boxed = |shelf: &Shelf| Box::new(shelf.clone()) as Box<dyn SecretStore>;
        let stores = Stores::new(vec![boxed(&keyring), boxed(&credential), boxed(&file)]);
        Fixture { keyring, credential, file, stores }
    }

    impl Fixture {
        async fn found(&mut self) -> Option<StoredIn> {
            self.stores.look(&account(), Which::All).await;
            self.stores.found().map(|(place, _)| place)
        }
    }

    #[tokio::test]
    async fn newer_login_counts_and_the_credential_stands_between() {
        let mut fixture = fixture();
        assert_eq!(fixture.found().await, None);
        fixture.file.put("file", 20);
        assert_eq!(fixture.found().await, Some(StoredIn::File));
        fixture.credential.put("credential", 0);
        assert_eq!(fixture.found().await, Some(StoredIn::Credential));
        fixture.keyring.put("keyring", 10);
        assert_eq!(fixture.found().await, Some(StoredIn::File), "stored while the keyring was locked");
        fixture.keyring.put("keyring", 20);
        assert_eq!(fixture.found().await, Some(StoredIn::Keyring));
    }

    #[tokio::test]
    async fn login_falls_through_to_the_file_and_leaves_one_copy() {
        let mut fixture = fixture();
        fixture.keyring.lock(true);
        let saved = fixture.stores.save(&account(), &login("one", 1)).await;
        assert_eq!(saved.unwrap(), StoredIn::File);
        fixture.keyring.lock(false);
        assert_eq!(fixture.stores.save(&account(), &login("two", 2)).await.unwrap(), StoredIn::Keyring);
        assert_eq!((fixture.keyring.token().as_deref(), fixture.file.token()), (Some("two"), None));
    }

    #[tokio::test]
    async fn login_is_not_stored_where_it_would_not_count() {
        let mut fixture = fixture();
        fixture.credential.put("credential", 0);
        fixture.keyring.lock(true);
        fixture.stores.look(&account(), Which::All).await;
        let refused = fixture.stores.save(&account(), &login("one", 1)).await;
        assert!(matches!(refused, Err(ChangeError::Credential)));
        assert!(matches!(fixture.stores.remove(&account()).await, Err(ChangeError::Credential)));
        assert_eq!(fixture.file.token(), None);
    }

    #[tokio::test]
    async fn login_in_a_locked_place_is_not_said_to_be_removed() {
        let mut fixture = fixture();
        fixture.keyring.put("keyring", 1);
        fixture.file.put("file", 1);
        fixture.keyring.lock(true);
        let refused = fixture.stores.remove(&account()).await.unwrap_err();
        assert!(
            refused.to_string().contains("locked") && refused.to_string().contains("unlock"),
            "{refused}"
        );
        assert!(fixture.file.token().is_some());
        fixture.keyring.lock(false);
        fixture.stores.remove(&account()).await.unwrap();
        assert_eq!((fixture.keyring.token(), fixture.file.token()), (None, None));
    }

    #[tokio::test]
    async fn only_what_failed_is_looked_at_again() {
        let mut fixture = fixture();
        fixture.keyring.lock(true);
        assert_eq!(fixture.found().await, None);
        assert_eq!(fixture.stores.failures().count(), 1);
        fixture.keyring.lock(false);
        fixture.keyring.put("keyring", 1);
        fixture.file.put("file", 2);
        fixture.stores.look(&account(), Which::Failed).await;
        assert_eq!(fixture.stores.found().unwrap().0, StoredIn::Keyring);
        assert_eq!(fixture.stores.failures().count(), 0);
    }
}
