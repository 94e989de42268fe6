//! How the rest of the daemon looks at the configuration and orders changes of it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot, watch};
use tunnel_api::config::Import;
use tunnel_api::config_api::{ConfigBackups, Overridden};
use tunnel_transport::RelayUrl;

use super::change::back_up;
use super::{Author, Backups, Change, ChangeError, ConfigState, Edit, Options, Source, check};
use crate::secrets;

/// Orders that may wait. More are held at the door until there is room, or [`ORDER_LIMIT`] is over.
const WAITING_ORDERS: usize = 8;
/// Longest wait for the owner to take an order, and again for it to answer. It reads and writes small files.
const ORDER_LIMIT: Duration = Duration::from_secs(10);

/// Looks at the configuration and orders changes of it. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct ConfigHandle {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<Arc<ConfigState>>,
    options: Arc<Options>,
    tokens: TokenSink,
}

/// An order to the owner of the configuration.
#[derive(Debug)]
///
/// It is not carried out when nobody waits for the answer any more.
pub(crate) struct Order {
    pub(crate) task: Task,
    /// Told when the owner begins.
    pub(crate) taken: oneshot::Sender<()>,
    pub(crate) answer: oneshot::Sender<Result<Applied, ChangeError>>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    /// Read everything anew, as after a change of the file.
    Reload,
    /// Change the file, then take it over.
    Change(Change),
}

/// What an order has led to.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub(crate) changed: bool,
    pub(crate) backup: Option<String>,
    pub(crate) overridden: Vec<Overridden>,
    /// What is in force now.
    pub(crate) state: Arc<ConfigState>,
}

impl ConfigHandle {
    /// Makes the handle, and the other end of it for the owner.
    pub(crate) fn new(
        options: Arc<Options>,
        state: watch::Receiver<Arc<ConfigState>>,
        tokens: TokenSink,
    ) -> (Self, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(WAITING_ORDERS);
        (Self { orders, state, options, tokens }, receiver)
    }

    /// Returns what is in force.
    pub(crate) fn state(&self) -> Arc<ConfigState> {
        Arc::clone(&self.state.borrow())
    }

    /// Follows what is in force.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<ConfigState>> {
        self.state.clone()
    }

    /// Returns the file that a change would be written to.
    pub(crate) async fn file(&self) -> Option<String> {
        let place = |options: &Options| Source::place(options).map(|file| file.path.display().to_string());
        self.on_disk(place).await
    }

    /// Reads everything anew and takes it over.
    pub(crate) async fn reload(&self) -> Result<Applied, ChangeError> {
        self.order(Task::Reload).await
    }

    /// Changes the file and takes it over, on behalf of a program, or for keys that web pages may change.
    pub(crate) async fn change(&self, edit: Edit, if_match: Option<String>) -> Result<Applied, ChangeError> {
        self.make(Change { edit, if_match, author: Author::Program }).await
    }

    /// Makes a change that may have its limits.
    pub(crate) async fn make(&self, change: Change) -> Result<Applied, ChangeError> {
        self.order(Task::Change(change)).await
    }

    /// Checks a content without changing anything.
    pub(crate) async fn check(&self, text: String) -> Result<Vec<Overridden>, ChangeError> {
        self.on_disk(move |options| check(options, &text).map(|(_, overridden)| overridden)).await
    }

    /// Makes a copy of the file and returns its name.
    pub(crate) async fn back_up(&self) -> Result<String, ChangeError> {
        self.on_disk(|options| back_up(options, Timestamp::now())).await
    }

    /// Lists the copies.
    pub(crate) async fn backups(&self) -> Result<ConfigBackups, ChangeError> {
        self.on_disk(|options| {
            let Some(place) = Source::place(options) else { return Ok(ConfigBackups::default()) };
            let backups = Backups::of(&place.path);
            let directory = backups.directory();
            let failed = |source| ChangeError::Io { path: directory.to_owned(), source };
            Ok(ConfigBackups {
                directory: Some(directory.display().to_string()),
                backups: backups.list().map_err(failed)?,
                timestamp: Timestamp::now(),
            })
        })
        .await
    }

    /// Takes over an original's connection file: first the token is stored, then the keys are written.
    ///
    /// For programs only: it says where the daemon dials, and as whom. The token is the relay's that the keys name, and is shown to no other. Nothing is changed when the keys do
    /// not fit or the token cannot be stored. Returns whether there was one.
    pub(crate) async fn import(&self, import: Import) -> Result<(Applied, bool), ChangeError> {
        if !import.faults.is_empty() {
            return Err(ChangeError::Invalid(import.faults));
        }
        let keys = import.keys.clone();
        // Says no before the token is stored, if it would say no afterwards.
        let change = Change { edit: Edit::Patch(keys), if_match: None, author: Author::Program };
        let in_force = self.state();
        let relay = self.on_disk(move |options| change.rehearse(options, &in_force)).await?.tunnel.relay;
        let token_stored = import.token.is_some();
        if let Some(token) = import.token {
            let stored = self.tokens.store(relay, SecretString::from(token.into_inner()));
            stored.await.map_err(ChangeError::TokenNotStored)?;
        }
        let applied = self.change(Edit::Patch(import.keys), None).await?;
        Ok((applied, token_stored))
    }

    async fn order(&self, task: Task) -> Result<Applied, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let (taken, begun) = oneshot::channel();
        let begin = async {
            let order = Order { task, taken, answer };
            self.orders.send(order).await.map_err(|_| ChangeError::ShuttingDown)?;
            begun.await.map_err(|_| ChangeError::ShuttingDown)
        };
        tokio::time::timeout(ORDER_LIMIT, begin).await.map_err(|_| ChangeError::Busy)??;
        let answered = tokio::time::timeout(ORDER_LIMIT, answered).await;
        answered.map_err(|_| ChangeError::Unfinished)?.map_err(|_| ChangeError::ShuttingDown)?
    }

    /// Runs what looks at the disk where it may wait for it.
    async fn on_disk<T: Send + 'static>(&self, look: impl FnOnce(&Options) -> T + Send + 'static) -> T {
        let options = Arc::clone(&self.options);
        match tokio::task::spawn_blocking(move || look(&options)).await {
            Ok(seen) => seen,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

type Stored = Pin<Box<dyn Future<Output = Result<(), secrets::ChangeError>> + Send>>;

/// Where a token goes that came with an imported file, and the relay that it is for.
#[derive(Clone)]
pub(crate) struct TokenSink(Arc<dyn Fn(RelayUrl, SecretString) -> Stored + Send + Sync>);

impl TokenSink {
    /// Stores tokens with this function.
    pub(crate) fn new<F, S>(store: F) -> Self
    where
        F: Fn(RelayUrl, SecretString) -> S + Send + Sync + 'static,
        S: Future<Output = Result<(), secrets::ChangeError>> + Send + 'static,
    {
        Self(Arc::new(move |relay, token| Box::pin(store(relay, token))))
    }

    /// Stores nothing: a file with a token is refused.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::new(|_, _| async {
            Err(secrets::ChangeError::Stores { done: "stored", reasons: "there is no store".to_owned() })
        })
    }

    fn store(&self, relay: RelayUrl, token: SecretString) -> Stored {
        (self.0)(relay, token)
    }
}

impl fmt::Debug for TokenSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSink")
    }
}
