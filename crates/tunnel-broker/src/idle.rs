use std::time::Duration;

use tokio::time::Instant;

/// Says until when a backend may be silent while the caller is reading.
///
/// Time counts only between a poll that found nothing and the next chunk, so a caller that reads slowly does
/// not run it down.
#[derive(Debug)]
pub(crate) struct Idle {
    limit: Duration,
    /// The limit once the first chunk is there: a model may still be loading when the headers are sent.
    later_limit: Duration,
    waiting_since: Option<Instant>,
}

impl Idle {
    pub(crate) fn new(first_byte_timeout: Duration, idle_timeout: Duration) -> Self {
        let limit = first_byte_timeout.max(idle_timeout);
        Self { limit, later_limit: idle_timeout, waiting_since: None }
    }

    /// Notes that a chunk has come.
    pub(crate) fn heard(&mut self) {
        self.waiting_since = None;
        self.limit = self.later_limit;
    }

    /// Notes that there is nothing to read; returns until when that may be so.
    pub(crate) fn deadline(&mut self) -> Instant {
        *self.waiting_since.get_or_insert_with(Instant::now) + self.limit
    }
}
