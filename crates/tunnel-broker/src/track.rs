//! One request that runs: what others may see of it, and how they can end it.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::task::AtomicWaker;
use http::HeaderValue;
use http::uri::PathAndQuery;
use tokio::time::Instant;

use crate::admission::Ticket;
use crate::broker::Ingress;
use crate::catalog::ModelName;
use crate::class::EndpointClass;
use crate::conn::Cutter;
use crate::metrics::{Live, Span};
use crate::permit::Permit;

/// Where a request is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// Its body is being read, or a backend is looked for.
    Waiting,
    /// It waits for a free slot, or until a backend has loaded its model.
    Queued,
    /// A connection to a backend is being opened.
    Connecting,
    /// A backend has it, or is being sent it, and has not begun to answer.
    FirstByte,
    /// The answer is being passed on.
    Streaming,
}

impl RequestState {
    /// The name in documents: `waiting`, `queued`, `connecting`, `first_byte`, `streaming`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Connecting => "connecting",
            Self::FirstByte => "first_byte",
            Self::Streaming => "streaming",
        }
    }
}

/// A request that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningRequest {
    /// As in `X-Request-Id`. A caller chooses it: two requests may have the same.
    pub id: String,
    /// The door through which it came.
    pub ingress: Ingress,
    /// Who sent it, as far as the door said: [`CallerLabel`](crate::CallerLabel).
    pub caller: Option<Arc<str>>,
    /// What it asks a model for; none for all else, such as a pull.
    pub class: Option<EndpointClass>,
    /// The id of the backend that is being asked.
    pub connection: Option<String>,
    /// The model's name in the catalogue.
    pub model: Option<String>,
    /// The path, without the query.
    pub path: String,
    /// How far it has come.
    pub state: RequestState,
    /// Its position among those that wait for a slot, 1 for the next one; where it waits for several backends, the
    /// best. None unless it waits for a slot.
    pub queue_position: Option<usize>,
    /// The ids of the backends that it waits for. Empty unless it waits.
    pub waiting_for: Vec<String>,
    /// When it arrived.
    pub started: SystemTime,
    /// How long ago that was.
    pub age: Duration,
    /// Bytes of the request's body so far.
    pub bytes_in: u64,
    /// Bytes of the answer so far.
    pub bytes_out: u64,
    /// Chunks of a streamed answer so far: about as many tokens. 0 while metrics are disabled.
    pub tokens: u64,
}

/// What is known of a request while it runs. Written by its holder without locks, but for [`Placed`].
pub(crate) struct Track {
    pub(crate) request_id: HeaderValue,
    pub(crate) ingress: Ingress,
    pub(crate) caller: Option<Arc<str>>,
    pub(crate) class: Option<EndpointClass>,
    pub(crate) started: Instant,
    target: PathAndQuery,
    state: AtomicU8,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) tokens: AtomicU64,
    /// Microseconds from the arrival to the first bytes of the answer; 0 while there are none.
    answered_us: AtomicU64,
    pub(crate) queue: QueueMarks,
    /// Whether it is the caller's turn: a part of the answer was handed out, and no more was asked for since.
    handed: AtomicBool,
    unread: Unread,
    cancelled: AtomicBool,
    /// The task that waits for the answer's headers.
    waiter: AtomicWaker,
    placed: Mutex<Placed>,
}

/// What a request has to do with the queue. All 0 for one that never waits.
#[derive(Debug, Default)]
pub(crate) struct QueueMarks {
    /// The ticket while it waits for a slot.
    pub(crate) ticket: AtomicU64,
    /// The position that it began with.
    pub(crate) position: AtomicU64,
    /// Microseconds of waits that are over.
    pub(crate) waited_us: AtomicU64,
    /// Those of them in which it waited for a slot, and not for a model.
    pub(crate) slot_us: AtomicU64,
}

/// What was seen of a caller that does not read. Written by who looks for them only.
#[derive(Debug, Default)]
struct Unread {
    /// Bytes of the answer at the last look.
    bytes_out: AtomicU64,
    /// Looks in a row at which it was the caller's turn, with nothing taken since the one before.
    looks: AtomicU32,
}

/// Where a request is. Changes a few times in its life, never with a chunk.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    pub(crate) connection: Option<Arc<str>>,
    pub(crate) model: Option<Arc<ModelName>>,
    /// The ids of the backends that it waits for.
    pub(crate) waiting_for: Vec<Arc<str>>,
    /// What the request occupies while its answer is passed on.
    hold: Option<Hold>,
}

/// A backend's connection in use, and the right to use it.
///
/// It is here, and not with the answer's body, so that a request can be ended whose caller has stopped reading:
/// nobody polls that body.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) cutter: Cutter,
    pub(crate) permit: Permit,
}

impl Track {
    pub(crate) fn new(
        request_id: HeaderValue,
        ingress: Ingress,
        class: Option<EndpointClass>,
        target: PathAndQuery,
        caller: Option<Arc<str>>,
    ) -> Self {
        Self {
            request_id,
            ingress,
            caller,
            class,
            started: Instant::now(),
            target,
            state: AtomicU8::new(RequestState::Waiting as u8),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            answered_us: AtomicU64::new(0),
            queue: QueueMarks::default(),
            handed: AtomicBool::new(false),
            unread: Unread::default(),
            cancelled: AtomicBool::new(false),
            waiter: AtomicWaker::new(),
            placed: Mutex::default(),
        }
    }

