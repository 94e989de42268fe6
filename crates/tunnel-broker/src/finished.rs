use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, StatusCode};

use crate::broker::Ingress;
use crate::class::EndpointClass;

/// How an LLM request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A complete answer.
    Ok,
    /// A complete answer with which the backend rejects the request: status 4xx.
    Rejected,
    /// The backend's fault: unreachable, silent, broken off, status 5xx, an error inside of the stream, or it refuses the
    /// credential that is stored for it.
    Failed,
    /// The caller went away, or somebody cancelled the request.
    Cancelled,
    /// No backend was asked: unknown model, nothing that is up, all busy, not allowed.
    Refused,
}

impl Outcome {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Rejected, Self::Failed, Self::Cancelled, Self::Refused];

    /// The name in records and metrics: `ok`, `rejected`, `failed`, `cancelled`, `refused`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
        }
    }
}

/// What a request's front door calls the caller, such as the name of an application's key: an extension of the
/// request.
///
/// Slots of a backend are shared out fairly between callers. Otherwise it is only passed on in [`Finished`]; it never
/// becomes a metric's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerLabel(pub Arc<str>);

/// One LLM request that is over, however it ended. One record a request, not one an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// As in `X-Request-Id`: visible ASCII.
    pub request_id: HeaderValue,
    /// When it arrived.
    pub started: SystemTime,
    /// The door through which it came.
    pub ingress: Ingress,
    /// Who sent it, as far as the door said.
    pub caller: Option<CallerLabel>,
    /// What it asked for.
    pub class: EndpointClass,
    /// The id of the backend that was asked last. None when none was asked.
    pub connection: Option<Arc<str>>,
    /// The model's name in the catalogue. None when the request named none that is there.
    pub model: Option<Arc<str>>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not end well, such as `backend_lost`. None when it did.
    pub error: Option<&'static str>,
    /// The status that the caller got. None when it left, or was cut off, before there was one.
    pub status: Option<StatusCode>,
    /// How long it waited for a free slot, or until a model was loaded. Zero: it did not.
    pub queued: Duration,
    /// From the arrival to the first chunk of a streamed answer with some of its text. None for other answers.
    pub time_to_first_token: Option<Duration>,
    /// From the arrival to the end of the answer, or to where it was cut off.
    pub duration: Duration,
    /// Bytes of the request's body, as far as it was read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were passed on.
    pub bytes_out: u64,
    /// Tokens of the prompt, where the server says. What it had in its cache is among them.
    pub prompt_tokens: Option<u64>,
    /// Those of them that the server had in its cache, where it says.
    pub cached_tokens: Option<u64>,
    /// Tokens of the answer: as the server says, else the chunks of a stream.
    pub completion_tokens: Option<u64>,
    /// Speed of the answer: over the time that the server says, else from the first chunk of a stream to its end,
    /// else over the whole duration.
    pub tokens_per_s: Option<f64>,
    /// How long the tokens of the answer took: the time that [`Self::tokens_per_s`] is over.
    pub generation_time: Option<Duration>,
    /// How long the server read the prompt, where it says.
    pub prompt_time: Option<Duration>,
    /// How long the server loaded the model for this request, where it says.
    pub load_time: Option<Duration>,
}
