use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::admission::Ticket;
use crate::finished::Finished;
use crate::metrics::{Ledger, Live, MetricsSnapshot};
use crate::track::{RunningRequest, Track};

/// Which requests run, and what those brought that are over.
///
/// A request takes the lock for a moment when it begins and when it ends, and never in between.
#[derive(Debug)]
pub(crate) struct Books {
    started: Instant,
    measures: AtomicBool,
    running: AtomicUsize,
    /// Told of each change of that count.
    load: Notify,
    inner: Mutex<Inner>,
    /// Where records go; empty until somebody wants them.
    reader: OnceLock<mpsc::Sender<Finished>>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    tracks: Vec<Option<Arc<Track>>>,
    /// Places in `tracks` that are free.
    free: Vec<usize>,
    ledger: Ledger,
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            measures: AtomicBool::new(true),
            running: AtomicUsize::new(0),
            load: Notify::new(),
            inner: Mutex::default(),
            reader: OnceLock::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Tells whether requests are measured, or only listed while they run.
    pub(crate) fn measures(&self) -> bool {
        self.measures.load(Ordering::Relaxed)
    }

    pub(crate) fn measure(&self, enabled: bool) {
        self.measures.store(enabled, Ordering::Relaxed);
    }

    /// Counts the requests that run.
    pub(crate) fn in_flight(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Waits for the next change of that count, from this call on.
    pub(crate) fn load_changes(&self) -> Notified<'_> {
        self.load.notified()
    }

    /// Lists a request; returns its place.
    pub(crate) fn begin(&self, track: &Arc<Track>) -> usize {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.load.notify_waiters();
        let mut inner = self.inner();
        let track = Some(Arc::clone(track));
        match inner.free.pop() {
            Some(place) => {
                inner.tracks[place] = track;
                place
            }
            None => {
                inner.tracks.push(track);
                inner.tracks.len() - 1
            }
        }
    }

    /// Strikes a request off the list, and enters what it brought.
    pub(crate) fn end(&self, place: usize, brought: Option<(Finished, Instant)>) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.load.notify_waiters();
        let mut inner = self.inner();
        let track = inner.tracks[place].take();
        inner.free.push(place);
        let (Some(track), Some((finished, now))) = (track, brought) else { return };
        // In one go: whoever adds up what runs and what is over sees each byte once.
        inner.ledger.enter(&finished, track.span(self.started, now));
        drop(inner);
        if let Some(reader) = self.reader.get()
            && reader.try_send(finished).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes an attempt that failed before another backend was asked.
    pub(crate) fn attempt_failed(&self, connection: &Arc<str>) {
        self.inner().ledger.attempt_failed(connection);
    }

    /// Returns the end of a channel of `capacity` for records; none when somebody has it already.
    pub(crate) fn records(&self, capacity: usize) -> Option<mpsc::Receiver<Finished>> {
        let (tx, rx) = mpsc::channel(capacity.max(1));
        self.reader.set(tx).ok().map(|()| rx)
    }

    /// Shows the sums, the LLM requests that run, and the time since the start, all of one moment.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Ledger, &[Live], Duration) -> T) -> T {
        let now = Instant::now();
        let inner = self.inner();
        let running = inner.tracks.iter().flatten().filter(|track| track.class.is_some());
        let live: Vec<Live> = if self.measures() {
            running.map(|track| track.live(self.started, now)).collect()
        } else {
            Vec::new()
        };
        look(&inner.ledger, &live, now.saturating_duration_since(self.started))
    }

    pub(crate) fn snapshot(&self) -> MetricsSnapshot {
        let snapshot = self.look(Ledger::snapshot);
        MetricsSnapshot { dropped_records: self.dropped.load(Ordering::Relaxed), ..snapshot }
    }

    /// Returns the requests that run, the oldest first. Those that were cancelled are over for all but themselves.
    ///
    /// `positions`: of those that wait in the queue, by ticket.
    pub(crate) fn requests(&self, positions: &HashMap<Ticket, usize>) -> Vec<RunningRequest> {
        let (now, today) = (Instant::now(), SystemTime::now());
        let inner = self.inner();
        let running = inner.tracks.iter().flatten().filter(|track| !track.is_cancelled());
        let mut shown: Vec<RunningRequest> =
            running.map(|track| track.shown(now, today, positions)).collect();
        drop(inner);
        shown.sort_by_key(|request| std::cmp::Reverse(request.age));
        shown
    }

    /// Cancels the requests with an id; tells whether there were any.
    pub(crate) fn cancel(&self, request_id: &str) -> bool {
        self.cancel_each(|track| track.request_id.as_bytes() == request_id.as_bytes()) > 0
    }

    /// Cancels the requests of a caller; tells whether there were any.
    pub(crate) fn cancel_caller(&self, caller: &str) -> bool {
        self.cancel_each(|track| track.caller.as_deref() == Some(caller)) > 0
    }

    /// Cancels the requests whose callers have read nothing at so many looks in a row, of which this is one; returns how
    /// many there were.
    pub(crate) fn cancel_unread(&self, looks: u32) -> usize {
        self.cancel_each(|track| track.looks_unread() >= looks)
    }

    fn cancel_each(&self, is_meant: impl Fn(&Track) -> bool) -> usize {
        let named: Vec<Arc<Track>> = {
            let inner = self.inner();
            let running = inner.tracks.iter().flatten().filter(|track| !track.is_cancelled());
            running.filter(|track| is_meant(track)).cloned().collect()
        };
        // Closing sockets takes system calls: not under the lock.
        for track in &named {
            track.cancel();
        }
        named.len()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Sums and a list: after a panic at most one request is missing from them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
