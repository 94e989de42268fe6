//! The secrets of connections: each has a name, is kept where the login is kept, and is handed to the broker.
//!
//! One task, the vault keeper, owns them. Nobody waits for it: a connection whose secret has not been looked for yet is
//! not asked anything until it has been.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use tunnel_api::Config;
use tunnel_api::auth::StoredIn;
use tunnel_api::credential::StoredCredential;
use tunnel_broker::{BrokerConfig, Credential};
use tunnel_runtime::CriticalTasks;

use super::account::Account;
use super::credentials::{Credentials, parse_token};
use super::handle::ChangeError;
use super::stores::{Stores, Which};
use super::{MAX_WAITING_ORDERS, Places};
use crate::daemon::chain;

/// How often a place that failed is looked at again while a secret is missing: a keyring may have been unlocked.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// More names than anybody has connections are not kept in mind; further ones are never found.
const MOST_NAMES: usize = 1000;

/// Reads and changes the secrets of connections; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Vault {
    orders: mpsc::Sender<Order>,
    slots: Slots,
}

/// What the broker was given, by name.
type Slots = Arc<Mutex<BTreeMap<String, Credential>>>;

enum Order {
    /// There are names that nobody has looked for yet.
    Look,
    Store {
        name: String,
        secret: SecretString,
        answer: oneshot::Sender<Result<StoredIn, ChangeError>>,
    },
    Remove {
        name: String,
        answer: oneshot::Sender<Result<bool, ChangeError>>,
    },
    List(oneshot::Sender<Vec<StoredCredential>>),
}

impl Vault {
    /// Starts the keeper, one of `tasks`; it ends with `soft`.
    pub(crate) fn start(places: Places, soft: CancellationToken, tasks: &CriticalTasks) -> Self {
        let (orders, arriving) = mpsc::channel(MAX_WAITING_ORDERS);
        let slots = Slots::default();
        let keeper = Keeper {
            stores: places.stores_of_connections(),
            slots: Arc::clone(&slots),
            arriving,
            uncertain: BTreeSet::new(),
            round: VecDeque::new(),
        };
        tasks.spawn("vault keeper", soft.clone(), async move {
            soft.run_until_cancelled(keeper.run()).await;
        });
        Self { orders, slots }
    }

    /// One that nobody keeps: it finds nothing and takes nothing.
    #[cfg(test)]
    pub(crate) fn of_nothing() -> Self {
        Self { orders: mpsc::channel(1).0, slots: Slots::default() }
    }

    /// Gives the broker the secrets that the configuration names.
    pub(crate) fn equip(&self, config: &Config, broker: &mut BrokerConfig) {
        let mut fresh = false;
        for connection in &config.connections {
            let Some(name) = &connection.credential else { continue };
            let Some(backend) = broker.backends.iter_mut().find(|backend| backend.id == connection.id) else {
                continue;
            };
            let mut slots = lock(&self.slots);
            let credential = match slots.get(name) {
                Some(known) => known.clone(),
                None => {
                    let credential = Credential::new(name.clone());
                    if slots.len() < MOST_NAMES {
                        fresh = true;
                        slots.insert(name.clone(), credential.clone());
                    } else {
                        credential.missing("too many names of secrets in one run");
                    }
                    credential
                }
            };
            backend.credential = Some(credential);
        }
        if fresh {
            // After each order of a queue that is full the keeper looks as well.
            drop(self.orders.try_send(Order::Look));
        }
    }

    /// Keeps a secret, in place of the one of this name, and puts it in force. Returns where it is kept.
    pub(crate) async fn store(&self, name: &str, secret: &str) -> Result<StoredIn, ChangeError> {
        let secret = parse_token(secret.into()).ok_or(ChangeError::NotAToken)?;
        self.ask(|answer| Order::Store { name: name.to_owned(), secret, answer }).await?
    }

    /// Forgets a secret; tells whether there was one.
    pub(crate) async fn remove(&self, name: &str) -> Result<bool, ChangeError> {
        self.ask(|answer| Order::Remove { name: name.to_owned(), answer }).await?
    }

    /// Returns the names of the secrets that are kept, and where.
    pub(crate) async fn list(&self) -> Result<Vec<StoredCredential>, ChangeError> {
        self.ask(Order::List).await
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, ChangeError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| ChangeError::ShuttingDown)?;
        answered.await.map_err(|_| ChangeError::ShuttingDown)
    }
}

struct Keeper {
    stores: Stores,
    slots: Slots,
    arriving: mpsc::Receiver<Order>,
    /// Names that were not found, where a place may have them that could not be read or was not there yet.
    uncertain: BTreeSet<String>,
    /// What is still to be looked for.
    round: VecDeque<Credential>,
}

