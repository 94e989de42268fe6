//! Finding out what is there at the start, and making do with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tracing::warn;
use tunnel_api::Warning;

use super::batch::totals;
use super::counts::Totals;
use super::fault::{self, Fault};
use super::file::{self, Content};
use super::key::StoredKey;
use super::writer::{reading, writing};
use super::{ActiveWarning, StoredTarget};
use super::{event, key, migrate, target, warning};

/// Longest time that opening may take; after that the daemon runs without the database.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// Longest time that looking for damage may take. A database that is too large for it is believed to be well.
const CHECK_LIMIT: Duration = Duration::from_millis(300);
/// Steps of SQLite's machine after which the time is looked at.
const CHECK_STEPS: i32 = 1000;

/// A database that can be written.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) connection: SqliteConnection,
    pub(super) found: Found,
}

/// What an earlier run left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// What the user wanted of the tunnel; see [`target_at_start`](super::target_at_start).
    pub(crate) target: Option<StoredTarget>,
    pub(crate) totals: Totals,
    /// What was wrong when it ended.
    pub(crate) warnings: Vec<ActiveWarning>,
    /// Keys for apps, the oldest first.
    pub(crate) keys: Vec<StoredKey>,
    pub(super) newest_event: u64,
}

impl Found {
    pub(super) fn nothing(now: Timestamp) -> Self {
        Self {
            target: None,
            totals: Totals::none(now),
            warnings: Vec::new(),
            keys: Vec::new(),
            newest_event: 0,
        }
    }
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("it has schema {schema}")]
    Newer { program: Option<String>, schema: i64 },
    #[error("{0}")]
    Damaged(String),
    #[error("{detail}")]
    Unusable { fault: Fault, detail: String },
}

impl OpenError {
    fn in_own_tables(error: sqlx::Error) -> Self {
        match Fault::in_own_tables(&error) {
            Fault::Damaged => Self::Damaged(error.to_string()),
            fault => Self::Unusable { fault, detail: error.to_string() },
        }
    }

    fn of_io(fault: Fault, error: &impl ToString) -> Self {
        Self::Unusable { fault, detail: error.to_string() }
    }
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        match Fault::of(&error) {
            Fault::Damaged => Self::Damaged(error.to_string()),
            fault => Self::Unusable { fault, detail: error.to_string() },
        }
    }
}

/// Opens the database in `directory`, whatever is there; `None` when the run has to do without.
///
/// Damaged files are set aside, those of a later program left alone. Says in `warnings` what was wrong. Takes no
/// longer than [`OPEN_LIMIT`].
pub(super) async fn database(
    directory: &Path,
    now: Timestamp,
    warnings: &mut Vec<Warning>,
) -> Option<Database> {
    let path = file::path(directory);
    let outcome = match tokio::time::timeout(OPEN_LIMIT, open_or_replace(&path, now, warnings)).await {
        Ok(outcome) => outcome,
        Err(elapsed) => Err(OpenError::of_io(Fault::Silent, &elapsed)),
    };
    match outcome {
        Ok(database) => Some(database),
        Err(error) => {
            warn!(path = %path.display(), %error, "no state database, nothing is kept");
            warnings.push(match error {
                OpenError::Newer { program, schema } => {
                    fault::newer(&path, program.as_deref(), schema, migrate::SCHEMA)
                }
                OpenError::Damaged(_) => Fault::Damaged.at_start(&path),
                OpenError::Unusable { fault, .. } => fault.at_start(&path),
            });
            None
        }
    }
}

async fn open_or_replace(
    path: &Path,
    now: Timestamp,
    warnings: &mut Vec<Warning>,
) -> Result<Database, OpenError> {
    let damage = match open(path, now).await {
        Err(OpenError::Damaged(damage)) => damage,
        outcome => return outcome,
    };
    let damaged = path.to_owned();
    let aside = blocking(move || file::set_aside(&damaged, now))
        .await
        .map_err(|error| OpenError::Damaged(format!("{damage}; it cannot be set aside: {error}")))?;
    warn!(path = %path.display(), aside = %aside.display(), damage, "state database was damaged, set aside");
    warnings.push(fault::set_aside(&aside));
    open(path, now).await
}

