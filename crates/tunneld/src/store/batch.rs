//! What is written in one transaction.

use std::collections::VecDeque;

use jiff::civil::Date;
use sqlx::{Connection, Row, SqliteConnection};
use tunnel_api::Event;

use super::counts::{ApiCounts, Counts, Totals, loaded, stored, time};
use super::event::{self, NewEvent};
use super::handle::KeyList;
use super::key;
use super::target::{self, StoredTarget};
use super::usage::{self, UsageTable};
use super::warning::{self, ActiveWarning};

/// What came in and is not committed yet.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Pending {
    pub(super) usage: UsageTable,
    pub(super) api: ApiCounts,
    pub(super) events: VecDeque<NewEvent>,
    /// Events before `events` that were dropped: their ids are left out.
    pub(super) missed: u64,
    pub(super) target: Option<StoredTarget>,
    /// All that are to be in the database.
    pub(super) warnings: Option<Vec<ActiveWarning>>,
    /// All that are to be in the database.
    pub(super) keys: Option<KeyList>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes everything as a batch with the name `id`.
    pub(super) fn take(&mut self, id: i64, oldest_day: Date) -> Batch {
        Batch { id, oldest_day, pending: std::mem::take(self) }
    }
}

/// What is written in one transaction: wholly or not at all, and once.
#[derive(Debug)]
pub(super) struct Batch {
    /// Random, not 0. Whether it is the newest in the database tells what became of a commit that failed half-way.
    id: i64,
    /// Usage of days before this one is removed.
    oldest_day: Date,
    pub(super) pending: Pending,
}

/// What is in the database after a batch.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) totals: Totals,
    /// The batch's events, with their ids.
    pub(super) events: Vec<Event>,
}

impl Batch {
    /// Commits the batch; does nothing but read if an earlier attempt got through.
    ///
    /// After an error, the connection may be within a transaction: it has to be dropped.
    pub(super) async fn commit(&self, connection: &mut SqliteConnection) -> Result<Committed, sqlx::Error> {
        // A key that was revoked must not hold again after a loss of power; the rest may be the newest but one then.
        if self.pending.keys.is_some() {
            sqlx::query("PRAGMA synchronous = FULL").execute(&mut *connection).await?;
        }
        // With a plain BEGIN, a second writer would make the first statement fail that writes, without a wait.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let newest: i64 = sqlx::query_scalar("SELECT batch FROM store").fetch_one(&mut *transaction).await?;
        let events = if newest == self.id {
            event::newest(&mut transaction, self.pending.events.len()).await?
        } else {
            self.write(&mut transaction).await?
        };
        let totals = totals(&mut transaction).await?;
        transaction.commit().await?;
        if self.pending.keys.is_some() {
            sqlx::query("PRAGMA synchronous = NORMAL").execute(&mut *connection).await?;
        }
        Ok(Committed { totals, events })
    }

    async fn write(&self, connection: &mut SqliteConnection) -> Result<Vec<Event>, sqlx::Error> {
        let Pending { usage, api, events, missed, target, warnings, keys } = &self.pending;
        sqlx::query("UPDATE store SET batch = ?").bind(self.id).execute(&mut *connection).await?;
        add_to_totals(connection, usage.sum(), *api).await?;
        usage::add(connection, usage, self.oldest_day).await?;
        if let Some(target) = target {
            target::save(connection, target).await?;
        }
        if let Some(warnings) = warnings {
            warning::save(connection, warnings).await?;
        }
        if let Some(keys) = keys {
            key::save(connection, &keys.keys).await?;
        }
        event::append(connection, events, *missed).await
    }
}

async fn add_to_totals(
    connection: &mut SqliteConnection,
    llm: Counts,
    api: ApiCounts,
) -> Result<(), sqlx::Error> {
    let mut update = sqlx::query(
        "UPDATE total SET requests = requests + ?, failed = failed + ?, prompt_tokens = prompt_tokens + ?,
             completion_tokens = completion_tokens + ?, bytes_in = bytes_in + ?, bytes_out = bytes_out + ?,
             duration_ms = duration_ms + ?, cached_tokens = cached_tokens + ?, streamed = streamed + ?,
             first_token_us = first_token_us + ?, load_us = load_us + ?, prompt_us = prompt_us + ?,
             generation_us = generation_us + ?, api_ok = api_ok + ?, api_failed = api_failed + ?",
    );
    for column in llm.columns().into_iter().chain([api.ok, api.failed].map(stored)) {
        update = update.bind(column);
    }
    update.execute(connection).await?;
    Ok(())
}

/// Reads the totals.
pub(super) async fn totals(connection: &mut SqliteConnection) -> Result<Totals, sqlx::Error> {
    let row = sqlx::query("SELECT total.*, store.created_at FROM total, store").fetch_one(connection).await?;
    let api = ApiCounts { ok: loaded(row.try_get("api_ok")?), failed: loaded(row.try_get("api_failed")?) };
    Ok(Totals { since: time(row.try_get("created_at")?), llm: Counts::of_row(&row)?, api })
}
