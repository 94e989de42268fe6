//! The way into the recorder, for everyone who has something to tell: never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tunnel_api::Warning;
use tunnel_api::tunnel::Target;

use super::Shared;
use super::counts::ApiCounts;
use super::event::NewEvent;
use super::key::StoredKey;
use super::usage::RequestRecord;

/// Requests that may wait for the recorder: more than a second's worth of the fastest callers.
const REQUESTS: usize = 4096;
/// Events that may wait for the recorder.
const EVENTS: usize = 256;

/// Tells the recorder what happened. Cheap to clone; no call waits or fails.
#[derive(Debug, Clone)]
pub(crate) struct RecorderHandle {
    requests: mpsc::Sender<RequestRecord>,
    events: mpsc::Sender<NewEvent>,
    latest: watch::Sender<Latest>,
    shared: Arc<Shared>,
}

/// The recorder's end of a [`RecorderHandle`].
pub(super) struct Inbox {
    pub(super) requests: mpsc::Receiver<RequestRecord>,
    pub(super) events: mpsc::Receiver<NewEvent>,
    pub(super) latest: watch::Receiver<Latest>,
}

/// What only the newest version matters of; so it has no queue that could be full.
#[derive(Debug, Clone, Default)]
pub(super) struct Latest {
    /// Counted since the start.
    pub(super) api: ApiCounts,
    pub(super) target: Option<(Target, Timestamp)>,
    /// Each with its subject.
    pub(super) warnings: Option<Arc<[(String, Warning)]>>,
    pub(super) keys: Option<KeyList>,
}

/// All keys, and how many lists there were before this one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KeyList {
    pub(super) version: u64,
    pub(super) keys: Arc<[StoredKey]>,
}

/// What was dropped because a queue was full, since the start.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    pub(super) requests: AtomicU64,
    pub(super) events: AtomicU64,
}

/// What was dropped because the recorder or the database could not keep up, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DropCounts {
    pub(crate) requests: u64,
    pub(crate) events: u64,
}

impl Dropped {
    pub(super) fn counts(&self) -> DropCounts {
        DropCounts {
            requests: self.requests.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
        }
    }
}

impl RecorderHandle {
    pub(super) fn new(shared: Arc<Shared>) -> (Self, Inbox) {
        let (requests, requests_reader) = mpsc::channel(REQUESTS);
        let (events, events_reader) = mpsc::channel(EVENTS);
        let (latest, latest_reader) = watch::channel(Latest::default());
        let inbox = Inbox { requests: requests_reader, events: events_reader, latest: latest_reader };
        (Self { requests, events, latest, shared }, inbox)
    }

    /// Counts an LLM request that ended. Dropped and counted as such when the queue is full.
    pub(crate) fn request(&self, record: RequestRecord) {
        if self.requests.try_send(record).is_err() {
            self.shared.dropped.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a request that the control API answered.
    pub(crate) fn api(&self, outcome: ApiOutcome) {
        self.latest.send_modify(|latest| match outcome {
            ApiOutcome::Ok => latest.api.ok += 1,
            ApiOutcome::Failed => latest.api.failed += 1,
        });
    }

    /// Adds an event to the history. When the queue is full it is dropped, which leaves a gap in the ids.
    pub(crate) fn event(&self, event: NewEvent) {
        if self.events.try_send(event).is_err() {
            self.shared.dropped.events.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps what the user wants of the tunnel from `at` on.
    pub(crate) fn target(&self, target: Target, at: Timestamp) {
        self.latest.send_modify(|latest| latest.target = Some((target, at)));
    }

    /// Keeps which keys for apps there are: all of them. What it returns tells when they are on the disk, and need not
    /// be waited for.
    pub(crate) fn keys(&self, keys: Arc<[StoredKey]>) -> Written {
        let mut version = 0;
        self.latest.send_modify(|latest| {
            version = latest.keys.as_ref().map_or(1, |before| before.version + 1);
            latest.keys = Some(KeyList { version, keys });
        });
        Written { version, reached: self.shared.keys_written.subscribe() }
    }

    /// Returns the target that was told last.
    #[cfg(test)]
    pub(crate) fn last_target(&self) -> Option<Target> {
        self.latest.borrow().target.map(|(target, _)| target)
    }

    /// Keeps which warnings are active now: all of them, each with its subject.
    ///
    /// The subject is what the warning is about where a code can hold several times, such as the id of a connection;
    /// else it is empty. It stays the same while the text changes.
    pub(crate) fn warnings(&self, active: impl IntoIterator<Item = (String, Warning)>) {
        let active: Arc<[_]> = active.into_iter().collect();
        self.latest.send_if_modified(|latest| {
            let changed = latest.warnings.as_ref() != Some(&active);
            latest.warnings = Some(active);
            changed
        });
    }
}

/// A list of keys on its way to the disk.
#[derive(Debug)]
pub(crate) struct Written {
    version: u64,
    reached: watch::Receiver<u64>,
}

impl Written {
    /// How long it is waited for. A failed commit is tried again meanwhile, and after it.
    const LIMIT: Duration = Duration::from_secs(3);

    /// Waits until it is on the disk; without a database, until the recorder has it. Tells whether that was in time.
    pub(crate) async fn in_time(mut self) -> bool {
        let reached = self.reached.wait_for(|reached| *reached >= self.version);
        tokio::time::timeout(Self::LIMIT, reached).await.is_ok_and(|reached| reached.is_ok())
    }
}

/// How the control API answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiOutcome {
    /// With a status below 400.
    Ok,
    Failed,
}
