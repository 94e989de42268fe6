//! The recorder: takes in what happened and writes it down in batches, without anyone waiting for the disk.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Shared;
use super::batch::{Batch, Committed, Pending};
use super::event::NewEvent;
use super::fault::Fault;
use super::handle::{Inbox, Latest, RecorderHandle};
use super::open::Found;
use super::target::{BootId, StoredTarget};
use super::usage::{RequestRecord, oldest_day};
use super::warning::ActiveSet;
use super::writer::Writer;

/// How long requests are gathered: with the commit itself, nothing that is shown is older than 250 ms.
const GATHER: Duration = Duration::from_millis(200);
/// How long what people wait for is gathered: events, the target, warnings.
const GATHER_EVENTS: Duration = Duration::from_millis(20);
/// Rows of usage that may wait for the database; requests that would need another one are dropped and counted.
const MAX_ROWS: usize = 10_000;
/// Events that may wait for the database; beyond that the oldest are dropped, and leave a gap in the ids.
const MAX_EVENTS: usize = 1000;
/// Requests taken from the queue in one go.
const INTAKE: usize = 64;
/// A commit that takes longer is worth a warning. It is still waited for: giving it up would not end it.
const SLOW_COMMIT: Duration = Duration::from_secs(5);
/// Waits after failed commits: the first one, doubled up to the last one.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How long the last flush and the closing may take at the end.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// The one owner of the writing connection.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    pub(super) sink: Sink,
    inbox: Inbox,
    intake: Vec<RequestRecord>,
    seen: Latest,
    pending: Pending,
    /// A batch whose commit failed, as far as we know. It has to be tried again as it is.
    retry: Option<Batch>,
    /// What the batch that is under way, or has to be tried again, takes of the bounds.
    held: Held,
    /// When what is pending wants to be written. `None` when nothing is.
    due: Option<Instant>,
    /// Nothing is written before that.
    not_before: Instant,
    retry_after: Duration,
    active: ActiveSet,
    boot: Option<BootId>,
    /// Dropped events for which ids have been left out.
    skipped_events: u64,
}

/// Where things are written.
pub(super) enum Sink {
    /// Nowhere: they are added up for this run.
    Memory,
    Idle(Box<Writer>),
    Busy {
        commit: Commit,
        /// When it begins to be slow. `None` once that was said.
        slow_at: Option<Instant>,
    },
}

type Commit = Pin<Box<dyn Future<Output = Attempt> + Send>>;

/// A commit that has ended.
pub(super) struct Attempt {
    writer: Box<Writer>,
    batch: Batch,
    outcome: Result<Committed, sqlx::Error>,
}

#[derive(Default)]
struct Held {
    rows: usize,
    events: usize,
}

impl Recorder {
    pub(super) fn new(
        shared: Arc<Shared>,
        writer: Option<Writer>,
        found: &Found,
        boot: Option<BootId>,
        now: Timestamp,
    ) -> (Self, RecorderHandle) {
        let (handle, inbox) = RecorderHandle::new(Arc::clone(&shared));
        let recorder = Self {
            shared,
            sink: writer.map_or(Sink::Memory, |writer| Sink::Idle(Box::new(writer))),
            inbox,
            intake: Vec::new(),
            seen: Latest::default(),
            pending: Pending::default(),
            retry: None,
            held: Held::default(),
            due: None,
            not_before: Instant::now(),
            retry_after: RETRY.0,
            active: ActiveSet::after_restart(found.warnings.clone(), now),
            boot,
            skipped_events: 0,
        };
        (recorder, handle)
    }

