use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::credential::{Credential, CredentialChanges};
use crate::dialect::{Habits, ProbeError, Probed, probe};
use crate::health::{Health, HealthRules};
use crate::pool::SURPLUS_LIMIT;
use crate::shared::Shared;
use crate::status::BackendState;
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

impl Prober {
    /// Runs until the backend is removed or the broker ends.
    pub(crate) async fn run(self) {
        let stop = self.upstream.stop.clone();
        stop.run_until_cancelled_owned(self.probing()).await;
    }

    async fn probing(self) {
        let mut orders = self.upstream.orders();
        let mut secret = self.upstream.credential().map(Credential::changes);
        let mut health = Health::default();
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
            let result = probe(&self.upstream, settings.connect_timeout, declared, &mut habits).await;
            if result.is_err() {
                habits = Habits::default();
            }
            // To ask in vain where nobody listens costs nothing.
            let unreachable = matches!(result, Err(ProbeError::Connect(_)));
            let least = self.upstream.profile.least_interval;
            let rules = HealthRules {
                // Who refuses us now refuses the requests, too.
                failures: if result.as_ref().is_err_and(ProbeError::is_final) {
                    1
                } else {
                    settings.probe_failures.max(1)
                },
                interval: settings.probe_interval.max(least),
                retry_delay: if unreachable { settings.retry_delay } else { settings.retry_delay.max(least) },
                cheap: self.upstream.origin.is_loopback()
                    && result.as_ref().is_err_and(ProbeError::is_refusal),
            };
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
    fn note(&self, result: Result<Probed, ProbeError>, health: &mut Health, rules: &HealthRules) {
        let before = self.upstream.report();
        let mut report = Report { last_check: Some(SystemTime::now()), ..Report::clone(&before) };
        match result {
            Ok(probed) => {
                health.succeeded();
                report.error = None;
                report.version = probed.version;
                report.latency = Some(probed.latency);
                report.speaks = probed.speaks;
                report.listing = Some(Arc::new(probed.listing));
            }
            Err(error) => {
                health.failed(error.fault(), rules);
                debug!(backend = %self.id, %error, "probe failed");
                report.error = Some(error.to_string());
            }
        }
        report.state = health.state();
        report.failing = health.is_failing();
        match (before.state, report.state) {
            (a, b) if a == b => {}
            (_, BackendState::Connected) => {
                let n_models = report.listing.as_ref().map_or(0, |listing| listing.models.len());
                info!(backend = %self.id, n_models, "backend is up");
            }
            (_, state) => {
                let error = report.error.as_deref().unwrap_or_default();
                warn!(backend = %self.id, state = state.as_str(), error, "backend is down");
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

/// Waits for the next change of a backend's secret; for ever where it has none.
async fn changed(secret: Option<&mut CredentialChanges>) {
    match secret {
        Some(secret) => secret.next().await,
        None => std::future::pending().await,
    }
}
