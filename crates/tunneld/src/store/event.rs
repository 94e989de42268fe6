//! Events: what happened, in order, with ids that grow by one.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use tunnel_api::{Event, Severity};

use super::counts::{loaded, stored, time};

/// Events that are kept: the newest ones.
pub(super) const KEPT: u64 = 10_000;
/// Events of one answer.
pub(super) const ANSWER_EVENTS: usize = 1000;

/// An event that has no id yet. Carries no secret and nothing of what was asked or answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewEvent {
    pub(crate) at: Timestamp,
    /// Stable machine name, such as `tunnel_up`.
    pub(crate) kind: &'static str,
    pub(crate) severity: Severity,
    /// One sentence without a full stop.
    pub(crate) message: String,
    /// For programs: an object, or null.
    pub(crate) data: Value,
}

impl NewEvent {
    /// Returns the event with its place in the history.
    pub(super) fn with_id(&self, id: u64) -> Event {
        Event {
            id,
            at: self.at,
            kind: self.kind.to_owned(),
            severity: self.severity,
            message: self.message.clone(),
            data: self.data.clone(),
        }
    }
}

/// Appends the events after a gap of `missed` ids, and removes the oldest beyond [`KEPT`].
pub(super) async fn append(
    connection: &mut SqliteConnection,
    events: &VecDeque<NewEvent>,
    missed: u64,
) -> Result<Vec<Event>, sqlx::Error> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let mut id = newest_id(connection).await?.saturating_add(missed);
    let mut appended = Vec::with_capacity(events.len());
    for event in events {
        id = id.saturating_add(1);
        let event = event.with_id(id);
        sqlx::query("INSERT INTO event (id, at, kind, severity, message, data) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(stored(event.id))
            .bind(event.at.as_millisecond())
            .bind(&event.kind)
            .bind(severity_name(event.severity))
            .bind(&event.message)
            .bind(event.data.to_string())
            .execute(&mut *connection)
            .await?;
        appended.push(event);
    }
    let prune = sqlx::query("DELETE FROM event WHERE id <= ?").bind(stored(id.saturating_sub(KEPT)));
    prune.execute(connection).await?;
    Ok(appended)
}

/// Returns the id that was given last, to an event that may be gone; 0 before the first.
pub(super) async fn newest_id(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let id: Option<i64> = sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        .fetch_optional(connection)
        .await?;
    Ok(id.map_or(0, loaded))
}

/// Returns the oldest events after `since`, the oldest first.
pub(super) async fn after(
    connection: &mut SqliteConnection,
    since: u64,
    limit: usize,
) -> Result<Vec<Event>, sqlx::Error> {
    let sql = "SELECT id, at, kind, severity, message, data FROM event WHERE id > ? ORDER BY id LIMIT ?";
    let rows = sqlx::query(sql).bind(stored(since)).bind(limit as i64).fetch_all(connection).await?;
    rows.iter().map(event).collect()
}

/// Returns the newest events, the oldest first.
pub(super) async fn newest(
    connection: &mut SqliteConnection,
    limit: usize,
) -> Result<Vec<Event>, sqlx::Error> {
    let sql = "SELECT id, at, kind, severity, message, data FROM event ORDER BY id DESC LIMIT ?";
    let rows = sqlx::query(sql).bind(limit as i64).fetch_all(connection).await?;
    rows.iter().rev().map(event).collect()
}

fn event(row: &SqliteRow) -> Result<Event, sqlx::Error> {
    Ok(Event {
        id: loaded(row.try_get("id")?),
        at: time(row.try_get("at")?),
        kind: row.try_get("kind")?,
        severity: severity(row.try_get("severity")?),
        message: row.try_get("message")?,
        data: serde_json::from_str(row.try_get("data")?).unwrap_or_default(),
    })
}

pub(super) fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
        Severity::Unknown => "unknown",
    }
}

pub(super) fn severity(name: &str) -> Severity {
    match name {
        "info" => Severity::Info,
        "warning" => Severity::Warning,
        "error" => Severity::Error,
        _ => Severity::Unknown,
    }
}

/// The newest events in memory: what most readers want, and all that is left while the database fails.
///
/// Always the end of the history without gaps of its own.
#[derive(Debug, Default)]
pub(super) struct Recent {
    events: VecDeque<Arc<Event>>,
    newest_id: u64,
}

impl Recent {
    /// Events that are held: some 100 KiB at most.
    const MAX: usize = 256;

    /// Begins where the history ends.
    pub(super) fn after(newest_id: u64) -> Self {
        Self { events: VecDeque::new(), newest_id }
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        if self.events.len() == Self::MAX {
            self.events.pop_front();
        }
        self.newest_id = event.id;
        self.events.push_back(event);
    }

    /// The id that was given last. 0 before the first.
    pub(super) fn newest_id(&self) -> u64 {
        self.newest_id
    }

    /// Returns the oldest events after `since`, or without it the newest; `None` if older ones, which are not here,
    /// belong to the answer.
    pub(super) fn answer(&self, since: Option<u64>, limit: usize) -> Option<Vec<Event>> {
        let first = self.events.front().map_or(self.newest_id + 1, |event| event.id);
        let complete = match since {
            Some(since) => first <= since + 1,
            None => first == 1 || self.events.len() >= limit,
        };
        complete.then(|| self.best_answer(since, limit))
    }

    /// Returns what is here of [`Recent::answer`].
    pub(super) fn best_answer(&self, since: Option<u64>, limit: usize) -> Vec<Event> {
        let skip = match since {
            Some(since) => self.events.partition_point(|event| event.id <= since),
            None => self.events.len().saturating_sub(limit),
        };
        self.events.iter().skip(skip).take(limit).map(|event| event.as_ref().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(after: u64, ids: std::ops::RangeInclusive<u64>) -> Recent {
        let mut recent = Recent::after(after);
        for id in ids {
            recent.push(Arc::new(Event { id, ..Event::default() }));
        }
        recent
    }

    fn ids(answer: Option<Vec<Event>>) -> Option<Vec<u64>> {
        Some(answer?.iter().map(|event| event.id).collect())
    }

    #[test]
    fn memory_answers_only_what_it_has_in_full() {
        let recent = recent(10, 11..=14);
        assert_eq!(ids(recent.answer(Some(14), 9)), Some(vec![]));
        assert_eq!(ids(recent.answer(Some(12), 9)), Some(vec![13, 14]));
        assert_eq!(ids(recent.answer(Some(10), 2)), Some(vec![11, 12]), "the oldest first, to read on from");
        assert_eq!(ids(recent.answer(Some(9), 9)), None, "10 is in the database only");
        assert_eq!(ids(recent.answer(None, 2)), Some(vec![13, 14]));
        assert_eq!(ids(recent.answer(None, 5)), None);
        assert_eq!(ids(Some(recent.best_answer(Some(3), 9))), Some(vec![11, 12, 13, 14]));
    }

    #[test]
    fn memory_of_a_history_that_began_in_this_run_is_complete() {
        assert_eq!(ids(recent(0, 1..=2).answer(None, 100)), Some(vec![1, 2]));
        assert_eq!(ids(Recent::default().answer(None, 100)), Some(vec![]));
        assert_eq!(ids(Recent::after(7).answer(Some(7), 100)), Some(vec![]));
        assert_eq!(ids(Recent::after(7).answer(None, 100)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let recent = recent(0, 1..=1000);
        assert_eq!(recent.events.len(), Recent::MAX);
        assert_eq!(recent.newest_id(), 1000);
        assert_eq!(ids(recent.answer(Some(998), 9)), Some(vec![999, 1000]));
    }
}