impl Keeper {
    async fn run(mut self) {
        let mut again: Option<Instant> = None;
        // A place that was silent is not asked for each name of a round.
        let mut which = Which::All;
        loop {
            let due = again.unwrap_or_else(|| Instant::now() + LOOK_AGAIN);
            tokio::select! {
                // Between two names, so that whoever orders something waits for one look at the most.
                biased;
                order = self.arriving.recv() => match order {
                    Some(order) => {
                        self.obey(order).await;
                        // A full queue takes no `Look`; what is in it does as well.
                        self.begin_round(false);
                    }
                    None => return,
                },
                () = std::future::ready(()), if !self.round.is_empty() => {
                    if let Some(credential) = self.round.pop_front() {
                        self.find(&credential, which).await;
                    }
                    which = if self.round.is_empty() { Which::All } else { Which::Answering };
                }
                () = tokio::time::sleep_until(due), if again.is_some() => {
                    again = None;
                    self.begin_round(true);
                }
            }
            // Orders do not put it off.
            let next = || again.unwrap_or_else(|| Instant::now() + LOOK_AGAIN);
            again = self.is_any_uncertain().then(next);
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            // As after each order.
            Order::Look => {}
            Order::Store { name, secret, answer } => {
                let stored = self.store(&name, secret).await;
                // Who asked may be gone; what was stored counts all the same.
                drop(answer.send(stored));
            }
            Order::Remove { name, answer } => {
                let removed = self.remove(&name).await;
                drop(answer.send(removed));
            }
            Order::List(answer) => {
                let list = self.stores.connections().await;
                drop(answer.send(list));
            }
        }
    }

    /// Lines up the secrets that nobody has looked for yet; `all`: also those that may have come up since.
    fn begin_round(&mut self, all: bool) {
        let slots = lock(&self.slots);
        for slot in slots.values() {
            let may_be_there = all && !slot.is_known() && self.uncertain.contains(slot.name());
            if (slot.is_awaited() || may_be_there) && !self.round.contains(slot) {
                self.round.push_back(slot.clone());
            }
        }
    }

    async fn find(&mut self, credential: &Credential, which: Which) {
        let name = credential.name();
        self.stores.look(&Account::connection(name), which).await;
        self.uncertain.remove(name);
        match self.stores.found() {
            Some((place, login)) => {
                debug!(secret = name, %place, "secret of a connection found");
                if credential.set(login.access_token.expose_secret()).is_err() {
                    credential.missing(format!("the secret {name} cannot be sent as it is kept"));
                }
            }
            None => {
                // Also where a place is absent: a session's keyring comes up after its daemon.
                if self.stores.failures().next().is_some() {
                    self.uncertain.insert(name.to_owned());
                }
                let failed: Vec<String> = self.stores.troubles().map(|error| chain(error)).collect();
                credential.missing(if failed.is_empty() {
                    format!("no secret named {name}")
                } else {
                    format!("no secret named {name} can be read: {}", failed.join("; "))
                });
            }
        }
    }

    async fn store(&mut self, name: &str, secret: SecretString) -> Result<StoredIn, ChangeError> {
        let account = Account::connection(name);
        let mut entry = Credentials::bare(secret, Timestamp::now().as_second());
        self.stores.look(&account, Which::All).await;
        self.stores.date(&mut entry);
        let place = self.stores.save(&account, &entry).await.map_err(|error| named(error, name))?;
        if let Some(credential) = lock(&self.slots).get(name)
            && credential.set(entry.access_token.expose_secret()).is_err()
        {
            // Cannot be: it has been parsed as a token.
            warn!(secret = name, "the secret cannot be sent");
        }
        Ok(place)
    }

    async fn remove(&mut self, name: &str) -> Result<bool, ChangeError> {
        let account = Account::connection(name);
        self.stores.look(&account, Which::All).await;
        let there = self.stores.found().is_some();
        self.stores.remove(&account).await.map_err(|error| named(error, name))?;
        if !there && let Some(reasons) = self.stores.doubt() {
            // What was read before its place went away is not sent any more either way.
            if let Some(credential) = lock(&self.slots).get(name) {
                credential.missing(format!("no secret named {name}"));
            }
            // Not just "there is none": it would be sent again once its place is back.
            let absent = self.stores.troubles().next().is_none();
            return Err(match absent {
                true => ChangeError::NotHere { reasons },
                false => ChangeError::Unseen { reasons },
            });
        }
        if let Some(credential) = lock(&self.slots).get(name) {
            credential.missing(format!("no secret named {name}"));
        }
        self.uncertain.remove(name);
        Ok(there)
    }

