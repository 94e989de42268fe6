//! A second session beside one whose relay goes away.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tracing::debug;
use tunnel_transport::{Backoff, Desktop, Retry, SessionId};

use super::dialler::{Dialler, Next};

/// A move that is under way.
pub(super) type Moving = Pin<Box<dyn Future<Output = Option<(Desktop, u64)>> + Send>>;

/// Dials, after `delay`, for a session beside one whose relay goes away; `None` if there can be none. The number is the
/// version of the token that was shown.
pub(super) async fn second_session(
    dialler: Dialler,
    session: SessionId,
    mut delay: Duration,
    mut backoff: Backoff,
) -> Option<(Desktop, u64)> {
    loop {
        tokio::time::sleep(delay).await;
        let failure = match dialler.dial(Some(session)).await {
            Ok(dialled) => return Some(dialled),
            Err(failure) => failure,
        };
        debug!(error = failure.advice().message, "could not move to a second session yet");
        let now = Instant::now();
        delay = match failure.next() {
            Next::Retry(Retry::Backoff) => backoff.next(now, &mut rand::rng()),
            Next::Retry(Retry::After(after)) => backoff.asked(after, now, &mut rand::rng()),
            Next::Retry(Retry::Fresh | Retry::Never) | Next::AwaitToken | Next::Refused | Next::TakenOver => {
                return None;
            }
        };
    }
}

/// Waits for the move that is under way; for ever without one.
pub(super) async fn resolved(moving: &mut Option<Moving>) -> Option<(Desktop, u64)> {
    match moving {
        Some(moving) => moving.await,
        None => std::future::pending().await,
    }
}
