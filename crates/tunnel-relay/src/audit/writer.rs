//! The one task that owns the log: takes events from the queue and has a thread write them that may wait.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::audit::line::Record;
use crate::audit::log_file::{LogFile, Rotation};
use crate::audit::pseudonym::Pseudonyms;
use crate::audit::{Event, Lost};

/// Least time between two waits for the disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How long a log that could not be opened or written is left alone.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether events are in no line.
const HELD_EVERY: Duration = Duration::from_secs(60);
/// Most events that are written at once.
const BATCH: usize = 256;

/// Owns the log.
#[derive(Debug)]
pub(super) struct Writer {
    base: PathBuf,
    rotation: Rotation,
    names: Pseudonyms,
    lost: Lost,
    path: Arc<OnceLock<PathBuf>>,
    log: Option<LogFile>,
    /// Before this it is not tried again.
    retry_at: Option<Instant>,
    /// Whether the trouble of the moment was told.
    told: bool,
    synced_at: Option<Instant>,
    unsynced: bool,
}

impl Writer {
    pub(super) fn new(
        base: PathBuf,
        rotation: Rotation,
        names: Pseudonyms,
        lost: Lost,
        path: Arc<OnceLock<PathBuf>>,
    ) -> Self {
        Self {
            base,
            rotation,
            names,
            lost,
            path,
            log: None,
            retry_at: None,
            told: false,
            synced_at: None,
            unsynced: false,
        }
    }

    /// Writes until all senders are gone or `closing` is cancelled, and then what is left.
    ///
    /// `held` returns lines for events that none has told of: those that are due, or all at the end.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<Record>,
        closing: CancellationToken,
        held: impl Fn(bool) -> Vec<Record>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut minute = tokio::time::interval(HELD_EVERY);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sync_in = self.unsynced.then(|| self.sync_due().saturating_duration_since(Instant::now()));
            let ended = tokio::select! {
                n = events.recv_many(&mut batch, BATCH) => n == 0,
                () = tokio::time::sleep(sync_in.unwrap_or(HELD_EVERY)), if sync_in.is_some() => false,
                _ = minute.tick() => {
                    batch.extend(held(false));
                    false
                }
                () = closing.cancelled(), if !events.is_closed() => {
                    events.close();
                    continue;
                }
            };
            if ended {
                batch.extend(held(true));
                batch.push(Record::of(&Event::Stopped, Timestamp::now()));
            }
            let wrote = tokio::task::spawn_blocking(move || {
                self.write(&batch, ended);
                batch.clear();
                (self, batch)
            });
            match wrote.await {
                Ok(back) => (self, batch) = back,
                // Only when it panicked; the queue is closed with this, and what would come is counted as lost.
                Err(error) => return error!(%error, "the audit log ends"),
            }
            if ended {
                return;
            }
        }
    }

    fn sync_due(&self) -> Instant {
        self.synced_at.map_or_else(Instant::now, |at| at + SYNC_EVERY)
    }

    /// Writes these, and syncs when it is time or `now_at_the_latest`.
    fn write(&mut self, batch: &[Record], now_at_the_latest: bool) {
        let lost_before = self.lost.take();
        let mut lines = Vec::with_capacity(batch.len() + 1);
        lines.extend((lost_before > 0).then(|| Record::lost(lost_before, Timestamp::now())));
        lines.extend_from_slice(batch);
        let written = self.try_write(&lines, now_at_the_latest);
        match written {
            Ok(true) => {
                self.lost.metrics.audit_lines.inc_by(lines.len() as u64);
                if std::mem::take(&mut self.told) {
                    info!("the audit log is written again");
                }
            }
            Ok(false) => self.give_up(lost_before, batch.len()),
            Err((error, taken)) => {
                if !taken {
                    self.give_up(lost_before, batch.len());
                }
                // Opened anew, so that it goes on from what really is in the file.
                self.log = None;
                self.unsynced = false;
                self.retry_at = Some(Instant::now() + RETRY_EVERY);
                if !std::mem::replace(&mut self.told, true) {
                    warn!(
                        file = %self.base.display(), %error, retry_s = RETRY_EVERY.as_secs(),
                        "the audit log cannot be written; events are counted as lost, the relay goes on"
                    );
                }
            }
        }
    }

    fn give_up(&self, lost_before: u64, n: usize) {
        self.lost.put_back(lost_before);
        self.lost.add(n as u64);
    }

    /// Returns whether it was written: not while a failed log is left alone. An error says whether the lines were
    /// taken before it.
    fn try_write(&mut self, lines: &[Record], sync_now: bool) -> Result<bool, (io::Error, bool)> {
        let log = match &mut self.log {
            Some(log) => log,
            None if self.retry_at.is_some_and(|at| Instant::now() < at) && !sync_now => return Ok(false),
            None => {
                let log =
                    LogFile::open(&self.base, self.rotation, &self.names).map_err(|error| (error, false))?;
                // Set before, when it was opened again; the name may only differ when another process has come.
                self.path.get_or_init(|| log.path().to_owned());
                self.log.insert(log)
            }
        };
        if !lines.is_empty() {
            log.append(lines, &self.names).map_err(|error| (error, false))?;
            self.unsynced = true;
        }
        let due = self.synced_at.is_none_or(|at| at + SYNC_EVERY <= Instant::now());
        if self.unsynced && (due || sync_now) {
            log.sync().map_err(|error| (error, true))?;
            self.synced_at = Some(Instant::now());
            self.unsynced = false;
        }
        Ok(true)
    }
}
