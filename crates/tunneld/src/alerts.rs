//! Alerts: figures that stay above the thresholds of the configuration.

mod level;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tunnel_api::Warning;
use tunnel_api::config;
use tunnel_api::warning::{ERROR_RATE_HIGH, FAILURES_IN_A_ROW, LATENCY_HIGH, MEMORY_HIGH};

use self::level::{Held, Level};
use crate::config::ConfigState;
use crate::warnings::{Condition, Reports};

/// What is judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) connections: Vec<ConnectionFigures>,
    /// Memory of the daemon; none where it is not known.
    pub(crate) memory_bytes: Option<u64>,
}

/// How one connection does.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ConnectionFigures {
    pub(crate) id: String,
    /// Time that the latest probe took; none while it is down, which is another warning's matter.
    pub(crate) latency: Option<Duration>,
    /// Share of the latest requests that failed, 0–1; none where there were too few to tell.
    pub(crate) error_rate: Option<f64>,
    /// Requests that failed since the last that did not.
    pub(crate) failures_in_a_row: u32,
}

/// Judges figures, with a memory of what it said before.
#[derive(Debug, Default)]
pub(crate) struct Alerts {
    memory: Level,
    connections: BTreeMap<String, ConnectionLevels>,
}

#[derive(Debug, Default)]
struct ConnectionLevels {
    latency: Level,
    error_rate: Level,
    failures: Level,
}

/// One slow probe, or one burst of work, is no trouble; three readings in a row may be.
const MEASURED: Held = Held { raise: Duration::from_secs(20), clear: Duration::from_secs(60) };
/// A number of failures has waited for itself. One success ends it, and it stays ended for a while before it is told.
const COUNTED: Held = Held { raise: Duration::ZERO, clear: Duration::from_secs(20) };

const MIB: f64 = 1024.0 * 1024.0;

impl Alerts {
    /// Returns the alerts that hold.
    pub(crate) fn evaluate(
        &mut self,
        limits: &config::Alerts,
        figures: &Figures,
        now: Instant,
    ) -> Vec<Condition> {
        // A connection that is gone has no alerts, and starts over if it comes back.
        self.connections.retain(|id, _| figures.connections.iter().any(|connection| connection.id == *id));
        let mut conditions = Vec::new();
        for figures in &figures.connections {
            let levels = self.connections.entry(figures.id.clone()).or_default();
            conditions.extend(levels.evaluate(limits, figures, now));
        }
        let memory = figures.memory_bytes.map(|bytes| bytes as f64 / MIB);
        let limit = f64::from(limits.memory_mb.get());
        if let Some(mib) = self.memory.observe(memory, limit, MEASURED, now) {
            conditions.push(Condition::new(Warning::new(
                MEMORY_HIGH,
                format!("tunneld holds {mib:.0} MiB of memory, the threshold is {limit:.0} MiB"),
                "look what runs: tunnelctl status; if it stays so without requests, restart it: \
                 systemctl --user restart tunneld; or raise alerts.memoryMB",
            )));
        }
        conditions
    }
}

impl ConnectionLevels {
    fn evaluate(
        &mut self,
        limits: &config::Alerts,
        figures: &ConnectionFigures,
        now: Instant,
    ) -> Vec<Condition> {
        let id = &figures.id;
        let mut conditions = Vec::new();
        let mut alert = |code, message, next_step| {
            conditions.push(Condition::of(id, Warning::new(code, message, next_step)));
        };
        let latency = figures.latency.map(|latency| latency.as_secs_f64() * 1e3);
        let limit = limits.latency_ms.as_secs_f64() * 1e3;
        if let Some(ms) = self.latency.observe(latency, limit, MEASURED, now) {
            alert(
                LATENCY_HIGH,
                format!("{id} takes {ms:.0} ms to answer a probe, the threshold is {limit:.0} ms"),
                "look at the load of its machine and at the network between; or raise alerts.latencyMs",
            );
        }
        let percent = figures.error_rate.map(|rate| rate * 100.0);
        let limit = limits.error_rate_percent;
        if let Some(percent) = self.error_rate.observe(percent, limit, MEASURED, now) {
            alert(
                ERROR_RATE_HIGH,
                format!("{percent:.1} % of the latest requests of {id} failed, the threshold is {limit} %"),
                "look at the log of that model server; or raise alerts.errorRatePercent",
            );
        }
        let limit = limits.consecutive_failures.get();
        let failures = Some(f64::from(figures.failures_in_a_row));
        if let Some(n) = self.failures.observe(failures, limit.into(), COUNTED, now) {
            alert(
                FAILURES_IN_A_ROW,
                format!("the last {n:.0} requests of {id} failed, the threshold is {limit}"),
                "look at the log of that model server; or raise alerts.consecutiveFailures",
            );
        }
        conditions
    }
}

/// Time between two looks. Alerts are about what lasts.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Judges what `measure` returns, now and then, until `soft` ends.
pub(crate) async fn watch(
    mut measure: impl FnMut() -> Figures + Send,
    config: watch::Receiver<Arc<ConfigState>>,
    reports: Reports,
    soft: CancellationToken,
) {
    let mut alerts = Alerts::default();
    let mut look = tokio::time::interval(LOOK_EVERY);
    // After a sleep one look is enough.
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            now = look.tick() => {
                let limits = config.borrow().config.alerts.clone();
                reports.set("alerts", alerts.evaluate(&limits, &measure(), now.into_std()));
            }
            () = soft.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests;
