//! What outlives the daemon: counters, usage, events, what is wrong, what the user wants of the tunnel.
//!
//! [`Store::open`] always succeeds: where there is no usable database it goes on in memory and says what is wrong.
//! Whoever has something to tell holds a [`RecorderHandle`], whose calls never wait; the [`Recorder`] is the one
//! writer and commits what it got at least every 250 ms. Whoever wants to know asks the [`Store`].
//!
//! What is shown is committed: it does not go back when the process is killed. Only where there is no database, the
//! numbers are those of this run.

mod batch;
mod counts;
mod event;
mod fault;
mod file;
mod handle;
mod key;
mod migrate;
mod open;
mod recorder;
mod target;
#[cfg(test)]
mod tests;
mod usage;
mod warning;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use tokio::sync::{broadcast, watch};
use tracing::warn;
use tunnel_api::{Event, UsageBy, UsageRow, Warning};

pub(crate) use counts::Totals;
pub(crate) use event::NewEvent;
pub(crate) use handle::{ApiOutcome, DropCounts, RecorderHandle, Written};
pub(crate) use key::StoredKey;
pub(crate) use open::Found;
pub(crate) use recorder::Recorder;
pub(crate) use target::{BootId, StoredTarget, target_at_start};
pub(crate) use usage::{RequestRecord, Work};
pub(crate) use warning::ActiveWarning;

use event::Recent;
use fault::Fault;
use handle::Dropped;
use usage::UsageTable;
use writer::Writer;

/// Longest time that a read may take, with the wait for a connection.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// Connections that read at the same time; each has a thread while it is open.
const READERS: u32 = 2;
/// How long a reading connection stays open without being used.
const READER_IDLE: Duration = Duration::from_secs(10);
/// Events that a subscriber may lag behind before it misses some.
const SUBSCRIBER_LAG: usize = 256;

/// What is known of the past. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
}

/// What [`Store::open`] hands out.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// Has to be run; until then nothing is written.
    pub(crate) recorder: Recorder,
    pub(crate) handle: RecorderHandle,
    pub(crate) found: Found,
    /// What is wrong, for as long as this run takes. Has been logged.
    pub(crate) warnings: Vec<Warning>,
}

/// What readers and the recorder have in common.
#[derive(Debug)]
struct Shared {
    /// Where the database is; `None` without one.
    path: Option<PathBuf>,
    pool: Option<SqlitePool>,
    /// The usage of this run; empty with a database.
    usage: Mutex<UsageTable>,
    recent: Mutex<Recent>,
    totals: watch::Sender<Totals>,
    events: broadcast::Sender<Arc<Event>>,
    active: watch::Sender<Arc<[ActiveWarning]>>,
    health: watch::Sender<Option<Warning>>,
    /// The newest version of the keys that is on the disk, or that there is no disk for.
    keys_written: watch::Sender<u64>,
    dropped: Dropped,
}

impl Store {
    /// Opens the database `state.db` in `state_dir`. Never fails, and takes two seconds at most.
    ///
    /// A damaged database is set aside and a new one begun. One of a later program is left untouched. Where none can
    /// be used, the store works in memory until the daemon's end; so it does without a `state_dir`, in silence, since
    /// who found none has said so.
    pub(crate) async fn open(state_dir: Option<&Path>, now: Timestamp) -> Opened {
        let mut warnings = Vec::new();
        let database = match state_dir {
            Some(directory) => open::database(directory, now, &mut warnings).await,
            None => None,
        };
        let (found, path, writer) = match database {
            Some(database) => {
                let writer = Writer::new(&database.path, database.connection);
                (database.found, Some(database.path), Some(writer))
            }
            None => (Found::nothing(now), None, None),
        };
        let shared = Arc::new(Shared {
            pool: path.as_deref().map(readers),
            path,
            usage: Mutex::default(),
            recent: Mutex::new(Recent::after(found.newest_event)),
            totals: watch::Sender::new(found.totals),
            events: broadcast::Sender::new(SUBSCRIBER_LAG),
            active: watch::Sender::new(Arc::default()),
            health: watch::Sender::new(None),
            keys_written: watch::Sender::new(0),
            dropped: Dropped::default(),
        });
        let (recorder, handle) = Recorder::new(Arc::clone(&shared), writer, &found, BootId::read(), now);
        Opened { store: Self { shared }, recorder, handle, found, warnings }
    }