    /// Records until `stop` is cancelled or nobody is left who could record; then writes what is left.
    ///
    /// Ends within [`LAST_FLUSH`] of that. It should be stopped after everything that records has ended.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let flush_at = self.flush_at();
            let slow_at = self.slow_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                attempt = attempted(&mut self.sink) => {
                    self.conclude(attempt);
                }
                () = sleep_until(slow_at.unwrap_or(self.not_before)), if slow_at.is_some() => self.tell_slow(),
                () = sleep_until(flush_at.unwrap_or(self.not_before)), if flush_at.is_some() => self.flush(),
                Some(event) = self.inbox.events.recv() => self.take_event(event),
                Ok(()) = self.inbox.latest.changed() => self.take_latest(),
                n = self.inbox.requests.recv_many(&mut self.intake, INTAKE) => match n {
                    0 => break,
                    _ => self.take_requests(),
                },
            }
        }
        self.end().await;
    }

    fn flush_at(&self) -> Option<Instant> {
        match self.sink {
            Sink::Busy { .. } => None,
            Sink::Idle(_) | Sink::Memory => self.due.map(|due| due.max(self.not_before)),
        }
    }

    fn slow_at(&self) -> Option<Instant> {
        match self.sink {
            Sink::Busy { slow_at, .. } => slow_at,
            Sink::Idle(_) | Sink::Memory => None,
        }
    }

    fn take_requests(&mut self) {
        let room = MAX_ROWS.saturating_sub(self.held.rows);
        for record in self.intake.drain(..) {
            if self.pending.usage.add(record, room).is_err() {
                self.shared.dropped.requests.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.want(GATHER);
    }

    fn take_event(&mut self, event: NewEvent) {
        self.pending.events.push_back(event);
        while self.pending.events.len() > MAX_EVENTS.saturating_sub(self.held.events) {
            self.pending.events.pop_front();
            self.shared.dropped.events.fetch_add(1, Ordering::Relaxed);
        }
        self.want(match self.sink {
            // There is no commit to wait for.
            Sink::Memory => Duration::ZERO,
            Sink::Idle(_) | Sink::Busy { .. } => GATHER_EVENTS,
        });
    }

    fn take_latest(&mut self) {
        let now = self.inbox.latest.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.seen, now);
        let Latest { api, target, warnings, keys } = &self.seen;
        // Both only grow.
        self.pending.api.ok += api.ok - before.api.ok;
        self.pending.api.failed += api.failed - before.api.failed;
        let mut gather = GATHER;
        if let Some((target, at)) = target.filter(|_| *target != before.target) {
            self.pending.target = Some(StoredTarget { target, boot: self.boot.clone(), at });
            gather = GATHER_EVENTS;
        }
        if let Some(warnings) = warnings.as_ref().filter(|_| *warnings != before.warnings) {
            self.active.update(warnings, Timestamp::now());
            self.shared.active.send_replace(self.active.list().into());
            self.pending.warnings = Some(self.active.kept());
            gather = GATHER_EVENTS;
        }
        if let Some(keys) = keys.as_ref().filter(|_| *keys != before.keys) {
            self.pending.keys = Some(keys.clone());
            gather = GATHER_EVENTS;
        }
        self.want(gather);
    }

    /// Wants what is pending to be written before `gather` is over.
    fn want(&mut self, gather: Duration) {
        let due = Instant::now() + gather;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Begins to write what is pending, or to write again what failed.
    fn flush(&mut self) {
        let batch = match self.retry.take() {
            Some(batch) => batch,
            None if self.pending.is_empty() => {
                self.due = None;
                return;
            }
            None => self.take_batch(),
        };
        match std::mem::replace(&mut self.sink, Sink::Memory) {
            Sink::Memory => self.add_up(batch),
            Sink::Idle(mut writer) => {
                let commit = Box::pin(async move {
                    let outcome = writer.commit(&batch).await;
                    Attempt { writer, batch, outcome }
                });
                self.sink = Sink::Busy { commit, slow_at: Some(Instant::now() + SLOW_COMMIT) };
            }
            busy @ Sink::Busy { .. } => {
                self.sink = busy;
                self.retry = Some(batch);
            }
        }
    }

    fn take_batch(&mut self) -> Batch {
        self.due = None;
        if !self.pending.events.is_empty() {
            let dropped = self.shared.dropped.events.load(Ordering::Relaxed);
            self.pending.missed = dropped - self.skipped_events;
            self.skipped_events = dropped;
        }
        let batch = self.pending.take(rand::random_range(1..=i64::MAX), oldest_day(Timestamp::now()));
        self.held = Held { rows: batch.pending.usage.n_rows(), events: batch.pending.events.len() };
        batch
    }

    /// Takes note of how a commit ended; returns whether it succeeded.
    fn conclude(&mut self, attempt: Attempt) -> bool {
        let Attempt { writer, batch, outcome } = attempt;
        let succeeded = outcome.is_ok();
        match outcome {
            Ok(Committed { totals, events }) => {
                self.held = Held::default();
                self.not_before = Instant::now();
                self.retry_after = RETRY.0;
                self.shared.publish(totals, events);
                if let Some(keys) = &batch.pending.keys {
                    self.shared.keys_written.send_replace(keys.version);
                }
                if self.shared.health.send_if_modified(|warning| warning.take().is_some()) {
                    info!("state database can be written again");
                }
            }
            Err(error) => {
                self.tell(Fault::of(&error), &writer, &error.to_string());
                self.not_before = Instant::now() + self.retry_after;
                self.retry_after = (self.retry_after * 2).min(RETRY.1);
                self.retry = Some(batch);
                self.want(Duration::ZERO);
            }
        }
        self.sink = Sink::Idle(writer);
        succeeded
    }

    /// Adds up a batch where there is no database.
    fn add_up(&mut self, batch: Batch) {
        self.held = Held::default();
        let Pending { usage, api, events, missed, keys, .. } = batch.pending;
        if let Some(keys) = keys {
            self.shared.keys_written.send_replace(keys.version);
        }
        let mut totals = *self.shared.totals.borrow();
        totals.llm += usage.sum();
        totals.api += api;
        let mut id = self.shared.recent().newest_id() + missed;
        let with_id = |event: NewEvent| {
            id += 1;
            event.with_id(id)
        };
        let events = events.into_iter().map(with_id).collect();
        let lost = self.shared.usage().merge(usage, MAX_ROWS);
        self.shared.dropped.requests.fetch_add(lost, Ordering::Relaxed);
        self.shared.publish(totals, events);
    }

    fn tell_slow(&mut self) {
        if let Sink::Busy { slow_at, .. } = &mut self.sink {
            *slow_at = None;
        }
        let warning = self.shared.path.as_deref().map(|path| Fault::Silent.while_running(path));
        warn!(seconds = SLOW_COMMIT.as_secs(), "state database does not answer, keeping on in memory");
        self.shared.health.send_replace(warning);
    }

    /// Publishes a fault, and logs it once as long as it stays the same.
    fn tell(&self, fault: Fault, writer: &Writer, detail: &str) {
        let warning = Some(fault.while_running(&writer.path));
        let changed = self.shared.health.send_if_modified(|shown| {
            let changed = *shown != warning;
            shown.clone_from(&warning);
            changed
        });
        if changed {
            warn!(error = detail, "state database cannot be written, keeping on in memory");
        }
    }

    /// Takes in and writes what is left, as far as [`LAST_FLUSH`] allows, and closes the database.
    async fn end(mut self) {
        let deadline = Instant::now() + LAST_FLUSH;
        self.inbox.requests.close();
        self.inbox.events.close();
        while let Ok(record) = self.inbox.requests.try_recv() {
            self.intake.push(record);
        }
        self.take_requests();
        while let Ok(event) = self.inbox.events.try_recv() {
            self.take_event(event);
        }
        self.take_latest();
        let written = timeout_at(deadline, self.write_all()).await.unwrap_or(false);
        if !written {
            warn!("not everything could be written to the state database before the end");
        }
        if let Some(pool) = &self.shared.pool {
            timeout_at(deadline, pool.close()).await.ok();
        }
        if let Sink::Idle(writer) = self.sink {
            timeout_at(deadline, writer.close()).await.ok();
        }
    }

    /// Writes all that is pending; returns `false` at the first failure.
    async fn write_all(&mut self) -> bool {
        loop {
            if matches!(self.sink, Sink::Busy { .. }) {
                let attempt = attempted(&mut self.sink).await;
                if !self.conclude(attempt) {
                    return false;
                }
            }
            if self.retry.is_none() && self.pending.is_empty() {
                return true;
            }
            self.flush();
        }
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// Waits for the end of the commit that is under way; for ever when none is.
async fn attempted(sink: &mut Sink) -> Attempt {
    match sink {
        Sink::Busy { commit, .. } => commit.await,
        Sink::Idle(_) | Sink::Memory => std::future::pending().await,
    }
}
