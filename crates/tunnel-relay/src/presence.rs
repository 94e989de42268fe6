//! What desktops say that they have: their models and how busy they are. In memory only, gone with the session.
//!
//! The relay asks each session once: `GET /_tunnel/v1/presence` on the tunnel. The desktop answers with one line of
//! JSON for each change, for as long as it takes requests. An older desktop answers 404, and nothing is known of it.

mod line;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use tokio::time::Instant;
use tracing::debug;
use tunnel_transport::{PRESENCE_PATH, ResponseBody};

use crate::registry::Tunnel;

pub(crate) use line::{Offered, Presence};

/// Longest line. 512 names of 256 bytes fit, escaped moderately.
const LINE_MAX_BYTES: usize = 256 * 1024;
/// Least time between two lines that are read. A desktop that sends more finds its stream's window full.
const READ_EVERY: Duration = Duration::from_millis(250);
/// Longest wait for the head of the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Follows what one desktop says, in the task of its session.
#[derive(Default)]
pub(crate) struct Follower {
    // Boxed: sessions whose desktops say nothing, and the time before the first word, cost nothing.
    following: Option<Pin<Box<dyn Future<Output = Over> + Send>>>,
}

/// What becomes of a desktop that tells nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// It could not be asked: again with its next socket.
    Unasked,
    /// It does not tell, or it told nonsense: what the rest of its session is like is not known.
    ForGood,
}

impl Follower {
    /// Asks the desktop, unless it was asked already: to be called when the session has a socket.
    pub(crate) fn begin(&mut self, tunnel: &Arc<Tunnel>) {
        let tunnel = Arc::clone(tunnel);
        self.following.get_or_insert_with(|| Box::pin(async move { follow(&tunnel).await }));
    }

    /// Goes on with it. Never ends, so that whoever selects on it need not ask again.
    pub(crate) async fn run(&mut self) {
        if let Some(following) = &mut self.following {
            let over = following.await;
            self.following = (over == Over::ForGood).then(|| Box::pin(std::future::pending()) as _);
        }
        std::future::pending().await
    }
}

async fn follow(tunnel: &Tunnel) -> Over {
    // Boxed: the way to the answer is much larger than what is kept while lines come.
    let Some(body) = Box::pin(ask(tunnel)).await else { return Over::ForGood };
    let Ok(body) = body else { return Over::Unasked };
    let mut lines = Lines { body, piece: Bytes::new(), begun: Vec::new() };
    let mut read_at: Option<Instant> = None;
    while let Some(line) = lines.next().await {
        let Some(presence) = Presence::parse(&line) else { break };
        tunnel.set_presence(Some(presence));
        // A long line is not to lie there until the next one comes.
        drop(line);
        if let Some(early) = read_at.and_then(|at| (at + READ_EVERY).checked_duration_since(Instant::now())) {
            tokio::time::sleep(early).await;
        }
        read_at = Some(Instant::now());
    }
    tunnel.set_presence(None);
    debug!("the desktop's models are not known any more");
    Over::ForGood
}

/// Asks a desktop; `None` when it does not tell, an error when it could not be asked.
async fn ask(tunnel: &Tunnel) -> Option<Result<ResponseBody, ()>> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static(PRESENCE_PATH);
    match tokio::time::timeout(ANSWER_TIMEOUT, tunnel.session.send(request)).await {
        Ok(Ok(answer)) if answer.status() == StatusCode::OK => return Some(Ok(answer.into_body())),
        Ok(Ok(answer)) => debug!(status = %answer.status(), "the desktop does not tell its models"),
        Ok(Err(error)) => {
            debug!(%error, "the desktop could not be asked for its models");
            return Some(Err(()));
        }
        Err(_) => debug!("the desktop did not answer for its models"),
    }
    None
}

/// The lines of an answer.
struct Lines {
    body: ResponseBody,
    /// What came last and was not looked at yet.
    piece: Bytes,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl Lines {
    /// Waits for the next line; `None` at the end of the answer, or when a line is longer than any may be.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.piece.iter().position(|byte| *byte == b'\n') {
                let mut line = std::mem::take(&mut self.begun);
                line.extend_from_slice(&self.piece[..end]);
                self.piece.advance(end + 1);
                return (line.len() <= LINE_MAX_BYTES).then_some(line);
            }
            self.begun.extend_from_slice(&self.piece);
            self.piece = Bytes::new();
            if self.begun.len() > LINE_MAX_BYTES {
                return None;
            }
            self.piece = self.body.frame().await?.ok()?.into_data().ok()?;
        }
    }
}
