//! One request to one backend, until the response's headers are there.

use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::call::Call;
use crate::conn::Conn;
use crate::connect::ConnectError;
use crate::doubt::Doubt;
use crate::error::Failure;
use crate::exchange::{ExchangeError, exchange};
use crate::prefix::Payload;
use crate::table::Route;
use crate::upstream::Upstream;

/// What bounds an attempt, and what could follow it.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) connect: Duration,
    pub(crate) first_byte: Duration,
    /// Whether the backend is passed over for now if it is slow to accept. Not so on the second round.
    pub(crate) hasty: bool,
    /// Tells whether there is another backend in good health. Asked when it matters only.
    pub(crate) has_other: &'a (dyn Fn() -> bool + Sync),
    /// Tells whether the request may be sent to it now although this one has got it; it is counted then.
    pub(crate) may_move: &'a (dyn Fn() -> bool + Sync),
}

/// Longest wait for a connection while another backend could be asked. A lost packet is sent again after one
/// second, so this is enough for what is slow, and far too short for nothing but a black hole.
const HASTY_CONNECT: Duration = Duration::from_millis(2500);

/// How soon a connection turns out to be lost that the backend had closed before it got the request. Later the
/// request was at work there, and to send it again costs as much again.
const STALE: Duration = Duration::from_secs(1);

pub(crate) enum AttemptError {
    /// Nothing was sent. `hasty`: it might have got more time.
    Connect {
        error: ConnectError,
        hasty: bool,
    },
    Exchange(ExchangeError),
}

/// Sends the request to one backend: on a connection that is there, else on a new one.
pub(crate) async fn attempt(
    upstream: &Upstream,
    call: &Call,
    payload: &mut Option<Payload>,
    terms: &Terms<'_>,
) -> Result<(Response<Incoming>, Conn), AttemptError> {
    // A secret that is gone since the last probe: nothing may be sent without it.
    upstream
        .authorization()
        .map_err(|why| AttemptError::Connect { error: ConnectError::NoSecret(why), hasty: false })?;
    // What can be sent once only gets a new connection: one from the pool may be closed already.
    let pooled = if can_be_sent_again(call, payload) { upstream.pool.take() } else { None };
    if let Some(mut conn) = pooled {
        let begun = Instant::now();
        match send(upstream, call, payload, &mut conn, terms).await {
            Ok(response) => return Ok((response, conn)),
            // Closed by the backend while it was idle, most likely: that is no failure of this request.
            Err(ExchangeError::Lost) if begun.elapsed() < STALE => {}
            Err(error) => return Err(AttemptError::Exchange(error)),
        }
    }
    let hasty = terms.hasty && terms.connect > HASTY_CONNECT && (terms.has_other)();
    let limit = if hasty { HASTY_CONNECT } else { terms.connect };
    let connecting = Box::pin(upstream.connect(limit));
    let mut conn = connecting.await.map_err(|error| AttemptError::Connect { error, hasty })?;
    let response = send(upstream, call, payload, &mut conn, terms).await.map_err(AttemptError::Exchange)?;
    Ok((response, conn))
}

/// Tells whether a request that may have reached a server may be sent once more: its body is here, and what it
/// asks for is not done twice.
pub(crate) fn can_be_sent_again(call: &Call, payload: &Option<Payload>) -> bool {
    call.is_repeatable() && payload.as_ref().is_some_and(Payload::is_whole)
}

async fn send(
    upstream: &Upstream,
    call: &Call,
    payload: &mut Option<Payload>,
    conn: &mut Conn,
    terms: &Terms<'_>,
) -> Result<Response<Incoming>, ExchangeError> {
    let (request, watch) = call.request(payload, upstream).ok_or(ExchangeError::UploadFailed)?;
    call.meter.connected();
    let can_move = can_be_sent_again(call, payload);
    let doubt = can_move.then(|| Doubt::new(upstream, *terms));
    exchange(conn, request, watch.as_deref(), terms.first_byte, doubt).await
}

/// What a failed attempt says of its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Nothing: it is the caller who broke off.
    Nobody,
    /// It failed a request.
    Failed,
    /// It is not there: it is given no more requests until a probe has seen it.
    Away,
}

impl AttemptError {
    pub(crate) fn blame(&self) -> Blame {
        match self {
            Self::Connect { .. } => Blame::Away,
            Self::Exchange(error) => match error {
                ExchangeError::Hangs => Blame::Away,
                ExchangeError::Lost | ExchangeError::NotHttp | ExchangeError::Silent => Blame::Failed,
                ExchangeError::UploadStalled | ExchangeError::UploadFailed => Blame::Nobody,
            },
        }
    }

    /// Tells what it takes to ask another backend.
    pub(crate) fn another(&self) -> Another {
        match self {
            Self::Connect { .. } => Another::Free,
            Self::Exchange(error) => match error {
                // What that attempt costs is paid.
                ExchangeError::Hangs => Another::Free,
                ExchangeError::Lost | ExchangeError::NotHttp => Another::OnBudget,
                // The caller has waited long enough, and the model may be at work.
                ExchangeError::Silent | ExchangeError::UploadStalled | ExchangeError::UploadFailed => {
                    Another::Never
                }
            },
        }
    }

    pub(crate) fn failure(&self, route: &Route, terms: &Terms<'_>) -> Failure {
        let id = route.backend.config.id.clone();
        match self {
            Self::Connect { error, .. } => Failure::Unreachable { id, why: Some(error.to_string()) },
            Self::Exchange(error) => match error {
                ExchangeError::Lost => Failure::Lost(id),
                ExchangeError::NotHttp => Failure::NotHttp(id),
                ExchangeError::Silent => Failure::FirstByteTimeout { id, after: terms.first_byte },
                ExchangeError::Hangs => Failure::Hangs(id),
                ExchangeError::UploadStalled => Failure::UploadStalled,
                ExchangeError::UploadFailed => Failure::UploadFailed,
            },
        }
    }
}

/// Whether another backend may be asked after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Another {
    Never,
    /// If the request can be sent again, and the budget allows.
    OnBudget,
    /// In any case.
    Free,
}
