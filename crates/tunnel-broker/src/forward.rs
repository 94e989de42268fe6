//! The way of one request: to a backend, to another one if need be, and its response back.

use std::sync::Arc;

use http::{Response, StatusCode};
use tokio::time::Instant;
use tracing::debug;

use crate::attempt::{AttemptError, Limits, attempt};
use crate::body::Body;
use crate::call::Call;
use crate::decide::{answered, wanted};
use crate::idle::Idle;
use crate::pass::{Streaming, pass, refuse};
use crate::path::Dialect;
use crate::place::{Place, place};
use crate::prefix::Payload;
use crate::route::Spread;
use crate::shared::Shared;
use crate::upstream::Upstream;

// Futures that are rarely awaited are boxed: what is awaited for each request stays small, and is moved less.

/// Forwards a request. Tries another backend as long as nothing of a response has been passed on.
pub(crate) async fn forward(
    shared: &Shared,
    mut call: Box<Call>,
    payload: Payload,
    spread: Spread,
) -> Response<Body> {
    let mut payload = Some(payload);
    let mut tried: Vec<Arc<Upstream>> = Vec::new();
    let mut last = None;
    loop {
        let Place { route, mut permit } = match place(shared, &call, spread, &mut tried).await {
            Ok(place) => place,
            // The backend that failed is a better reason than that there is no other.
            Err(failure) => {
                let table = shared.table.load();
                let known = call.model.as_deref().and_then(|model| table.catalog.find(model).first());
                if let Some(served) = known {
                    call.meter.meant(&served.name);
                }
                return refuse(&mut call, last.unwrap_or(failure));
            }
        };
        let settings = shared.settings();
        let upstream = Arc::clone(&route.backend.upstream);
        if call.manages {
            permit.probe_after();
        }
        call.meter.attempt(&route);
        let limits = Limits { connect: settings.connect_timeout, first_byte: settings.first_byte_timeout };
        let asked = Instant::now();
        match attempt(&upstream, &call, &mut payload, limits).await {
            Ok((response, conn)) => {
                tried.push(upstream);
                let replayable = payload.as_ref().is_some_and(Payload::is_whole);
                if replayable
                    && !may_pass(&call, response.status())
                    && can_another(shared, &call, spread, &tried)
                {
                    permit.failed();
                    continue;
                }
                answered(&call, &route.backend.upstream, response.status(), asked);
                let idle = Idle::new(settings.first_byte_timeout, settings.idle_timeout);
                return pass(call, &route, response, Streaming { conn, permit, idle });
            }
            Err(error) => {
                if error.is_the_backends() {
                    permit.failed();
                } else {
                    drop(permit);
                }
                if matches!(error, AttemptError::Connect(_)) {
                    // Its prober should know before its next turn.
                    upstream.order_probe();
                }
                tried.push(upstream);
                let again = error.is_worth_another() && payload.is_some();
                let failure = error.failure(&route, &limits);
                debug!(
                    request_id = ?call.request_id, backend = %route.backend.config.id, error = failure.code(), again,
                    "attempt failed"
                );
                if !again {
                    return refuse(&mut call, failure);
                }
                last = Some(failure);
            }
        }
    }
}

/// Tells whether a response may be passed on although another backend could be asked.
fn may_pass(call: &Call, status: StatusCode) -> bool {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => false,
        // A path that not every server has, on no model in particular: the next one may have it.
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            call.model.is_some() || call.dialect == Dialect::Ollama
        }
        _ => true,
    }
}

fn can_another(shared: &Shared, call: &Call, spread: Spread, tried: &[Arc<Upstream>]) -> bool {
    shared.table.load().route(&wanted(call, spread, tried)).is_ok()
}
