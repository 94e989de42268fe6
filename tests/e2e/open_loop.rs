//! Requests at a fixed rate, whatever becomes of them: who waits for answers before asking on does not see an outage.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use e2e::{Api, Caller, REAL_MODEL, Script, poll_until};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// A request that has no end by then has failed.
const LIMIT: Duration = Duration::from_secs(60);
/// What a scripted server waits before it answers: somewhat more than the small real model takes, so that the least
/// loaded server is not always a scripted one.
const SCRIPTED_DELAY_MS: u64 = 40;

/// Why a request failed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// It got no answer, or one that says so: another server could have served it.
    Unserved(String),
    /// Its answer had begun and broke off.
    BrokeOff(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unserved(why) => write!(f, "not served: {why}"),
            Self::BrokeOff(why) => write!(f, "broke off: {why}"),
        }
    }
}

/// What became of one request.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) sent: Instant,
    pub(crate) ended: Instant,
    /// Who answered, as `X-Tunnel-Connection` says; empty if nobody did.
    pub(crate) connection: String,
    pub(crate) failure: Option<Failure>,
}

/// Callers that ask at a fixed rate until told to stop.
#[derive(Debug)]
pub(crate) struct OpenLoop {
    stop: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    ticking: JoinSet<()>,
    began: Instant,
}

impl OpenLoop {
    /// Starts asking for short answers: by both APIs, streamed and not, in turn.
    pub(crate) fn start(caller: Caller, per_s: u32) -> Self {
        let (stop, outcomes) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (began, mut ticking) = (Instant::now(), JoinSet::new());
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&outcomes));
        ticking.spawn(async move {
            let mut running = JoinSet::new();
            for number in 0_u32.. {
                tokio::time::sleep_until((began + Duration::from_secs(1) / per_s * number).into()).await;
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (caller, seen) = (caller.clone(), Arc::clone(&seen));
                running.spawn(async move {
                    let outcome = ask(&caller, number).await;
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                });
                while running.try_join_next().is_some() {}
            }
            while running.join_next().await.is_some() {}
        });
        Self { stop, outcomes, ticking, began }
    }

    /// Waits for the first answer of this server to a request that was sent at `from` or later; returns how long after
    /// `from` it came.
    pub(crate) async fn answer_of(&self, id: &str, from: Instant, limit: Duration) -> Result<Duration> {
        poll_until(&format!("{id} answers"), limit, async || {
            let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            let own = outcomes.iter().filter(|outcome| {
                outcome.connection == id && outcome.failure.is_none() && outcome.sent >= from
            });
            own.map(|outcome| outcome.ended - from).min()
        })
        .await
    }

    /// Stops asking and waits for what runs; returns all outcomes and how many a second were made.
    pub(crate) async fn finish(mut self) -> Result<(Vec<Outcome>, f64)> {
        self.stop.store(true, Ordering::Relaxed);
        let length = self.began.elapsed();
        while let Some(ended) = self.ticking.join_next().await {
            ended.context("the open loop")?;
        }
        let outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner));
        let rate = outcomes.len() as f64 / length.as_secs_f64();
        Ok((outcomes, rate))
    }
}

/// The request of this number: no two begin alike, so that none is drawn to the server that has its prefix.
fn request(number: u32) -> (Api, Value, bool) {
    let streamed = number.is_multiple_of(2);
    let messages = json!([{"role": "user", "content": format!("{number}")}]);
    if number % 5 < 2 {
        let body = json!({"model": REAL_MODEL, "stream": streamed, "messages": messages, "options": {"num_predict": 1}});
        return (Api::OllamaChat, body, streamed);
    }
    let body = json!({"model": REAL_MODEL, "stream": streamed, "messages": messages, "max_tokens": 1});
    (Api::OpenAiChat, body, streamed)
}

async fn ask(caller: &Caller, number: u32) -> Outcome {
    let (api, body, streamed) = request(number);
    let (sent, mut connection) = (Instant::now(), String::new());
    let script = Script { first_byte_ms: SCRIPTED_DELAY_MS, ..Script::default() };
    let answered = tokio::time::timeout(LIMIT, async {
        let reply = caller.post(api.path()).json(&body).script(&script).send().await;
        let reply = reply.map_err(|error| Failure::Unserved(format!("{error:#}")))?;
        reply.header("x-tunnel-connection").clone_into(&mut connection);
        let status = reply.status();
        let ending = reply.ending().await;
        let text = ending.text();
        if status != 200 {
            return Err(Failure::Unserved(format!("{status} {text}")));
        }
        if let Some(error) = ending.error {
            return Err(Failure::BrokeOff(format!("{error} after {} bytes", ending.bytes.len())));
        }
        let whole = match (api.is_sse(), streamed) {
            (true, true) => text.contains("data: [DONE]"),
            (true, false) => text.contains("\"finish_reason\""),
            (false, _) => text.contains("\"done\":true"),
        };
        if whole { Ok(()) } else { Err(Failure::BrokeOff(format!("a polite end that is none: {text}"))) }
    });
    let failure = match answered.await {
        Ok(answered) => answered.err(),
        Err(_) => Some(Failure::Unserved(format!("no end after {} s", LIMIT.as_secs()))),
    };
    Outcome { sent, ended: Instant::now(), connection, failure }
}
