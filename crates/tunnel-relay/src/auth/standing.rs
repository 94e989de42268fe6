//! Whether what was verified once is still good: its issuer is still trusted, it was not revoked.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::sync::futures::OwnedNotified;

use super::Principal;
use super::revoked::Revocations;

/// The issuer that a token was verified against, as it was then.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    retired: AtomicBool,
}

impl Origin {
    /// Ends the trust in all that was verified against it.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }
}

/// Watches, for a stream under way, whether its token is still good.
///
/// Costs two reads of an atomic number where nothing has changed.
pub(crate) struct Holder {
    principal: Arc<Principal>,
    revocations: Arc<Revocations>,
    /// The last change that was looked at.
    seen: u64,
    /// Made when the stream first has to wait, with whom it wakes.
    told: Option<(Pin<Box<OwnedNotified>>, Waker)>,
}

impl Holder {
    pub(crate) fn new(principal: Arc<Principal>, revocations: Arc<Revocations>) -> Self {
        Self { principal, revocations, seen: 0, told: None }
    }

    /// Tells whether the token is not good any more.
    pub(crate) fn is_over(&self) -> bool {
        self.revocations.check(&self.principal).is_err()
    }

    /// Ready when the token is not good any more; for a stream that waits.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // All streams share the list of those who are told, and its lock: one visit for each wait is enough. Who is told is
        // off the list, but then there is something new to find.
        let is_listed = self.told.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker()));
        if is_listed && self.seen == self.revocations.generation() {
            return Poll::Pending;
        }
        loop {
            let (told, waker) =
                self.told.get_or_insert_with(|| (Box::pin(self.revocations.told()), cx.waker().clone()));
            waker.clone_from(cx.waker());
            // Listed before it is looked at, so that nothing falls in between.
            let told = told.as_mut().poll(cx);
            self.seen = self.revocations.generation();
            if self.is_over() {
                return Poll::Ready(());
            }
            if told.is_pending() {
                return Poll::Pending;
            }
            self.told = None;
        }
    }
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder").field("principal", &self.principal).finish_non_exhaustive()
    }
}
