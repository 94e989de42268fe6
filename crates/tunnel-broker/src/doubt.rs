//! A request that waits for its answer, and the question whether there is anybody to give it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::attempt::Terms;
use crate::budget::ASK_AGAIN;
use crate::conn::Conn;
use crate::upstream::Upstream;

/// Wait for a response's headers after which the backend is asked, by a probe, whether it is still there. Most
/// streams begin sooner; and a probe, which all that wait share, is cheap where one does not.
const DOUBT: Duration = Duration::from_secs(3);

/// Watches over a request that could be sent to another backend.
pub(crate) struct Doubt<'a> {
    upstream: &'a Upstream,
    terms: Terms<'a>,
    /// Age of the exchange at which the next question is asked.
    next: Duration,
    asking: Option<Pin<Box<dyn Future<Output = bool> + Send + 'a>>>,
}

impl<'a> Doubt<'a> {
    pub(crate) fn new(upstream: &'a Upstream, terms: Terms<'a>) -> Self {
        // Of the longest wait of all a part must be left for the other backend.
        Self { upstream, terms, next: DOUBT.min(terms.first_byte / 4), asking: None }
    }

    /// Tells whether nothing need be looked at before the next question, given a limit of `first_byte`.
    pub(crate) fn comes_before(&self, first_byte: Duration) -> bool {
        self.asking.is_none() && self.next < first_byte
    }

    /// Ready when the server has fallen silent as a whole and the request is to be sent elsewhere.
    ///
    /// Until the first doubt it costs one look at the connection's alarm. `since`: the start of the exchange.
    pub(crate) fn poll(&mut self, since: Instant, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(asking) = &mut self.asking {
                let Poll::Ready(hangs) = asking.as_mut().poll(cx) else { return Poll::Pending };
                self.asking = None;
                if hangs && (self.terms.may_move)() {
                    return Poll::Ready(());
                }
                let age = since.elapsed();
                // One that answers its probes is asked ever less often.
                self.next = if hangs { age + ASK_AGAIN } else { age.saturating_mul(2) };
            }
            if !conn.poll_past(since + self.next) {
                return Poll::Pending;
            }
            // Where nothing could come of it nobody is asked: what works at this request may be able to do one thing at a
            // time, and what is paid for may charge for the question.
            let asks = (self.terms.has_other)();
            if asks && self.upstream.may_be_asked() {
                self.asking = Some(Box::pin(self.upstream.hangs()));
            } else if asks && self.upstream.report().hangs && (self.terms.may_move)() {
                // The prober has asked meanwhile.
                return Poll::Ready(());
            } else if asks {
                self.next = since.elapsed() + DOUBT;
            } else {
                self.next = since.elapsed().saturating_mul(2);
            }
        }
    }
}
