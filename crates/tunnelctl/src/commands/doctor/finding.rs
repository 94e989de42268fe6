//! What one look has shown.

use tunnel_api::{Check, Verdict};

/// A check without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    pub(super) next_step: String,
}

impl Finding {
    pub(super) fn pass(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Pass, detail: detail.into(), next_step: String::new() }
    }

    pub(super) fn skip(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Skip, detail: detail.into(), next_step: String::new() }
    }

    pub(super) fn warn(detail: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, detail: detail.into(), next_step: next_step.into() }
    }

    pub(super) fn fail(detail: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, detail: detail.into(), next_step: next_step.into() }
    }

    pub(super) fn check(self, id: impl Into<String>, title: impl Into<String>) -> Check {
        let Self { verdict, detail, next_step } = self;
        Check { id: id.into(), title: title.into(), verdict, detail, next_step, duration_ms: None }
    }
}

impl Default for Finding {
    /// Returns what is found when the time is over.
    fn default() -> Self {
        Self::skip("this took too long and was given up")
    }
}
