//! The connection that writes. There is one, and the recorder owns it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::batch::{Batch, Committed};

/// How long a statement waits for a lock of another program.
const BUSY: Duration = Duration::from_secs(1);
/// Pages cached by a connection, in KiB; the whole database is seldom larger than a few MiB.
const CACHE_KIB: &str = "-256";
/// Pages after which the log is moved into the database: 1 MiB.
const CHECKPOINT_PAGES: &str = "256";
/// What the log is cut down to after that.
const LOG_BYTES: &str = "1048576";

/// The connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) options: SqliteConnectOptions,
    /// `None` after a failure: what state the connection was in then is not worth knowing.
    connection: Option<SqliteConnection>,
}

impl Writer {
    pub(super) fn new(path: &Path, connection: SqliteConnection) -> Self {
        Self { path: path.to_owned(), options: writing(path), connection: Some(connection) }
    }

    /// Commits a batch. It may be called again with the same batch after any failure, and counts it once.
    pub(super) async fn commit(&mut self, batch: &Batch) -> Result<Committed, sqlx::Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let committed = batch.commit(&mut connection).await?;
        self.connection = Some(connection);
        Ok(committed)
    }

    /// Closes the connection; the last one moves the log into the database.
    pub(super) async fn close(self) {
        if let Some(connection) = self.connection {
            // Whatever happens now: what was committed is on the disk already.
            connection.close().await.ok();
        }
    }

    /// Gives up the connection, so that the next commit makes one with the `options` of then.
    #[cfg(test)]
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }
}

/// How the writer connects.
///
/// With the write-ahead log, readers and the writer do not wait for each other. What was committed survives the end
/// of the process whatever way that comes; after a loss of power, the newest commits may be gone.
pub(super) fn writing(path: &Path) -> SqliteConnectOptions {
    common(path, "state-writer")
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("journal_size_limit", LOG_BYTES)
}

/// How readers connect.
pub(super) fn reading(path: &Path) -> SqliteConnectOptions {
    common(path, "state-reader").read_only(true)
}

fn common(path: &Path, thread: &'static str) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY)
        .statement_cache_capacity(16)
        .command_buffer_size(8)
        .row_buffer_size(32)
        .thread_name(move |_| thread.to_owned())
        .pragma("cache_size", CACHE_KIB)
        .pragma("temp_store", "MEMORY")
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}