async fn open(path: &Path, now: Timestamp) -> Result<Database, OpenError> {
    let file = path.to_owned();
    let content = blocking(move || file::prepare(&file)).await.map_err(|error| {
        let fault = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Fault::Full,
            std::io::ErrorKind::ReadOnlyFilesystem => Fault::ReadOnly,
            _ => Fault::Closed,
        };
        OpenError::of_io(fault, &error)
    })?;
    if content == Content::Some {
        // Through a connection that cannot write, so that a file of a later program stays as it is.
        let mut connection = reading(path).connect().await?;
        let verdict = examine(&mut connection).await;
        close(connection).await;
        verdict?;
    }
    let mut connection = writing(path).connect().await?;
    match set_up(&mut connection, now).await {
        Ok(found) => Ok(Database { path: path.to_owned(), connection, found }),
        Err(error) => {
            close(connection).await;
            Err(error)
        }
    }
}

/// Closes a connection and waits for that: on its way out it removes the log by its name, which may be that of
/// another database once this one has been set aside.
async fn close(connection: SqliteConnection) {
    connection.close().await.ok();
}

async fn set_up(connection: &mut SqliteConnection, now: Timestamp) -> Result<Found, OpenError> {
    migrate::run(connection).await.map_err(|error| match Fault::of_migration(&error) {
        Fault::Damaged => OpenError::Damaged(error.to_string()),
        fault => OpenError::Unusable { fault, detail: error.to_string() },
    })?;
    sign(connection, now).await.map_err(OpenError::in_own_tables)?;
    found(connection).await.map_err(OpenError::in_own_tables)
}

/// Looks for damage and for a schema that is too new.
async fn examine(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let schema = migrate::version(connection).await?;
    if schema > migrate::SCHEMA {
        let program = migrate::program(connection).await;
        return Err(OpenError::Newer { program, schema });
    }
    let until = Instant::now() + CHECK_LIMIT;
    connection.lock_handle().await?.set_progress_handler(CHECK_STEPS, move || Instant::now() < until);
    let check = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *connection).await;
    connection.lock_handle().await?.remove_progress_handler();
    match check {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(damage) => Err(OpenError::Damaged(damage)),
        // Our own handler stopped it.
        Err(error) if Fault::of(&error) == Fault::Silent => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes the single rows, and writes down which program was here. Writes nothing where all that is so: then even a
/// full disk can be opened.
async fn sign(connection: &mut SqliteConnection, now: Timestamp) -> Result<(), sqlx::Error> {
    let program = env!("CARGO_PKG_VERSION");
    // Names a column of each table that batches go to: tables of someone else are found here and not later.
    let signed = "SELECT COUNT(*) FROM store, total WHERE store.program = ? AND store.batch >= 0
                  AND NOT EXISTS (SELECT 1 FROM usage WHERE day IS NULL)
                  AND NOT EXISTS (SELECT 1 FROM event WHERE id IS NULL)";
    let signed: i64 = sqlx::query_scalar(signed).bind(program).fetch_one(&mut *connection).await?;
    if signed == 1 {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(
        "INSERT INTO store (id, program, created_at, batch) VALUES (1, ?, ?, 0)
         ON CONFLICT (id) DO UPDATE SET program = excluded.program",
    )
    .bind(program)
    .bind(now.as_millisecond())
    .execute(&mut *transaction)
    .await?;
    sqlx::query("INSERT OR IGNORE INTO total (id) VALUES (1)").execute(&mut *transaction).await?;
    transaction.commit().await
}

async fn found(connection: &mut SqliteConnection) -> Result<Found, sqlx::Error> {
    Ok(Found {
        target: target::load(connection).await?,
        totals: totals(connection).await?,
        warnings: warning::load(connection).await?,
        keys: key::load(connection).await?,
        newest_event: event::newest_id(connection).await?,
    })
}

/// Runs file work beside the runtime: a disk may take its time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
}
