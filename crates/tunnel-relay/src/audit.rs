//! The audit log: security events, one JSON line each, chained by hashes.
//!
//! [`AuditLog::note`] is called from the data path and never waits: it puts the event into a bounded queue. One task
//! takes events from there and has them written by a thread that may wait for the disk. What does not fit, and what the
//! disk does not take, is counted, and the next line that is written says how many there were.
//!
//! - [`line`]: what a line looks like and how it is chained.
//! - [`log_file`]: the file, its rotation, how it goes on after a restart or a crash.
//! - [`verify`]: walks a log and says where the chain is broken.

mod head;
mod line;
mod log_file;
mod pseudonym;
mod tail;
mod throttle;
pub(crate) mod verify;
mod writer;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::metrics::Metrics;
use crate::private_file::{self, PrivateFileError};

use line::Record;
use log_file::Rotation;
pub use pseudonym::Kind;
use pseudonym::Pseudonyms;
use throttle::{Throttle, Verdict};
use writer::Writer;

/// Most events that wait for the disk. Beyond, they are counted and not written.
const QUEUE: usize = 1_024;

/// Longest wait for the last lines at the end of the process: a disk that hangs must not hold it.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Name of the log in the data directory.
pub(crate) const FILE_NAME: &str = "audit.jsonl";

/// Something that whoever is responsible for the relay may have to account for.
///
/// Names of people, devices and addresses are written as keyed hashes; never a token, a path, a prompt.
///
/// What a subject does is written 300 times at once and then ten times a minute for each kind of event; the next such line
/// of the subject says how many there were more.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The relay runs.
    Started,
    /// The relay ends in good order. Its absence before the next start is a crash.
    Stopped,
    /// A key for an app was made.
    KeyCreated { subject: &'a str, token_id: &'a str, scopes: &'static str },
    /// A token was revoked, by its owner or an operator.
    TokenRevoked { subject: &'a str, token_id: &'a str },
    /// A token was not taken. Written once a second for each address and 50 times a second at most; the next such line
    /// says how many there were more.
    TokenRefused { client: IpAddr, code: &'static str },
    /// A desktop's session is up.
    TunnelUp { subject: &'a str, device: &'a str, token_id: &'a str, client: IpAddr },
    /// A desktop's session has ended.
    TunnelDown { subject: &'a str, device: &'a str, code: u16 },
    /// A newer dial took a device over.
    Takeover { subject: &'a str, device: &'a str },
    /// A caller was over a limit. Written once a minute for each subject, or address, and limit at most; the next such
    /// line says how many there were more.
    LimitHit { subject: Option<&'a str>, client: IpAddr, code: &'static str },
    /// An operator did something, to this subject where it concerns one. `detail` is written as it is, so it names
    /// nobody.
    Admin { action: &'static str, subject: Option<&'a str>, detail: &'a str },
}

/// Takes events; never waits, and never holds up who tells them.
#[derive(Clone, Debug)]
pub(crate) struct AuditLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<Record>,
    throttle: Mutex<Throttle>,
    lost: Lost,
    /// Where the log is written; set when it is opened.
    path: Arc<OnceLock<PathBuf>>,
    closing: CancellationToken,
    writer: TaskTracker,
}

/// Events that no line tells of.
#[derive(Clone, Debug)]
struct Lost {
    /// Since the last line that said so.
    unsaid: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

impl Lost {
    fn add(&self, n: u64) {
        self.unsaid.fetch_add(n, Ordering::Relaxed);
        self.metrics.audit_lost.inc_by(n);
    }

    fn take(&self) -> u64 {
        self.unsaid.swap(0, Ordering::Relaxed)
    }

    /// Puts back what was taken and could not be said.
    fn put_back(&self, n: u64) {
        self.unsaid.fetch_add(n, Ordering::Relaxed);
    }
}

impl AuditLog {
    /// Starts to write to `file`, or to `audit.jsonl` in the data directory, where the key of the hashes is made when
    /// it is missing.
    ///
    /// A log that cannot be written does not keep the relay from its work: that is a warning, a metric, and tried again.
    pub(crate) fn start(
        data_dir: &Path,
        file: Option<&Path>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, PrivateFileError> {
        let file = file.map_or_else(|| data_dir.join(FILE_NAME), Path::to_owned);
        Ok(Self::with(pseudonyms(data_dir)?, file, Rotation::default(), metrics))
    }

    fn with(names: Pseudonyms, file: PathBuf, rotation: Rotation, metrics: &Arc<Metrics>) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        let lost = Lost { unsaid: Arc::default(), metrics: Arc::clone(metrics) };
        let log = Self(Arc::new(Shared {
            queue,
            throttle: Mutex::default(),
            lost: lost.clone(),
            path: Arc::default(),
            closing: CancellationToken::new(),
            writer: TaskTracker::new(),
        }));
        let writer = Writer::new(file, rotation, names, lost, Arc::clone(&log.0.path));
        log.note(&Event::Started);
        // Not the log itself, whose sender would keep the writer from ending with it.
        let weak = Arc::downgrade(&log.0);
        let held = move |all| {
            let shared = weak.upgrade();
            shared.map_or_else(Vec::new, |shared| shared.throttle().take_held(all, Instant::now()))
        };
        log.0.writer.spawn(writer.run(events, log.0.closing.clone(), held));
        log.0.writer.close();
        log
    }

    /// Notes an event.
    pub(crate) fn note(&self, event: &Event<'_>) {
        let record = Record::of(event, Timestamp::now());
        let verdict = self.0.throttle().pass(event, record, Instant::now());
        let is_lost = match verdict {
            Verdict::Write(record) => self.0.queue.try_send(record).is_err(),
            Verdict::Later => false,
            Verdict::Lost => true,
        };
        if is_lost {
            self.0.lost.add(1);
        }
    }

    /// Returns the last lines of the log, at most `n`; those of the moment may not be among them yet.
    pub(crate) async fn tail(&self, n: usize) -> std::io::Result<Vec<Value>> {
        let Some(path) = self.0.path.get().cloned() else { return Ok(Vec::new()) };
        tokio::task::spawn_blocking(move || tail::last_lines(&path, n))
            .await
            .map_err(std::io::Error::other)?
    }

    /// Writes what was noted so far, and that the relay ends.
    pub(crate) async fn finish(&self) {
        self.0.closing.cancel();
        if tokio::time::timeout(LAST_LINES, self.0.writer.wait()).await.is_err() {
            warn!("the disk did not take the last lines of the audit log in time");
        }
    }
}

impl Shared {
    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pseudonyms(data_dir: &Path) -> Result<Pseudonyms, PrivateFileError> {
    private_file::secret(&key_path(data_dir)).map(|secret| Pseudonyms::new(&secret))
}

fn key_path(data_dir: &Path) -> PathBuf {
    data_dir.join("audit.key")
}

/// Returns the hash under which the lines name somebody. The key must be there already.
pub(crate) fn hash_of(data_dir: &Path, kind: Kind, name: &str) -> Result<String, PrivateFileError> {
    let names = Pseudonyms::new(&private_file::read_secret(&key_path(data_dir))?);
    // Addresses have one spelling in the log, whatever the operator types.
    Ok(match name.parse::<IpAddr>() {
        Ok(address) if kind == Kind::Client => names.of_address(address),
        _ => names.of(kind, name),
    })
}

#[cfg(test)]
mod tests;
