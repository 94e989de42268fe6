//! What has been counted: per connection, per model, and lately. Pure but for the page.

mod buckets;
mod labels;
mod latency;
pub(crate) mod page;
mod rates;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::broker::Ingress;
use crate::finished::{Finished, Outcome};
use buckets::Buckets;
use labels::{Labels, NONE};
use latency::Latencies;
pub use latency::Percentiles;
pub use rates::Rates;
use rates::{Flow, Window};

/// Sums over LLM requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    outcomes: [u64; Outcome::ALL.len()],
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of answers.
    pub bytes_out: u64,
    /// Tokens of prompts, as far as servers say.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// How long the requests took, added up.
    pub duration: Duration,
}

/// What was measured since the start, as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsSnapshot {
    /// All requests that are over; the bytes are also those of requests that run.
    pub totals: Totals,
    /// How long the requests took that ended well.
    pub latency: Option<Percentiles>,
    /// How long streamed answers took to begin.
    pub time_to_first_token: Option<Percentiles>,
    /// What went through lately.
    pub rates: Rates,
    /// LLM requests that run.
    pub in_flight: usize,
    /// The last failure.
    pub last_failure: Option<LastFailure>,
    /// Connections that have been asked, the first to be asked first. More than 32 of them are one, `other`.
    pub connections: Vec<ConnectionMetrics>,
    /// Models that have been asked, the first to be asked first. More than 128 of them are one, `other`.
    pub models: Vec<ModelMetrics>,
    /// Records that were dropped since their reader was too slow.
    pub dropped_records: u64,
}

/// What was measured of one connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionMetrics {
    /// The configured id.
    pub id: Arc<str>,
    /// The requests that it answered, or was the last to be asked for.
    pub totals: Totals,
    /// How long the requests took that ended well.
    pub latency: Option<Percentiles>,
    /// How long streamed answers took to begin.
    pub time_to_first_token: Option<Percentiles>,
    /// Failures since the last answer, attempts that another backend made good among them.
    pub consecutive_failures: u32,
    /// The last failure.
    pub last_failure: Option<LastFailure>,
}

/// What was measured of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelMetrics {
    /// The name in the catalogue.
    pub name: Arc<str>,
    /// Its requests.
    pub totals: Totals,
    /// How long the requests took that ended well.
    pub latency: Option<Percentiles>,
    /// How long streamed answers took to begin.
    pub time_to_first_token: Option<Percentiles>,
}

/// When and why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastFailure {
    /// When it ended.
    pub at: SystemTime,
    /// The machine-readable reason, such as `backend_lost`.
    pub code: &'static str,
}

/// Values of the labels `backend` and `model` that are told apart. With the histograms of each that is 3 MiB when
/// all of them have been used for streams, and 16 KiB for the first.
const MOST_CONNECTIONS: usize = 32;
const MOST_MODELS: usize = 128;

/// All sums since the start.
#[derive(Debug)]
pub(crate) struct Ledger {
    connection_labels: Labels,
    model_labels: Labels,
    connections: Vec<Account>,
    models: Vec<Account>,
    totals: Totals,
    window: Window,
    last_failure: Option<LastFailure>,
}

/// The sums of one connection or of one model.
#[derive(Debug, Default)]
struct Account {
    used: bool,
    totals: Totals,
    latency: Latencies,
    time_to_first_token: Latencies,
    consecutive_failures: u32,
    last_failure: Option<LastFailure>,
    /// For the page; of connections only.
    first_tokens: Buckets,
    /// Of those that waited at all.
    waits: Buckets,
    durations: [[Option<Box<Buckets>>; Outcome::ALL.len()]; Ingress::ALL.len()],
    /// For the page; of models only, which are on few connections each.
    pairs: Vec<Pair>,
}

/// What the page shows of one model on one connection.
#[derive(Debug, Default)]
struct Pair {
    connection: usize,
    outcomes: [[u64; Outcome::ALL.len()]; Ingress::ALL.len()],
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// When things happened, as times since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) arrival: Duration,
    /// When the answer's first bytes were passed on; the end when there were none.
    pub(crate) answer: Duration,
    pub(crate) end: Duration,
}

/// A request that runs, as far as it has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    pub(crate) span: Span,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) tokens: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            connection_labels: Labels::new(MOST_CONNECTIONS),
            model_labels: Labels::new(MOST_MODELS),
            connections: Vec::new(),
            models: Vec::new(),
            totals: Totals::default(),
            window: Window::default(),
            last_failure: None,
        }
    }
}

impl Ledger {
    /// Enters a request that is over.
    pub(crate) fn enter(&mut self, request: &Finished, span: Span) {
        let connection = self.connection_labels.place(request.connection.as_ref());
        let model = self.model_labels.place(request.model.as_ref());
        self.totals.add(request);
        let failure = match request.outcome {
            Outcome::Failed => {
                let at = request.started + request.duration;
                Some(LastFailure { at, code: request.error.unwrap_or("failed") })
            }
            Outcome::Ok | Outcome::Rejected | Outcome::Cancelled | Outcome::Refused => None,
        };
        self.last_failure = failure.or(self.last_failure);

        let account = account(&mut self.connections, connection);
        account.enter(request, failure);
        if let Some(took) = request.time_to_first_token {
            account.first_tokens.record(took);
        }
        if !request.queued.is_zero() {
            account.waits.record(request.queued);
        }
        let durations = &mut account.durations[ingress(request.ingress)][request.outcome as usize];
        durations.get_or_insert_default().record(request.duration);
        let account = self::account(&mut self.models, model);
        account.enter(request, failure);
        let pair = account.pair(connection);
        pair.outcomes[ingress(request.ingress)][request.outcome as usize] += 1;
        pair.prompt_tokens += request.prompt_tokens.unwrap_or(0);
        pair.completion_tokens += request.completion_tokens.unwrap_or(0);

        let tokens = request.completion_tokens.unwrap_or(0);
        let live = Live { span, bytes_in: request.bytes_in, bytes_out: request.bytes_out, tokens };
        live.flow_into(&mut self.window, 1.0);
    }

