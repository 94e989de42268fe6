use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a request's front door reads how many tokens the request has cost: an extension of the request.
///
/// While an answer is streamed it counts the parts so far, about as many tokens; once the response's body is gone it
/// says prompt and answer together, as the server reported them where it did. Kept also while nothing else is measured.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<AtomicU64>);

impl Tally {
    /// Returns the tokens so far; never fewer than before.
    pub fn tokens(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes a count that has grown. What is lower is an estimate that was too high, and is left.
    pub(crate) fn note(&self, tokens: u64) {
        self.0.fetch_max(tokens, Ordering::Relaxed);
    }
}