    /// Whether what is told is kept over the end of the daemon.
    #[cfg(test)]
    pub(crate) fn is_kept(&self) -> bool {
        self.shared.pool.is_some()
    }

    /// Follows the totals.
    pub(crate) fn totals(&self) -> watch::Receiver<Totals> {
        self.shared.totals.subscribe()
    }

    /// Follows what keeps the recorder from writing; `None` while nothing does.
    pub(crate) fn health(&self) -> watch::Receiver<Option<Warning>> {
        self.shared.health.subscribe()
    }

    #[cfg(test)]
    /// Follows the active warnings with their beginnings, as [`RecorderHandle::warnings`] told them.
    pub(crate) fn active_warnings(&self) -> watch::Receiver<Arc<[ActiveWarning]>> {
        self.shared.active.subscribe()
    }

    /// Follows the events from now on. A subscriber that lags too far behind misses some and is told so.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.shared.events.subscribe()
    }

    /// Returns what was dropped since the start.
    pub(crate) fn dropped(&self) -> DropCounts {
        self.shared.dropped.counts()
    }

    /// Sums up the usage from the day `since` on.
    pub(crate) async fn usage(&self, by: UsageBy, since: Option<Date>) -> Result<Vec<UsageRow>, ReadError> {
        let Some(pool) = &self.shared.pool else {
            return Ok(self.shared.usage().answer(by, since));
        };
        self.read(async { usage::query(&mut *pool.acquire().await?, by, since).await }).await
    }

    /// Returns events, the oldest first: the oldest ones after `since`, or without it the newest ones.
    ///
    /// A `since` beyond the newest event comes from another history: then all events are after it. While the database
    /// cannot be read, what is in memory has to do; a jump in the ids tells.
    pub(crate) async fn events(&self, since: Option<u64>, limit: usize) -> Result<Vec<Event>, ReadError> {
        let limit = limit.min(event::ANSWER_EVENTS);
        let since = {
            let recent = self.shared.recent();
            let since = since.map(|since| if since > recent.newest_id() { 0 } else { since });
            if let Some(answer) = recent.answer(since, limit) {
                return Ok(answer);
            }
            since
        };
        let Some(pool) = &self.shared.pool else {
            return Ok(self.shared.recent().best_answer(since, limit));
        };
        let found = self.read(async {
            let mut connection = pool.acquire().await?;
            match since {
                Some(since) => event::after(&mut connection, since, limit).await,
                None => event::newest(&mut connection, limit).await,
            }
        });
        found.await.or_else(|error| {
            let answer = self.shared.recent().best_answer(since, limit);
            if answer.is_empty() { Err(error) } else { Ok(answer) }
        })
    }

    async fn read<T>(&self, query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, ReadError> {
        let fault = match tokio::time::timeout(READ_LIMIT, query).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => {
                warn!(%error, "state database cannot be read");
                Fault::of(&error)
            }
            Err(_elapsed) => Fault::Silent,
        };
        Err(ReadError { fault })
    }
}

/// The history cannot be told at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state database {}; try again later, or see: tunnelctl status", .fault.reason())]
pub(crate) struct ReadError {
    fault: Fault,
}

impl Shared {
    fn usage(&self) -> MutexGuard<'_, UsageTable> {
        // No code that holds it can panic half-way.
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what has been committed.
    fn publish(&self, totals: Totals, events: Vec<Event>) {
        self.totals.send_if_modified(|shown| std::mem::replace(shown, totals) != totals);
        for event in events.into_iter().map(Arc::new) {
            self.recent().push(Arc::clone(&event));
            // Fails when nobody listens.
            self.events.send(event).ok();
        }
    }
}

fn readers(path: &Path) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .idle_timeout(READER_IDLE)
        .max_lifetime(None)
        .acquire_timeout(READ_LIMIT)
        // It is a local file: nothing can have happened to the connection.
        .test_before_acquire(false)
        .connect_lazy_with(writer::reading(path))
}
