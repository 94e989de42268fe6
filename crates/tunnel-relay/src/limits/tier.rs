//! One tier's limits while the relay runs: what each of its tenants has used.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::bounded::Bounded;
use super::rate::{Rate, Terms};
use super::throttle::Throttle;
use crate::config::{Settings, Tier};

/// Tenants whose bytes are counted at most in one tier. Beyond, those that were idle for longest start over.
const MAX_TENANTS: usize = 100_000;

/// The bytes a second of one tenant, each direction by itself.
#[derive(Debug)]
pub(crate) struct Throttles {
    /// From callers to desktops.
    pub(crate) up: Arc<Throttle>,
    /// From desktops to callers.
    pub(crate) down: Arc<Throttle>,
}

/// The limits of all tiers.
#[derive(Debug, Default)]
pub(super) struct Tiers {
    default: TierLimits,
    named: BTreeMap<String, TierLimits>,
}

/// The limits of one tier.
#[derive(Clone, Debug, Default)]
pub(super) struct TierLimits {
    pub(super) requests: Option<Arc<Rate<Arc<str>>>>,
    /// New sessions of desktops.
    pub(super) dials: Option<Arc<Rate<Arc<str>>>>,
    pub(super) resumes: Option<Arc<Rate<Arc<str>>>>,
    tenants: Arc<Tenants>,
}

#[derive(Debug)]
struct Tenants(Mutex<Bounded<Arc<str>, Arc<Throttles>>>);

impl Tiers {
    /// Takes other settings over. What has not changed goes on counting where it was.
    pub(super) fn reloaded(&self, settings: &Settings) -> Self {
        for (name, tier) in &self.named {
            // A tenant whose tier is gone is one of `default`, also with what is under way.
            tier.tenants.set_rate(settings.tier(Some(name)).bytes_per_second);
        }
        self.default.tenants.set_rate(settings.default_tier.bytes_per_second);
        let named = settings.tiers.iter().map(|(name, tier)| {
            let before = self.named.get(name).cloned().unwrap_or_default();
            (name.clone(), before.reloaded(tier))
        });
        Self { default: self.default.clone().reloaded(&settings.default_tier), named: named.collect() }
    }

    /// Returns the limits of the tier of that name, or of `default`.
    pub(super) fn get(&self, name: Option<&str>) -> &TierLimits {
        name.and_then(|name| self.named.get(name)).unwrap_or(&self.default)
    }

    pub(super) fn sweep(&self, now: Instant) {
        for tier in std::iter::once(&self.default).chain(self.named.values()) {
            for rate in [&tier.requests, &tier.dials, &tier.resumes].into_iter().flatten() {
                rate.sweep();
            }
            tier.tenants.sweep(now);
        }
    }
}

impl TierLimits {
    fn reloaded(self, tier: &Tier) -> Self {
        let requests = Terms::of(tier.requests_per_minute, tier.burst);
        let dials = Terms::of(tier.dials_per_minute, dial_burst(tier.max_devices));
        Self {
            requests: super::rate_of("tenant", self.requests, requests),
            dials: super::rate_of("dials", self.dials, dials),
            resumes: super::rate_of("resumes", self.resumes, dials),
            tenants: self.tenants,
        }
    }

    /// Returns the tenant's bytes a second.
    pub(super) fn throttles(&self, subject: &Arc<str>, rate: NonZeroU32, now: Instant) -> Arc<Throttles> {
        let mut tenants = self.tenants.lock();
        if let Some(throttles) = tenants.get(&**subject) {
            return Arc::clone(throttles);
        }
        let throttle = || Arc::new(Throttle::new(Some(rate), now));
        let throttles = Arc::new(Throttles { up: throttle(), down: throttle() });
        tenants.insert(Arc::clone(subject), Arc::clone(&throttles));
        throttles
    }
}

/// Returns how many dials of a tenant may come at once. All its desktops do when the relay comes back, and some of them
/// more than once: who is sent away because others dial, too, has dialled.
fn dial_burst(max_devices: usize) -> Option<NonZeroU32> {
    let dials = max_devices.saturating_mul(4).saturating_add(10);
    NonZeroU32::new(u32::try_from(dials).unwrap_or(u32::MAX))
}

#[cfg(test)]
impl TierLimits {
    pub(super) fn n_throttled(&self) -> usize {
        self.tenants.lock().len()
    }
}

impl Tenants {
    fn lock(&self) -> MutexGuard<'_, Bounded<Arc<str>, Arc<Throttles>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_rate(&self, rate: Option<NonZeroU32>) {
        for throttles in self.lock().values() {
            throttles.up.set_rate(rate);
            throttles.down.set_rate(rate);
        }
    }

    /// Forgets those who use nothing now and owe nothing.
    fn sweep(&self, now: Instant) {
        self.lock().retain(|throttles| {
            let used = |throttle: &Arc<Throttle>| Arc::strong_count(throttle) > 1 || !throttle.is_full(now);
            Arc::strong_count(throttles) > 1 || used(&throttles.up) || used(&throttles.down)
        });
    }
}

impl Default for Tenants {
    fn default() -> Self {
        Self(Mutex::new(Bounded::new(MAX_TENANTS)))
    }
}
