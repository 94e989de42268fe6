use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Watches for a backend that falls silent while the caller is reading.
///
/// Time counts only between a poll that found nothing and the next chunk, so a caller that reads slowly does
/// not run it down. The timer is not moved for each chunk: when it goes off, it looks whether it should have.
#[derive(Debug)]
pub(crate) struct Idle {
    limit: Duration,
    /// The limit once the first chunk is there: a model may still be loading when the headers are sent.
    later_limit: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub(crate) fn new(first_byte_timeout: Duration, idle_timeout: Duration) -> Self {
        let limit = first_byte_timeout.max(idle_timeout);
        Self { limit, later_limit: idle_timeout, waiting_since: None, timer: None }
    }

    /// Notes that a chunk has come.
    pub(crate) fn heard(&mut self) {
        self.waiting_since = None;
        if self.limit != self.later_limit {
            self.limit = self.later_limit;
            self.timer = None;
        }
    }

    /// Notes that there is nothing to read; true once that has been so for too long.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = since + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        while timer.as_mut().poll(cx) == Poll::Ready(()) {
            if Instant::now() >= deadline {
                return true;
            }
            timer.as_mut().reset(deadline);
        }
        false
    }
}
