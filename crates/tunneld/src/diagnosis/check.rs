//! How a check is written down.

use std::time::Duration;

use tunnel_api::{Check, Verdict, Warning};

use crate::view;

/// What a check is about; the verdicts are its methods.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) id: String,
    pub(super) title: String,
}

impl Subject {
    pub(super) fn new(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self { id: id.into(), title: title.into() }
    }

    pub(super) fn pass(&self, detail: impl Into<String>) -> Check {
        self.check(Verdict::Pass, detail.into(), String::new())
    }

    pub(super) fn warn(&self, detail: impl Into<String>, next_step: impl Into<String>) -> Check {
        self.check(Verdict::Warn, detail.into(), next_step.into())
    }

    pub(super) fn fail(&self, detail: impl Into<String>, next_step: impl Into<String>) -> Check {
        self.check(Verdict::Fail, detail.into(), next_step.into())
    }

    pub(super) fn skip(&self, detail: impl Into<String>) -> Check {
        self.check(Verdict::Skip, detail.into(), String::new())
    }

    /// What is wrong, in the words in which the status tells it.
    pub(super) fn fail_as(&self, warning: &Warning) -> Check {
        self.fail(one_line(&warning.message), &warning.next_step)
    }

    pub(super) fn warn_as(&self, warning: &Warning) -> Check {
        self.warn(one_line(&warning.message), &warning.next_step)
    }

    fn check(&self, verdict: Verdict, detail: String, next_step: String) -> Check {
        Check {
            id: self.id.clone(),
            title: self.title.clone(),
            verdict,
            detail,
            next_step,
            duration_ms: None,
        }
    }
}

pub(super) fn took(check: Check, duration: Duration) -> Check {
    Check { duration_ms: Some(view::milliseconds(duration.as_secs_f64())), ..check }
}

/// Faults of a configuration are a line each.
pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").replace(":; ", ": ")
}

/// Writes a length of time in the largest unit that fits.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
