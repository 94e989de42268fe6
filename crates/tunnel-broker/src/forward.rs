//! The way of one request: to a backend, to another one if need be, and its response back.

use http::Response;
use http::StatusCode;
use tokio::time::Instant;

use crate::attempt::{Terms, attempt, can_be_sent_again};
use crate::body::Body;
use crate::call::Call;
use crate::decide::answered;
use crate::idle::Idle;
use crate::pass::{Streaming, pass};
use crate::place::{Place, place};
use crate::prefix::Payload;
use crate::route::Spread;
use crate::search::{Asked, Search, Weighed, has_healthy_other};
use crate::shared::Shared;

// Futures that are rarely awaited are boxed: what is awaited for each request stays small, and is moved less.

/// Forwards a request. Tries another backend as long as nothing of a response has been passed on.
pub(crate) async fn forward(
    shared: &Shared,
    call: Box<Call>,
    payload: Payload,
    spread: Spread,
) -> Response<Body> {
    shared.budget.request(call.meter.track().started);
    let mut payload = Some(payload);
    let mut search = Search::default();
    loop {
        let Place { route, mut permit } = match place(shared, &call, spread, &search.tried).await {
            Ok(place) => place,
            Err(failure) => match search.go_on(failure) {
                Ok(()) => continue,
                Err(told) => return told.answer(shared, call),
            },
        };
        let settings = shared.settings();
        let upstream = &route.backend.upstream;
        if call.manages {
            permit.probe_after();
        }
        call.meter.attempt(&route);
        if call.asks() {
            upstream.outcomes.tried();
        }
        let has_other = || has_healthy_other(shared, &call, spread, &search.tried, upstream);
        let may_move = || has_other() && shared.budget.take(Instant::now());
        let terms = Terms {
            connect: settings.connect_timeout,
            first_byte: settings.first_byte_timeout,
            hasty: search.is_hasty(),
            has_other: &has_other,
            may_move: &may_move,
        };
        let asked_at = Instant::now();
        let attempted = attempt(upstream, &call, &mut payload, &terms).await;
        let (mut response, mut conn) = match attempted {
            Ok(answered) => answered,
            Err(error) => {
                let failure = error.failure(&route, &terms);
                let again = can_be_sent_again(&call, &payload);
                let asked = Asked { shared, call: &call, again, spread, route: &route };
                match Box::pin(search.failed(&asked, &error, failure, permit)).await {
                    None => continue,
                    Some(told) => return told.answer(shared, call),
                }
            }
        };
        if needs_weighing(response.status()) {
            let again = can_be_sent_again(&call, &payload);
            let asked = Asked { shared, call: &call, again, spread, route: &route };
            match Box::pin(search.weigh(&asked, response, conn, permit)).await {
                Weighed::Again => continue,
                Weighed::Tell(told) => return told.answer(shared, call),
                Weighed::Pass(weighed) => (response, conn, permit) = *weighed,
            }
        }
        answered(&call, &route.backend.upstream, response.status(), asked_at);
        let idle = Idle::new(settings.first_byte_timeout, settings.idle_timeout);
        return pass(call, &route, response, Streaming { conn, permit, idle });
    }
}

/// Tells whether a response may be other than the request's last word.
fn needs_weighing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
    )
}
