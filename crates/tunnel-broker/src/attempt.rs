//! One request to one backend, until the response's headers are there.

use std::time::Duration;

use http::Response;
use hyper::body::Incoming;

use crate::call::Call;
use crate::conn::Conn;
use crate::connect::ConnectError;
use crate::error::Failure;
use crate::exchange::{ExchangeError, exchange};
use crate::prefix::Payload;
use crate::table::Route;
use crate::upstream::Upstream;

#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) first_byte: Duration,
}

pub(crate) enum AttemptError {
    Connect(ConnectError),
    Exchange(ExchangeError),
}

/// Sends the request to one backend: on a connection that is there, else on a new one.
pub(crate) async fn attempt(
    upstream: &Upstream,
    call: &Call,
    payload: &mut Option<Payload>,
    limits: Limits,
) -> Result<(Response<Incoming>, Conn), AttemptError> {
    // A secret that is gone since the last probe: nothing may be sent without it.
    upstream.authorization().map_err(|why| AttemptError::Connect(ConnectError::NoSecret(why)))?;
    // A body that can be sent once only gets a new connection: one from the pool may be closed already.
    let replayable = payload.as_ref().is_some_and(Payload::is_whole);
    let pooled = if replayable { upstream.pool.take() } else { None };
    if let Some(mut conn) = pooled {
        match send(upstream, call, payload, &mut conn, limits.first_byte).await {
            Ok(response) => return Ok((response, conn)),
            // Closed by the backend while it was idle, most likely: that is no failure of this request.
            Err(ExchangeError::Lost) => {}
            Err(error) => return Err(AttemptError::Exchange(error)),
        }
    }
    let connecting = Box::pin(upstream.connect(limits.connect));
    let mut conn = connecting.await.map_err(AttemptError::Connect)?;
    let response =
        send(upstream, call, payload, &mut conn, limits.first_byte).await.map_err(AttemptError::Exchange)?;
    Ok((response, conn))
}

async fn send(
    upstream: &Upstream,
    call: &Call,
    payload: &mut Option<Payload>,
    conn: &mut Conn,
    first_byte: Duration,
) -> Result<Response<Incoming>, ExchangeError> {
    let (request, watch) = call.request(payload, upstream).ok_or(ExchangeError::UploadFailed)?;
    call.meter.connected();
    exchange(conn, request, watch.as_deref(), first_byte).await
}

impl AttemptError {
    /// Tells whether the backend is to blame: callers that break off must not make it look bad.
    pub(crate) fn is_the_backends(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Exchange(error) => match error {
                ExchangeError::Lost | ExchangeError::NotHttp | ExchangeError::Silent => true,
                ExchangeError::UploadStalled | ExchangeError::UploadFailed => false,
            },
        }
    }

    /// Tells whether another backend may do better.
    pub(crate) fn is_worth_another(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Exchange(error) => match error {
                ExchangeError::Lost | ExchangeError::NotHttp => true,
                // The caller has waited long enough, and the model may be at work.
                ExchangeError::Silent | ExchangeError::UploadStalled | ExchangeError::UploadFailed => false,
            },
        }
    }

    pub(crate) fn failure(&self, route: &Route, limits: &Limits) -> Failure {
        let id = route.backend.config.id.clone();
        match self {
            Self::Connect(error) => Failure::Unreachable { id, why: error.to_string() },
            Self::Exchange(error) => match error {
                ExchangeError::Lost => Failure::Lost(id),
                ExchangeError::NotHttp => Failure::NotHttp(id),
                ExchangeError::Silent => Failure::FirstByteTimeout { id, after: limits.first_byte },
                ExchangeError::UploadStalled => Failure::UploadStalled,
                ExchangeError::UploadFailed => Failure::UploadFailed,
            },
        }
    }
}
