//! A second session beside one whose relay goes away.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use tracing::debug;
use tunnel_transport::{Backoff, Desktop, Retry, SessionId};

use super::dialler::{Dialler, Next};

/// A move that is under way.
pub(super) type Moving = Pin<Box<dyn Future<Output = Option<Desktop>> + Send>>;

/// Dials for a session beside one whose relay goes away; `None` if there can be none.
pub(super) async fn second_session(
    dialler: Dialler,
    session: SessionId,
    mut backoff: Backoff,
) -> Option<Desktop> {
    loop {
        let failure = match dialler.dial(Some(session)).await {
            Ok(desktop) => return Some(desktop),
            Err(failure) => failure,
        };
        debug!(error = failure.advice().message, "could not move to a second session yet");
        let now = Instant::now();
        let delay = match failure.next() {
            Next::Retry(Retry::Backoff) => backoff.next(now, &mut rand::rng()),
            Next::Retry(Retry::After(after)) => backoff.asked(after, now, &mut rand::rng()),
            Next::Retry(Retry::Fresh | Retry::Never) | Next::AwaitToken | Next::Refused | Next::TakenOver => {
                return None;
            }
        };
        tokio::time::sleep(delay).await;
    }
}

/// Waits for the move that is under way; for ever without one.
pub(super) async fn resolved(moving: &mut Option<Moving>) -> Option<Desktop> {
    match moving {
        Some(moving) => moving.await,
        None => std::future::pending().await,
    }
}
