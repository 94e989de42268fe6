//! The orderly end of a relay: its desktops move, then its callers, and nobody loses a request.
//!
//! | stage | desktops that dial | `/readyz` | callers | `/readyz/callers` |
//! |---|---|---|---|---|
//! | notice to desktops | refused | 503 | served | 200 |
//! | desktops move: they are served here and there | refused | 503 | served | 200 |
//! | notice to callers | refused | 503 | served | 503 |
//! | closing: connections end with their response | refused | 503 | served | 503 |

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use tunnel_transport::MIGRATE_PATH;

use crate::registry::{Tunnel, restarting};
use crate::relay::Shared;

/// How long the stages may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    grace: Duration,
    notice: Duration,
}

/// The part of the time until callers leave over which desktops are asked to move, so that they do not all dial at
/// once.
const ASK_WITHIN: f64 = 0.7;
/// Time between two desktops that are asked to move, where there is time: few desktops need not wait for the spread.
const ASK_SPACING: Duration = Duration::from_millis(10);
/// Longest wait for a desktop's answer to that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A desktop that is on its way is asked again after this time, and then less and less often.
const ASK_AGAIN: Duration = Duration::from_millis(250);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(2);
/// The part of the grace time at whose end callers leave, whatever has moved by then.
const MOVED_WITHIN: f64 = 0.7;
/// How long streams that are cut off have to tell their callers.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Patience {
    /// `notice` twice and the time for streams to end must fit into the grace time.
    pub(crate) fn new(grace: Duration, notice: Duration) -> Self {
        Self { grace, notice: notice.min(grace / 4) }
    }

    /// Returns for how long desktops may be on their way.
    fn moving(self) -> Duration {
        self.grace.mul_f64(MOVED_WITHIN).saturating_sub(self.notice)
    }
}

/// What a desktop that was asked to move has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It has another session, which serves.
    Moved,
    /// It has none, and is served here as long as possible.
    Stays,
}

/// Waits for the order to end, and carries it out.
pub(crate) async fn drain(shared: Arc<Shared>, patience: Patience) {
    shared.draining.cancelled().await;
    let started = Instant::now();
    let counts = shared.registry.counts();
    info!(sessions = counts.sessions, streams = counts.streams, "draining");
    tokio::select! {
        () = finish(&shared, patience) => info!("drained"),
        () = tokio::time::sleep_until(started + patience.grace) => {
            let streams = shared.registry.counts().streams;
            warn!(streams, grace_s = patience.grace.as_secs(), "grace time is over, streams break off");
        }
        () = shared.hard.cancelled() => warn!("ending at once"),
    }
    shared.callers_leave.cancel();
    shared.closing.cancel();
    shared.connections.close();
    shared.drained.cancel();
    let tunnels = shared.registry.tunnels();
    for tunnel in &tunnels {
        tunnel.session.close(restarting(tunnels.len()));
    }
    // The desktops are told why, and callers whose stream was cut are told too.
    shared.sessions.close();
    let told = async {
        shared.sessions.wait().await;
        shared.connections.wait().await;
    };
    if tokio::time::timeout(LAST_WORDS, told).await.is_err() {
        debug!(connections = shared.connections.len(), sessions = shared.sessions.len(), "cut off");
    }
    shared.hard.cancel();
    shared.connections.wait().await;
}

/// Goes through the stages; returns when the last caller has left.
async fn finish(shared: &Shared, patience: Patience) {
    // Until the balancer knows, a desktop that is asked to move would come back here.
    tokio::time::sleep(patience.notice).await;
    let moved = move_desktops(shared, patience).await;
    shared.callers_leave.cancel();
    tokio::time::sleep(patience.notice).await;
    shared.closing.cancel();
    shared.connections.close();
    for tunnel in moved {
        tunnel.retire();
    }
    // Connections end with their last response, so this is also the last byte of the last stream.
    shared.connections.wait().await;
}

/// Asks all desktops to move, and returns those that did.
async fn move_desktops(shared: &Shared, patience: Patience) -> Vec<Arc<Tunnel>> {
    let deadline = Instant::now() + patience.moving();
    // Without a balancer to wait for, a desktop that came back here has nowhere else to go.
    let gives_up = patience.notice.is_zero();
    let tunnels = shared.registry.tunnels();
    let spread = patience.moving().mul_f64(ASK_WITHIN);
    let spacing = spread.div_f64(tunnels.len().max(1) as f64).min(ASK_SPACING);
    let mut asked = JoinSet::new();
    for tunnel in tunnels {
        asked.spawn(async move {
            let outcome = tokio::time::timeout_at(deadline, move_away(&tunnel, gives_up)).await;
            (outcome.unwrap_or(Outcome::Stays), tunnel)
        });
        tokio::time::sleep(spacing).await;
    }
    let (mut moved, mut n_stay) = (Vec::new(), 0_usize);
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((Outcome::Moved, tunnel)) => moved.push(tunnel),
            Ok((Outcome::Stays, _)) | Err(_) => n_stay += 1,
        }
    }
    info!(moved = moved.len(), stay = n_stay, "desktops were asked to move");
    moved
}

/// Asks a desktop to dial a second session, which on another node, behind the same name, gets the new requests; and
/// asks again until it has one.
///
/// Where there is no other node the dial arrives here and is refused; then the session serves until the end.
async fn move_away(tunnel: &Tunnel, gives_up: bool) -> Outcome {
    let device = &tunnel.device;
    let mut pause = ASK_AGAIN;
    loop {
        match tokio::time::timeout(ANSWER_TIMEOUT, ask(tunnel)).await {
            Ok(Some(StatusCode::OK)) => {
                debug!(%device, "desktop moved");
                return Outcome::Moved;
            }
            Ok(Some(status)) if status.is_success() => {}
            Ok(Some(status)) => {
                debug!(%device, %status, "desktop stays");
                return Outcome::Stays;
            }
            Ok(None) | Err(_) => {
                debug!(%device, "desktop could not be asked to move");
                return Outcome::Stays;
            }
        }
        tokio::select! {
            () = tunnel.stays(), if gives_up => {
                debug!(%device, "desktop has nowhere else to go");
                return Outcome::Stays;
            }
            _closed = tunnel.session.closed() => return Outcome::Moved,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(ASK_AGAIN_MAX),
        }
    }
}

/// 200 from a desktop that has moved, 202 from one that is about to.
async fn ask(tunnel: &Tunnel) -> Option<StatusCode> {
    let mut request = Request::new(Empty::<bytes::Bytes>::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(MIGRATE_PATH);
    tunnel.session.send(request).await.map(|response| response.status()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_leaves_time_for_desktops_and_for_streams() {
        let secs = Duration::from_secs;
        let patience = Patience::new(secs(20), secs(60));
        assert_eq!(patience.notice, secs(5));
        assert!(patience.notice * 2 + patience.moving() < secs(20));
        assert_eq!(Patience::new(Duration::ZERO, secs(5)).moving(), Duration::ZERO);
    }
}
