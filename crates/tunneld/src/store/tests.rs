//! The store with real files.

mod crash;
mod opening;
mod outage;
mod reading;
mod recording;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunnel_api::Severity;

use super::recorder::Sink;
use super::writer::Writer;
use super::*;

/// Longest wait for something that takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

/// A store whose recorder runs.
struct Running {
    store: Store,
    handle: RecorderHandle,
    found: Found,
    warnings: Vec<Warning>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    async fn start(directory: Option<&Path>) -> Self {
        Self::start_with(directory, |_| {}).await
    }

    /// Starts with a writer that was changed, such as one whose disk is small.
    async fn start_with(directory: Option<&Path>, change: impl FnOnce(&mut Writer)) -> Self {
        let Opened { store, mut recorder, handle, found, warnings } = Store::open(directory, now()).await;
        if let Sink::Idle(writer) = &mut recorder.sink {
            change(writer);
        }
        let stop = CancellationToken::new();
        let tasks = JoinSet::from_iter([recorder.run(stop.clone())]);
        Self { store, handle, found, warnings, stop, tasks }
    }

    /// Ends as the daemon does.
    async fn end(mut self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.tasks.join_next()).await.unwrap().unwrap().unwrap();
    }

    fn codes(&self) -> Vec<&str> {
        self.warnings.iter().map(|warning| warning.code.as_str()).collect()
    }

    /// Waits for `n` requests to be shown.
    async fn shows(&self, n: u64) {
        until(&mut self.store.totals(), |totals| totals.llm.requests == n).await;
    }
}

/// Waits for a state that is published.
async fn until<T: Clone>(watch: &mut watch::Receiver<T>, holds: impl FnMut(&T) -> bool) -> T {
    tokio::time::timeout(SOON, watch.wait_for(holds)).await.expect("in time").unwrap().clone()
}

fn now() -> Timestamp {
    "2025-06-15T12:00:00Z".parse().unwrap()
}

/// A request of today that went well.
fn request(model: &str) -> RequestRecord {
    RequestRecord {
        at: Timestamp::now(),
        model: Some(model.to_owned()),
        connection: Some("ollama".to_owned()),
        key: "local".into(),
        ok: true,
        prompt_tokens: 10,
        completion_tokens: 20,
        bytes_in: 300,
        bytes_out: 4000,
        duration: Duration::from_micros(50_900),
        work: Work {
            cached_tokens: 4,
            first_token: Some(Duration::from_micros(7_400)),
            loading: Duration::from_micros(1_400),
            prompting: Duration::from_micros(2_400),
            generating: Duration::from_micros(30_400),
        },
    }
}

fn happened(kind: &'static str) -> NewEvent {
    let message = format!("{kind} happened");
    NewEvent { at: now(), kind, severity: Severity::Info, message, data: json!({ "by": "test" }) }
}

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id).collect()
}

fn temporary() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The database as another program sees it.
async fn other_program(directory: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(file::path(directory)).busy_timeout(SOON);
    options.connect().await.unwrap()
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

async fn number(connection: &mut SqliteConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}