    /// Tells whether a secret is missing that a place may have.
    fn is_any_uncertain(&self) -> bool {
        let slots = lock(&self.slots);
        self.uncertain.iter().any(|name| slots.get(name).is_some_and(|slot| !slot.is_known()))
    }
}

/// Says of which secret it is told: the stores know logins only.
fn named(error: ChangeError, name: &str) -> ChangeError {
    match error {
        ChangeError::Credential => ChangeError::Given(name.to_owned()),
        other => other,
    }
}

fn lock(slots: &Slots) -> MutexGuard<'_, BTreeMap<String, Credential>> {
    // A map of handles is sound whatever panicked while it was held.
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tunnel_broker::{BackendConfig, BackendKind};

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::secrets::SessionBus;
    use crate::secrets::secret_service::LIMIT;
    use crate::secrets::store::{SecretStore, StoreError};
    use crate::secrets::testing::eventually;

    fn places(directory: &std::path::Path) -> Places {
        Places {
            token_file: None,
            credentials_directory: Some(directory.join("given")),
            state_dir: Some(directory.join("state")),
            bus: SessionBus::none(),
        }
    }

    fn vault(directory: &std::path::Path) -> (tokio_util::sync::DropGuard, Vault) {
        let soft = CancellationToken::new();
        let tasks = CriticalTasks::new(tokio_util::task::TaskTracker::new(), soft.clone());
        let vault = Vault::start(places(directory), soft.clone(), &tasks);
        (soft.drop_guard(), vault)
    }

    fn equipped(vault: &Vault, credential: &str) -> Credential {
        let url = "https://gpu.example";
        let connections = json!([{ "id": "gpu", "type": "openai", "url": url, "credential": credential }]);
        let config = json!({ "connections": connections });
        let config = Config::check(config.as_object().unwrap()).unwrap();
        let backend = BackendConfig::new("gpu", BackendKind::OpenAi, url.parse().unwrap());
        let mut broker = BrokerConfig { backends: vec![backend], ..BrokerConfig::default() };
        vault.equip(&config, &mut broker);
        broker.backends.remove(0).credential.unwrap()
    }

    #[tokio::test]
    async fn a_secret_that_is_stored_is_in_force_at_once_and_again_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (_life, vault) = vault(directory.path());
        let credential = equipped(&vault, "lab");
        eventually("looked for", async || !credential.is_awaited()).await;
        assert!(!credential.is_known());
        assert_eq!(vault.store("lab", "canary-1").await.unwrap(), StoredIn::File);
        assert!(credential.is_known());
        assert_eq!(equipped(&vault, "lab"), credential, "a reload changes nothing");
        let names: Vec<_> = vault.list().await.unwrap().into_iter().map(|kept| kept.name).collect();
        assert_eq!(names, ["lab"]);
        for entry in std::fs::read_dir(directory.path().join("state")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"canary"));
        }
        let (_other_life, restarted) = self::vault(directory.path());
        let again = equipped(&restarted, "lab");
        eventually("found", async || again.is_known()).await;
        assert!(vault.remove("lab").await.unwrap());
        assert!(!credential.is_known());
        assert!(
            matches!(vault.remove("lab").await, Err(ChangeError::NotHere { .. })),
            "a keyring may have it"
        );
        assert!(vault.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_secret_may_come_from_the_unit_and_is_not_the_tokens_then() {
        let directory = tempfile::tempdir().unwrap();
        let given = directory.path().join("given");
        std::fs::create_dir_all(&given).unwrap();
        std::fs::write(given.join("cloud-token"), "the.login.token").unwrap();
        let (_life, vault) = vault(directory.path());
        let missing = equipped(&vault, "lab");
        eventually("looked for", async || !missing.is_awaited()).await;
        assert!(!missing.is_known(), "the login is no secret of a connection");
        std::fs::write(given.join("connection.unit"), "secret-1").unwrap();
        let known = equipped(&vault, "unit");
        eventually("found", async || known.is_known()).await;
        assert!(matches!(vault.store("unit", "other").await, Err(ChangeError::Given(_))));
        assert_eq!(vault.list().await.unwrap()[0].stored_in, StoredIn::Credential);
    }

    #[tokio::test]
    async fn what_is_no_secret_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (_life, vault) = vault(directory.path());
        for bad in ["", "two words", "a\nb"] {
            assert!(matches!(vault.store("lab", bad).await, Err(ChangeError::NotAToken)), "{bad:?}");
        }
    }

    /// A keyring that is not there until it comes up, and then has every secret that was not removed.
    #[derive(Debug, Clone, Default)]
    struct Late(Arc<Mutex<bool>>);

    impl SecretStore for Late {
        fn place(&self) -> StoredIn {
            StoredIn::Keyring
        }

        fn load<'a>(&'a self, _: &'a Account) -> BoxFuture<'a, Result<Option<Credentials>, StoreError>> {
            let up = *self.0.lock().unwrap();
            let found = up.then(|| Some(Credentials::bare("late".to_owned().into(), 1)));
            Box::pin(std::future::ready(found.ok_or_else(absent)))
        }

        fn save<'a>(&'a self, _: &'a Account, _: &'a Credentials) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(std::future::ready(Err(absent())))
        }

        fn remove<'a>(&'a self, _: &'a Account) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(std::future::ready(Err(absent())))
        }
    }

    fn absent() -> StoreError {
        StoreError::Absent("it is late")
    }

    /// A keyring that never answers.
    struct Silent;

    impl SecretStore for Silent {
        fn place(&self) -> StoredIn {
            StoredIn::Keyring
        }

        fn load<'a>(&'a self, _: &'a Account) -> BoxFuture<'a, Result<Option<Credentials>, StoreError>> {
            Box::pin(silence())
        }

        fn save<'a>(&'a self, _: &'a Account, _: &'a Credentials) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(silence())
        }

        fn remove<'a>(&'a self, _: &'a Account) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(silence())
        }
    }

    async fn silence<T>() -> Result<T, StoreError> {
        tokio::time::sleep(LIMIT).await;
        Err(StoreError::Timeout)
    }

    /// A vault over one place, whose keeper runs.
    fn over(store: impl SecretStore + 'static) -> (tokio::task::JoinSet<()>, Vault) {
        over_all(vec![Box::new(store)])
    }

    fn over_all(stores: Vec<Box<dyn SecretStore>>) -> (tokio::task::JoinSet<()>, Vault) {
        let (orders, arriving) = mpsc::channel(1);
        let slots = Slots::default();
        let keeper = Keeper {
            stores: Stores::new(stores),
            slots: Arc::clone(&slots),
            arriving,
            uncertain: BTreeSet::new(),
            round: VecDeque::new(),
        };
        (tokio::task::JoinSet::from_iter([keeper.run()]), Vault { orders, slots })
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_is_found_when_its_place_comes_up_whatever_is_asked_meanwhile() {
        let late = Late::default();
        let (_keeper, vault) = over(late.clone());
        let credential = equipped(&vault, "lab");
        eventually("looked for", async || !credential.is_awaited()).await;
        *late.0.lock().unwrap() = true;
        let started = Instant::now();
        while !credential.is_known() {
            assert!(started.elapsed() < LOOK_AGAIN * 2, "it is not looked for again");
            vault.list().await.unwrap();
            tokio::time::sleep(LOOK_AGAIN / 3).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_whose_place_is_not_there_is_not_said_to_be_none_nor_forgotten() {
        let late = Late::default();
        let (_keeper, vault) = over(late.clone());
        let credential = equipped(&vault, "lab");
        let refused = vault.remove("lab").await.unwrap_err();
        assert!(refused.to_string().contains("it is late"), "{refused}");
        *late.0.lock().unwrap() = true;
        tokio::time::sleep(LOOK_AGAIN * 2).await;
        assert!(credential.is_known(), "it is still looked for");
        *late.0.lock().unwrap() = false;
        assert!(vault.remove("lab").await.is_err());
        assert!(!credential.is_known(), "what was read before is not sent any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_keyring_costs_one_wait_however_many_secrets_and_orders_there_are() {
        let up = Late(Arc::new(Mutex::new(true)));
        let (_keeper, vault) = over_all(vec![Box::new(Silent), Box::new(up)]);
        let started = Instant::now();
        let credentials: Vec<_> = (0..10).map(|n| equipped(&vault, &format!("lab-{n}"))).collect();
        tokio::task::yield_now().await;
        vault.list().await.unwrap();
        assert!(started.elapsed() <= LIMIT, "an order waits for one look: {:?}", started.elapsed());
        eventually("found", async || credentials.iter().all(Credential::is_known)).await;
        assert!(started.elapsed() < LIMIT * 2, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_comes_while_the_queue_is_full_is_looked_for() {
        let late = Late(Arc::new(Mutex::new(true)));
        let (_keeper, vault) = over(late);
        // The keeper has not run yet: this one takes the only place.
        let (answer, _nobody) = oneshot::channel();
        vault.orders.try_send(Order::List(answer)).unwrap();
        let credential = equipped(&vault, "lab");
        eventually("found", async || credential.is_known()).await;
    }
}
