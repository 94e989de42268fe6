use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use tokio::time::Instant;

use crate::body::BodyError;
use crate::books::Books;
use crate::catalog::ModelName;
use crate::error::Failure;
use crate::finished::{CallerLabel, Finished, Outcome};
use crate::media::Media;
use crate::permit::Permit;
use crate::table::Route;
use crate::tally::Tally;
use crate::track::{Hold, RequestState, Track};
use crate::usage::{Usage, UsageScan};

/// Follows one request from its arrival until its answer is gone, and enters it into the books when it is dropped.
pub(crate) struct Meter {
    books: Arc<Books>,
    track: Arc<Track>,
    /// The request's place in the books.
    place: usize,
    caller: Option<CallerLabel>,
    /// Where the door reads what the request costs.
    tally: Option<Tally>,
    /// What the caller got.
    status: Option<StatusCode>,
    ending: Ending,
    /// Whether the last attempt failed, and is not in the books.
    has_failed: AtomicBool,
    /// Boxed, and only there for an answer of which something can be read: what holds it is moved a lot.
    reading: Option<Box<Reading>>,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    /// It was dropped before.
    Open,
    Complete,
    Refused(&'static str),
    Failed(&'static str),
    CallerLeft(&'static str),
}

struct Reading {
    scan: UsageScan,
    first_chunk: Option<Instant>,
}

impl Meter {
    /// Begins with a request's arrival.
    pub(crate) fn begin(
        books: &Arc<Books>,
        track: Track,
        caller: Option<CallerLabel>,
        tally: Option<Tally>,
    ) -> Self {
        let track = Arc::new(track);
        let place = books.begin(&track);
        let (books, status, ending) = (Arc::clone(books), None, Ending::Open);
        let has_failed = AtomicBool::new(false);
        Self { books, track, place, caller, tally, status, ending, has_failed, reading: None }
    }

    pub(crate) fn track(&self) -> &Arc<Track> {
        &self.track
    }

    /// Who sent it, as far as the door said.
    pub(crate) fn caller(&self) -> Option<Arc<str>> {
        self.caller.as_ref().map(|label| Arc::clone(&label.0))
    }

    /// Counts bytes of the request's body that have been read.
    pub(crate) fn sent(&self, n_bytes: usize) {
        self.track.bytes_in.fetch_add(n_bytes as u64, Ordering::Relaxed);
    }

    /// Notes which model is meant although no backend is to be asked.
    pub(crate) fn meant(&self, model: &Arc<ModelName>) {
        self.track.placed().model.get_or_insert_with(|| Arc::clone(model));
    }

    /// Notes that a backend is about to be asked.
    pub(crate) fn attempt(&self, route: &Route) {
        let before = {
            let mut placed = self.track.placed();
            placed.model.clone_from(&route.model);
            placed.connection.replace(Arc::clone(&route.backend.label))
        };
        self.track.enter(RequestState::Connecting);
        if let Some(failed) = before
            && self.has_failed.swap(false, Ordering::Relaxed)
            && self.is_measured()
        {
            self.books.attempt_failed(&failed);
        }
    }

    /// Notes that the backend that was asked last has failed: should another be asked, that counts as an attempt that
    /// failed. That it has not what was asked for, or still loads it, is no failure.
    pub(crate) fn attempt_failed(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    /// Tells whether this is the backend that was asked last.
    pub(crate) fn is_at(&self, route: &Route) -> bool {
        self.track.placed().connection.as_ref().is_some_and(|id| Arc::ptr_eq(id, &route.backend.label))
    }

    /// Notes that a backend is being sent the request.
    pub(crate) fn connected(&self) {
        self.track.enter(RequestState::FirstByte);
    }

    /// Notes that there is an answer. `length`: its body's, where it is known.
    pub(crate) fn answered(&mut self, status: StatusCode, media: Option<Media>, length: Option<u64>) {
        self.status = Some(status);
        if let Some(media) = media
            && status.is_success()
            && (self.is_measured() || self.is_tallied())
        {
            self.reading = Some(Box::new(Reading { scan: UsageScan::new(media, length), first_chunk: None }));
        }
    }

    /// Puts down what the request occupies while its answer is passed on.
    pub(crate) fn hold(&self, hold: Hold) {
        self.track.hold(hold);
    }

    /// Takes it back; none when the request was cancelled.
    pub(crate) fn release(&self) -> Option<Permit> {
        self.track.release()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.track.is_cancelled()
    }

    /// Notes a chunk of the answer that is passed on. It is looked at where it lies.
    pub(crate) fn passed(&mut self, data: &[u8]) {
        // Nobody else writes these: no read-modify-write.
        let before = self.track.bytes_out.load(Ordering::Relaxed);
        self.track.bytes_out.store(before + data.len() as u64, Ordering::Relaxed);
        self.track.handed(true);
        let now = (before == 0 && !data.is_empty()).then(Instant::now);
        if let Some(now) = now {
            self.track.answered(now);
        }
        if let Some(reading) = &mut self.reading {
            reading.scan.pass(data);
            let chunks = reading.scan.chunks();
            self.track.tokens.store(chunks, Ordering::Relaxed);
            if let Some(tally) = &self.tally {
                tally.note(chunks);
            }
            if chunks > 0 && reading.first_chunk.is_none() {
                reading.first_chunk = Some(now.unwrap_or_else(Instant::now));
            }
        }
    }

    /// Notes that the caller has taken what there was, and would take more.
    pub(crate) fn waits_for_backend(&self) {
        self.track.handed(false);
    }

    /// Tells whether the answer is a stream that has not said that it is complete; it is asked when nothing more comes.
    pub(crate) fn lacks_end(&mut self) -> bool {
        self.reading.as_mut().is_some_and(|reading| reading.scan.lacks_end())
    }

    /// Notes that the answer came to its end.
    pub(crate) fn complete(&mut self) {
        self.ending = Ending::Complete;
    }

    /// Notes that the answer broke off.
    pub(crate) fn broke(&mut self, error: BodyError) {
        self.ending = Ending::Failed(error.code());
    }

    /// Notes that we answer ourselves.
    pub(crate) fn refused(&mut self, failure: &Failure) {
        self.status = Some(failure.status());
        let code = failure.code();
        self.ending = match failure {
            Failure::Unreachable { .. }
            | Failure::Lost(_)
            | Failure::NotHttp(_)
            | Failure::Hangs(_)
            | Failure::Unauthorised(_)
            | Failure::FirstByteTimeout { .. } => Ending::Failed(code),
            Failure::UploadFailed | Failure::UploadStalled | Failure::Cancelled => Ending::CallerLeft(code),
            Failure::UnknownModel(_)
            | Failure::UnknownConnection(_)
            | Failure::IsAlias { .. }
            | Failure::NotFound
            | Failure::MethodNotAllowed
            | Failure::WrongDialect { .. }
            | Failure::LocalOnly { .. }
            | Failure::PathNotAllowed
            | Failure::PathNotInScope
            | Failure::ModelNotInScope
            | Failure::BodyNotInScope(_)
            | Failure::ModelTooLate
            | Failure::NoRoom
            | Failure::NoBackend
            | Failure::Down { .. }
            | Failure::Warming(_)
            | Failure::Full(_)
            | Failure::QueueFull { .. }
            | Failure::QueueTimeout { .. }
            | Failure::StillLoading { .. } => Ending::Refused(code),
        };
    }

    fn is_measured(&self) -> bool {
        self.track.class.is_some() && self.books.measures()
    }

    fn is_tallied(&self) -> bool {
        self.tally.is_some() && self.track.class.is_some()
    }

    /// Says in the tally what the request has cost.
    fn settle(&mut self, finished: Option<&Finished>) {
        let Some(tally) = self.tally.take() else { return };
        let (prompt, completion) = match finished {
            Some(finished) => (finished.prompt_tokens, finished.completion_tokens),
            None => {
                let complete = matches!(self.ending, Ending::Complete);
                let usage =
                    self.reading.as_mut().map(|reading| reading.scan.finish(complete)).unwrap_or_default();
                (usage.prompt, usage.completion)
            }
        };
        tally.note(prompt.unwrap_or(0).saturating_add(completion.unwrap_or(0)));
    }

    /// Tells whether the backend has answered in full and badly: with status 5xx, or an error inside of a stream.
    pub(crate) fn answered_badly(&self) -> bool {
        self.outcome().0 == Outcome::Failed
    }

    /// Says how it ended, and why if not well.
    fn outcome(&self) -> (Outcome, Option<&'static str>) {
        let scan = self.reading.as_ref().map(|reading| &reading.scan);
        // A caller that has seen the end need not wait for the formalities.
        let complete = match self.ending {
            Ending::Complete => true,
            Ending::Open => scan.is_some_and(UsageScan::is_over),
            Ending::Refused(_) | Ending::Failed(_) | Ending::CallerLeft(_) => false,
        };
        if complete {
            let status = self.status.unwrap_or_default();
            return if status.is_server_error() {
                (Outcome::Failed, Some("backend_error"))
            } else if status.is_client_error() {
                (Outcome::Rejected, Some("backend_rejected"))
            } else if scan.is_some_and(UsageScan::has_failed) {
                (Outcome::Failed, Some("backend_error"))
            } else {
                (Outcome::Ok, None)
            };
        }
        if self.is_cancelled() {
            return (Outcome::Cancelled, Some("cancelled"));
        }
        match self.ending {
            Ending::Refused(code) => (Outcome::Refused, Some(code)),
            Ending::Failed(code) => (Outcome::Failed, Some(code)),
            Ending::CallerLeft(code) => (Outcome::Cancelled, Some(code)),
            Ending::Open | Ending::Complete => (Outcome::Cancelled, Some("caller_gone")),
        }
    }

    fn finished(&mut self, now: Instant) -> Option<Finished> {
        let class = self.track.class.filter(|_| self.books.measures())?;
        let (outcome, error) = self.outcome();
        let complete = matches!(self.ending, Ending::Complete);
        let usage = self.reading.as_mut().map(|reading| reading.scan.finish(complete)).unwrap_or_default();
        let first_chunk = self.reading.as_ref().and_then(|reading| reading.first_chunk);
        let duration = now.saturating_duration_since(self.track.started);
        let today = SystemTime::now();
        let pace = Pace::of(&usage, first_chunk.map(|at| now.saturating_duration_since(at)), duration);
        let placed = self.track.placed();
        Some(Finished {
            request_id: self.track.request_id.clone(),
            started: today.checked_sub(duration).unwrap_or(today),
            ingress: self.track.ingress,
            caller: self.caller.take(),
            class,
            connection: placed.connection.clone(),
            model: placed.model.as_ref().map(|model| Arc::clone(&model.text)),
            outcome,
            error,
            status: self.status,
            queued: self.track.queued(),
            time_to_first_token: first_chunk.map(|at| at.saturating_duration_since(self.track.started)),
            duration,
            bytes_in: self.track.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.track.bytes_out.load(Ordering::Relaxed),
            prompt_tokens: usage.prompt,
            cached_tokens: usage.cached,
            completion_tokens: usage.completion,
            tokens_per_s: pace.map(Pace::tokens_per_s),
            generation_time: pace.map(|pace| pace.took),
            prompt_time: usage.prompting,
            load_time: usage.loading,
        })
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // The end of an answer that was dropped half-way: its connection is closed with this.
        drop(self.release());
        let now = Instant::now();
        let finished = self.finished(now);
        self.settle(finished.as_ref());
        self.books.end(self.place, finished.map(|finished| (finished, now)));
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("track", &self.track).finish_non_exhaustive()
    }
}

/// How fast the tokens of an answer came.
#[derive(Clone, Copy)]
struct Pace {
    tokens: f64,
    /// Never zero.
    took: Duration,
}

impl Pace {
    /// `streamed`: from the first chunk to the end.
    fn of(usage: &Usage, streamed: Option<Duration>, duration: Duration) -> Option<Self> {
        let tokens = usage.completion.filter(|n| *n > 0)? as f64;
        let (tokens, took) = match (usage.generating, streamed) {
            (Some(generating), _) => (tokens, generating),
            // The first one was there when the time began.
            (None, Some(streamed)) if tokens > 1.0 => (tokens - 1.0, streamed),
            (None, _) => (tokens, duration),
        };
        (!took.is_zero()).then_some(Self { tokens, took })
    }

    fn tokens_per_s(self) -> f64 {
        self.tokens / self.took.as_secs_f64()
    }
}
