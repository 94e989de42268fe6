//! Carries what the broker measured to the state's recorder.

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tunnel_broker::{Finished, Ingress, Outcome};

use crate::store::{RecorderHandle, RequestRecord, Work};

/// Records that wait to be carried over; the broker drops and counts what finds no room.
pub(crate) const ROOM: usize = 1024;

/// Runs until `stop`, then carries over what is waiting.
pub(crate) async fn carry(
    mut finished: mpsc::Receiver<Finished>,
    recorder: RecorderHandle,
    stop: CancellationToken,
) {
    while let Some(Some(request)) = stop.run_until_cancelled(finished.recv()).await {
        recorder.request(record(request));
    }
    while let Ok(request) = finished.try_recv() {
        recorder.request(record(request));
    }
}

fn record(request: Finished) -> RequestRecord {
    let key = match (&request.caller, request.ingress) {
        (Some(caller), _) => caller.0.to_string().into(),
        (None, Ingress::Local) => "local".into(),
        (None, Ingress::Tunnel) => "tunnel".into(),
        (None, Ingress::Lan) => "lan".into(),
    };
    RequestRecord {
        // When it ended; the day of that is the one that it counts for.
        at: Timestamp::try_from(request.started + request.duration).unwrap_or_else(|_| Timestamp::now()),
        model: request.model.map(|model| model.to_string()),
        connection: request.connection.map(|connection| connection.to_string()),
        key,
        // What a caller gave up, or a server rejected in so many words, has not failed.
        ok: match request.outcome {
            Outcome::Ok | Outcome::Rejected | Outcome::Cancelled => true,
            Outcome::Failed | Outcome::Refused => false,
        },
        prompt_tokens: request.prompt_tokens.unwrap_or(0),
        completion_tokens: request.completion_tokens.unwrap_or(0),
        bytes_in: request.bytes_in,
        bytes_out: request.bytes_out,
        duration: request.duration,
        work: Work {
            cached_tokens: request.cached_tokens.unwrap_or(0),
            first_token: request.time_to_first_token,
            loading: request.load_time.unwrap_or_default(),
            prompting: request.prompt_time.unwrap_or_default(),
            generating: request.generation_time.unwrap_or_default(),
        },
    }
}