    pub(crate) fn enter(&self, state: RequestState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Returns how long it has waited for backends, in waits that are over.
    pub(crate) fn queued(&self) -> Duration {
        Duration::from_micros(self.queue.waited_us.load(Ordering::Relaxed))
    }

    /// Returns the position with which it began to wait for a slot; none when it found one free.
    pub(crate) fn first_position(&self) -> Option<u64> {
        Some(self.queue.position.load(Ordering::Relaxed)).filter(|position| *position > 0)
    }

    /// Notes the first bytes of the answer.
    pub(crate) fn answered(&self, now: Instant) {
        self.enter(RequestState::Streaming);
        let us = now.saturating_duration_since(self.started).as_micros();
        self.answered_us.store(u64::try_from(us).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Notes whose turn it is.
    pub(crate) fn handed(&self, handed: bool) {
        self.handed.store(handed, Ordering::Relaxed);
    }

    /// Looks whether the caller reads; returns at how many looks in a row it did not.
    pub(crate) fn looks_unread(&self) -> u32 {
        let bytes = self.bytes_out.load(Ordering::Relaxed);
        let before = self.unread.bytes_out.swap(bytes, Ordering::Relaxed);
        let looks = if self.handed.load(Ordering::Relaxed) && bytes == before {
            self.unread.looks.load(Ordering::Relaxed).saturating_add(1)
        } else {
            0
        };
        self.unread.looks.store(looks, Ordering::Relaxed);
        looks
    }

    pub(crate) fn placed(&self) -> MutexGuard<'_, Placed> {
        // Each field is replaced as a whole: sound after a panic.
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts down what the request occupies from now on. A request that was cancelled meanwhile loses it.
    pub(crate) fn hold(&self, hold: Hold) {
        let mut placed = self.placed();
        if self.is_cancelled() {
            drop(placed);
            hold.cutter.cut();
        } else {
            placed.hold = Some(hold);
        }
    }

    /// Takes back what the request occupied; none when it was cancelled.
    pub(crate) fn release(&self) -> Option<Permit> {
        self.placed().hold.take().map(|hold| hold.permit)
    }

    /// Ends the request: its backend's connection is closed before this returns, or as soon as its task runs.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let hold = self.placed().hold.take();
        if let Some(hold) = hold {
            hold.cutter.cut();
        }
        self.waiter.wake();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Polls what leads to the answer; ready with none once the request is cancelled.
    pub(crate) fn poll_unless_cancelled<F: Future>(
        &self,
        answering: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<F::Output>> {
        if self.is_cancelled() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(answer) = answering.poll(cx) {
            return Poll::Ready(Some(answer));
        }
        self.waiter.register(cx.waker());
        // It may have been cancelled before there was somebody to wake.
        if self.is_cancelled() { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Returns the times of the request as times since `origin`, as if it ended at `now`.
    pub(crate) fn span(&self, origin: Instant, now: Instant) -> Span {
        let arrival = self.started.saturating_duration_since(origin);
        let end = now.saturating_duration_since(origin).max(arrival);
        let answer = match self.answered_us.load(Ordering::Relaxed) {
            0 => end,
            us => (arrival + Duration::from_micros(us)).min(end),
        };
        Span { arrival, answer, end }
    }

    pub(crate) fn live(&self, origin: Instant, now: Instant) -> Live {
        Live {
            span: self.span(origin, now),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            tokens: self.tokens.load(Ordering::Relaxed),
        }
    }

    /// `positions`: of all that wait, by ticket.
    pub(crate) fn shown(
        &self,
        now: Instant,
        today: SystemTime,
        positions: &HashMap<Ticket, usize>,
    ) -> RunningRequest {
        let age = now.saturating_duration_since(self.started);
        let placed = self.placed();
        RunningRequest {
            id: String::from_utf8_lossy(self.request_id.as_bytes()).into_owned(),
            ingress: self.ingress,
            caller: self.caller.clone(),
            class: self.class,
            connection: placed.connection.as_deref().map(str::to_owned),
            model: placed.model.as_ref().map(|model| model.text.to_string()),
            path: self.target.path().to_owned(),
            state: match self.state.load(Ordering::Relaxed) {
                n if n == RequestState::Queued as u8 => RequestState::Queued,
                n if n == RequestState::Connecting as u8 => RequestState::Connecting,
                n if n == RequestState::FirstByte as u8 => RequestState::FirstByte,
                n if n == RequestState::Streaming as u8 => RequestState::Streaming,
                _ => RequestState::Waiting,
            },
            queue_position: positions.get(&self.queue.ticket.load(Ordering::Relaxed)).copied(),
            waiting_for: placed.waiting_for.iter().map(|id| id.to_string()).collect(),
            started: today.checked_sub(age).unwrap_or(today),
            age,
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            tokens: self.tokens.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Track").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}