    /// Notes an attempt that failed before another backend was asked.
    pub(crate) fn attempt_failed(&mut self, connection: &Arc<str>) {
        let place = self.connection_labels.place(Some(connection));
        let account = account(&mut self.connections, place);
        account.consecutive_failures = account.consecutive_failures.saturating_add(1);
    }

    /// Returns all figures. `live`: the requests that run.
    pub(crate) fn snapshot(&self, live: &[Live], now: Duration) -> MetricsSnapshot {
        let mut totals = self.totals;
        let mut window = self.window.clone();
        for request in live {
            totals.bytes_in += request.bytes_in;
            totals.bytes_out += request.bytes_out;
            request.flow_into(&mut window, 0.0);
        }
        let (mut latency, mut first_token) = (Latencies::default(), Latencies::default());
        for account in &self.connections {
            latency.merge(&account.latency);
            first_token.merge(&account.time_to_first_token);
        }
        let connections = used(&self.connections).map(|(place, account)| ConnectionMetrics {
            id: Arc::clone(self.connection_labels.name(place)),
            totals: account.totals,
            latency: account.latency.percentiles(),
            time_to_first_token: account.time_to_first_token.percentiles(),
            consecutive_failures: account.consecutive_failures,
            last_failure: account.last_failure,
        });
        let models = used(&self.models).map(|(place, account)| ModelMetrics {
            name: Arc::clone(self.model_labels.name(place)),
            totals: account.totals,
            latency: account.latency.percentiles(),
            time_to_first_token: account.time_to_first_token.percentiles(),
        });
        MetricsSnapshot {
            totals,
            latency: latency.percentiles(),
            time_to_first_token: first_token.percentiles(),
            rates: window.rates(now),
            in_flight: live.len(),
            last_failure: self.last_failure,
            connections: connections.collect(),
            models: models.collect(),
            dropped_records: 0,
        }
    }
}

impl Account {
    fn enter(&mut self, request: &Finished, failure: Option<LastFailure>) {
        self.used = true;
        self.totals.add(request);
        match request.outcome {
            Outcome::Ok => {
                self.latency.record(request.duration);
                self.consecutive_failures = 0;
            }
            Outcome::Rejected => self.consecutive_failures = 0,
            Outcome::Failed => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                self.last_failure = failure;
            }
            // Says nothing about the backend.
            Outcome::Cancelled | Outcome::Refused => {}
        }
        if let Some(took) = request.time_to_first_token {
            self.time_to_first_token.record(took);
        }
    }

    fn pair(&mut self, connection: usize) -> &mut Pair {
        let place = self.pairs.iter().position(|pair| pair.connection == connection);
        let place = place.unwrap_or_else(|| {
            self.pairs.push(Pair { connection, ..Pair::default() });
            self.pairs.len() - 1
        });
        &mut self.pairs[place]
    }
}

impl Live {
    /// A request's bytes came at its arrival, and its answer's until now.
    fn flow_into(&self, window: &mut Window, requests: f64) {
        let Span { arrival, answer, end } = self.span;
        let (bytes_in, bytes_out) = (self.bytes_in as f64, self.bytes_out as f64);
        let ended = Flow { requests, bytes_in, bytes_out, tokens: self.tokens as f64 };
        if window.add_short(ended, arrival, end) {
            return;
        }
        window.add(Flow { bytes_in, ..Flow::default() }, arrival, answer);
        window.add(Flow { requests: 0.0, bytes_in: 0.0, ..ended }, answer, end);
        window.add(Flow { requests, ..Flow::default() }, end, end);
    }
}

impl Totals {
    /// How many requests ended so.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// How many requests there were, however they ended.
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// The share of failures among the requests that a backend could have answered, 0 to 1.
    ///
    /// What callers gave up, and what no backend was asked, does not count. 0 when there is nothing to count.
    pub fn error_rate(&self) -> f64 {
        let failed = self.of(Outcome::Failed);
        let all = self.of(Outcome::Ok) + self.of(Outcome::Rejected) + failed;
        if all == 0 { 0.0 } else { failed as f64 / all as f64 }
    }

    fn add(&mut self, request: &Finished) {
        self.outcomes[request.outcome as usize] += 1;
        self.bytes_in += request.bytes_in;
        self.bytes_out += request.bytes_out;
        self.prompt_tokens += request.prompt_tokens.unwrap_or(0);
        self.completion_tokens += request.completion_tokens.unwrap_or(0);
        self.duration += request.duration;
    }
}

fn account(accounts: &mut Vec<Account>, place: usize) -> &mut Account {
    if place >= accounts.len() {
        accounts.resize_with(place + 1, Account::default);
    }
    &mut accounts[place]
}

/// Returns the accounts to show: those with requests, without the one for requests that had no such value.
fn used(accounts: &[Account]) -> impl Iterator<Item = (usize, &Account)> {
    let shown = |(place, account): &(usize, &Account)| {
        *place != NONE && (account.used || account.consecutive_failures > 0)
    };
    accounts.iter().enumerate().filter(shown)
}

fn ingress(ingress: Ingress) -> usize {
    match ingress {
        Ingress::Local => 0,
        Ingress::Tunnel => 1,
        Ingress::Lan => 2,
    }
}

#[cfg(test)]
mod tests;
