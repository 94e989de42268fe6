use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::config::BrokerConfig;
use crate::credential::{Credential, CredentialChanges};
use crate::dialect::{Habits, ProbeError, Probed, probe};
use crate::exchange::Limits;
use crate::health::{HealthRules, HealthTracker, Phase};
use crate::pool::SURPLUS_LIMIT;
use crate::shared::Shared;
use crate::upstream::{Report, Upstream};

/// Asks one backend, again and again, how it is; keeps its pool tidy in between.
pub(crate) struct Prober {
    pub(crate) id: String,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) shared: Arc<Shared>,
}

/// Orders are carried out no more often than this: callers can cause them.
const SHORTEST_GAP: Duration = Duration::from_millis(200);
/// Longest wait for whoever keeps a backend's secret to have looked for it.
const SECRET_LIMIT: Duration = Duration::from_secs(10);
/// How often idle connections that a backend has closed are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// Longest wait for the answer to one question of a probe.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);
/// The same for a server that used to answer at once. Its requests wait for what the probe finds, and a machine
/// that is out of breath for seconds must not pass for one that hangs.
const SHORTEST_ANSWER: Duration = Duration::from_secs(3);
/// How many times slower than usual an answer may be before it is given up, within these bounds.
const SLOWER: u32 = 20;

impl Prober {
    /// Runs until the backend is removed or the broker ends.
    pub(crate) async fn run(self) {
        let stop = self.upstream.stop.clone();
        stop.run_until_cancelled_owned(self.probing()).await;
    }

    async fn probing(self) {
        let mut orders = self.upstream.orders();
        let mut secret = self.upstream.credential().map(Credential::changes);
        let mut health = HealthTracker::default();
        let mut habits = Habits::default();
        loop {
            let order = *orders.borrow_and_update();
            if let Some(credential) = self.upstream.credential() {
                // A store of secrets that hangs must not be taken for one that has none.
                drop(tokio::time::timeout(SECRET_LIMIT, credential.settled()).await);
            }
            let started = Instant::now();
            let settings = self.shared.settings();
            let declared = self.shared.declares_models(&self.id);
            let limits = limits(&settings, self.upstream.report().latency);
            let result = probe(&self.upstream, limits, declared, &mut habits).await;
            if result.is_err() {
                habits = Habits::default();
            }
            let near = self.upstream.origin.is_loopback();
            // To ask in vain where nobody listens costs nothing.
            let unreachable = matches!(result, Err(ProbeError::Connect(_)));
            let least = self.upstream.profile.least_interval;
            let interval = settings.probe_interval.max(least);
            self.upstream.outcomes.set_longest(interval);
            let rules = HealthRules {
                failures: settings.probe_failures.max(1),
                interval,
                retry_delay: if unreachable { settings.retry_delay } else { settings.retry_delay.max(least) },
                cheap: near && result.as_ref().is_err_and(ProbeError::is_refusal),
                near,
            };
            self.upstream.looked_at(order);
            self.note(result, &mut health, &rules);
            self.upstream.carried_out(order);
            let next = Instant::now() + health.next_probe(&rules);
            tokio::select! {
                () = self.sweep_until(next) => {}
                // Cannot fail: the sender lives as long as the upstream.
                _ = orders.changed() => tokio::time::sleep_until(started + SHORTEST_GAP).await,
                () = changed(secret.as_mut()) => {}
            }
        }
    }

    /// Takes in what a probe brought and shows it.
    fn note(&self, result: Result<Probed, ProbeError>, health: &mut HealthTracker, rules: &HealthRules) {
        let before = self.upstream.report();
        let mut report = Report { last_check: Some(SystemTime::now()), ..Report::clone(&before) };
        match result {
            Ok(probed) => {
                health.succeeded();
                if self.upstream.outcomes.probed_well() || health.phase() != before.phase {
                    // It has been started anew, or was in trouble: what its answers took then says nothing of now.
                    self.upstream.load.forget();
                } else if self.upstream.in_flight.load(Ordering::SeqCst) == 0 {
                    self.upstream.load.idle_and_well(Instant::now());
                }
                report.hangs = false;
                report.heard = Some(Instant::now());
                report.error = None;
                report.version = probed.version;
                report.latency = Some(probed.latency);
                report.speaks = probed.speaks;
                report.listing = Some(Arc::new(probed.listing));
            }
            Err(error) => {
                health.failed(error.fault(), rules);
                debug!(backend = %self.id, %error, "probe failed");
                report.hangs = error.is_silence();
                report.error = Some(error.to_string());
            }
        }
        report.phase = health.phase();
        report.state = report.phase.state();
        report.failing = health.is_failing();
        match (before.phase, report.phase) {
            (a, b) if a == b => {}
            (_, Phase::Up) => {
                let n_models = report.listing.as_ref().map_or(0, |listing| listing.models.len());
                info!(backend = %self.id, n_models, "backend is up");
            }
            (_, Phase::Warming) => info!(backend = %self.id, "backend loads its model"),
            (_, Phase::Unknown | Phase::Unauthorised | Phase::Down(_)) => {
                let error = report.error.as_deref().unwrap_or_default();
                warn!(backend = %self.id, state = report.state.as_str(), error, "backend is down");
            }
        }
        self.upstream.set_report(report);
        // Probes that were ordered come close together and must not wash the past away.
        let age = before.last_check.and_then(|at| at.elapsed().ok());
        if age.is_none_or(|age| age * 2 >= rules.interval) {
            self.upstream.outcomes.fade();
        }
        self.shared.publish();
    }

    /// Closes idle connections in time, until it is time for the next probe.
    async fn sweep_until(&self, next_probe: Instant) {
        loop {
            let next_sweep = Instant::now() + SWEEP_INTERVAL;
            tokio::select! {
                () = tokio::time::sleep_until(next_probe) => return,
                () = tokio::time::sleep_until(next_sweep) => {}
                () = self.upstream.pool.surplus() => tokio::time::sleep(SURPLUS_LIMIT).await,
            }
            self.upstream.pool.sweep(self.shared.settings().pool_size, Instant::now());
        }
    }
}

/// Returns the limits of a probe. `latency`: how long the backend took the last time it answered.
fn limits(settings: &BrokerConfig, latency: Option<Duration>) -> Limits {
    let usual = latency.map_or(LONGEST_ANSWER, |latency| latency.saturating_mul(SLOWER));
    let answer = usual.clamp(SHORTEST_ANSWER, LONGEST_ANSWER);
    // Who gives requests little time wants to know sooner.
    let answer = answer.min(settings.first_byte_timeout / 2);
    // A server that was reached before is reached as quickly, or something is wrong with it.
    let connect = latency.map_or(settings.connect_timeout, |_| settings.connect_timeout.min(answer));
    Limits { connect, answer }
}

/// Waits for the next change of a backend's secret; for ever where it has none.
async fn changed(secret: Option<&mut CredentialChanges>) {
    match secret {
        Some(secret) => secret.next().await,
        None => std::future::pending().await,
    }
}
