//! The things that are collected, all at once, each with a limit of its own.

use std::pin::Pin;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::redact::Redactor;

/// Longest wait for one thing. The longest of them is the doctor's, who has 20 s.
const LIMIT: Duration = Duration::from_secs(25);

/// Something to collect.
pub(super) struct Job {
    /// The file that it becomes.
    file: &'static str,
    work: Pin<Box<dyn Future<Output = Result<Content, Trouble>> + Send>>,
}

/// What was collected.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Json(Value),
    Text(String),
}

/// Why something was not collected.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// It is not there, or does not apply.
    Skip(String),
    /// It should have been there.
    Err(String),
}

/// What became of a job. Its content has not been redacted.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) file: &'static str,
    content: Result<Content, Trouble>,
    took: Duration,
}

impl Job {
    pub(super) fn new(
        file: &'static str,
        work: impl Future<Output = Result<Content, Trouble>> + Send + 'static,
    ) -> Self {
        Self { file, work: Box::pin(work) }
    }

    /// Reads files and the like, away from the thread that waits for answers.
    pub(super) fn blocking(
        file: &'static str,
        work: impl FnOnce() -> Result<Content, Trouble> + Send + 'static,
    ) -> Self {
        Self::new(file, blocking(work))
    }

    /// A job that cannot be done.
    pub(super) fn skipped(file: &'static str, why: String) -> Self {
        Self::new(file, async { Err(Trouble::Skip(why)) })
    }
}

/// Does what may wait for a disk, away from the thread that waits for answers.
pub(super) async fn blocking(
    work: impl FnOnce() -> Result<Content, Trouble> + Send + 'static,
) -> Result<Content, Trouble> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Trouble::Err(error.to_string())))
}

/// Does all jobs and returns the pieces in their order; `progress` is told of each when it is done.
pub(super) async fn run(jobs: Vec<Job>, progress: impl Fn(&Piece)) -> Vec<Piece> {
    let mut running = JoinSet::new();
    for (place, job) in jobs.into_iter().enumerate() {
        running.spawn(async move {
            let began = Instant::now();
            let content = tokio::time::timeout(LIMIT, job.work)
                .await
                .unwrap_or_else(|_| Err(Trouble::Err(format!("it took longer than {} s", LIMIT.as_secs()))));
            (place, Piece { file: job.file, content, took: began.elapsed() })
        });
    }
    let mut pieces = Vec::new();
    while let Some(done) = running.join_next().await {
        // One that panicked has said so on standard error.
        let Ok((place, piece)) = done else { continue };
        progress(&piece);
        pieces.push((place, piece));
    }
    pieces.sort_by_key(|(place, _)| *place);
    pieces.into_iter().map(|(_, piece)| piece).collect()
}

impl Piece {
    pub(super) fn outcome(&self) -> &'static str {
        match &self.content {
            Ok(_) => "ok",
            Err(Trouble::Skip(_)) => "skip",
            Err(Trouble::Err(_)) => "err",
        }
    }

    /// Returns why there is no such file.
    pub(super) fn reason(&self) -> Option<&str> {
        match &self.content {
            Ok(_) => None,
            Err(Trouble::Skip(why) | Trouble::Err(why)) => Some(why),
        }
    }

    pub(super) fn json(&self) -> Value {
        let ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        json!({ "file": self.file, "result": self.outcome(), "reason": self.reason(), "duration_ms": ms })
    }

    /// Lets the redactor see which names there are.
    pub(super) fn teach(&self, redactor: &mut Redactor) {
        match &self.content {
            Ok(Content::Json(value)) => redactor.learn_json(value),
            Ok(Content::Text(text)) => redactor.learn_text(text),
            Err(Trouble::Skip(why) | Trouble::Err(why)) => redactor.learn_text(why),
        }
    }

    /// Returns the file's text as others may see it; none where nothing was collected.
    pub(super) fn redacted(&self, redactor: &mut Redactor) -> Option<String> {
        match self.content.as_ref().ok()? {
            Content::Json(value) => Some(format!("{:#}\n", redactor.json(value))),
            Content::Text(text) => Some(redactor.text(text)),
        }
    }
}
