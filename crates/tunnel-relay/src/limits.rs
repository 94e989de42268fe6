//! How much a tenant and an address may ask for.

mod bounded;
mod proxies;
mod rate;
mod throttle;
mod tier;

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tunnel_transport::DialKind;

use self::bounded::Bounded;
use self::proxies::Proxies;
use self::rate::{Rate, Terms, Wait};
use self::tier::Tiers;
use crate::auth::{self, Principal};
use crate::client::Client;
use crate::config::{ProxyHeader, Settings};
use crate::error::Refusal;
use crate::relay::Shared;
use tunnel_runtime::AddressKey;

#[cfg(test)]
pub(crate) use self::rate::{RATELIMIT, RATELIMIT_POLICY};
pub(crate) use self::throttle::Throttle;
pub(crate) use self::tier::Throttles;

/// Counts what is asked for.
#[derive(Debug)]
pub(crate) struct Limits {
    in_force: ArcSwap<InForce>,
    closed: Closed,
    proxies: Proxies,
}

/// The counters for the settings in force.
#[derive(Debug, Default)]
struct InForce {
    tiers: Tiers,
    address: Option<Arc<Rate<AddressKey>>>,
    refused_tokens: Option<Arc<Rate<AddressKey>>>,
}

/// A request that was let in, and what its answer should say of what is left.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    /// `RateLimit-Policy` and `RateLimit`, where there is such a limit.
    pub(crate) headers: HeaderMap,
}

impl Allowed {
    /// Writes them into an answer's headers, beside those of another limit.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        append(headers, &self.headers);
    }
}

/// How often those who have all of their allowance again are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Self {
        let limits =
            Self { in_force: ArcSwap::default(), closed: Closed::default(), proxies: Proxies::default() };
        limits.reload(settings);
        limits
    }

    /// Takes other settings over at once, for what is under way, too. A limit that is as before goes on counting.
    pub(crate) fn reload(&self, settings: &Settings) {
        let before = self.in_force.load();
        let address = &settings.address;
        let requests = Terms::of(address.requests_per_minute, address.burst);
        let refused = Terms::of(address.refused_tokens_per_minute, None);
        self.in_force.store(Arc::new(InForce {
            tiers: before.tiers.reloaded(settings),
            address: rate_of("address", before.address.clone(), requests),
            refused_tokens: rate_of("refused", before.refused_tokens.clone(), refused),
        }));
        if refused.is_none() {
            self.closed.open_all();
        }
    }

    /// Lets a request come near, before anything of it is looked at. Called once for each request.
    ///
    /// Many people may share an address with one who guesses. So of a closed one, tokens are let in that are `known` to be
    /// good: that costs a hash and no signature.
    pub(crate) fn arrive(
        &self,
        settings: &Settings,
        client: &Client,
        headers: &HeaderMap,
        known: impl FnOnce(&str) -> bool,
    ) -> Result<Allowed, Refusal> {
        if let Some(left) = self.closed.left(client.address)
            && headers.contains_key(AUTHORIZATION)
            && !auth::bearer(headers).is_ok_and(known)
        {
            return Err(Refusal::RateLimited {
                what: "your address has sent too many tokens that this relay does not take; no new one is looked at for \
                       now",
                retry_after: left,
                headers: Box::default(),
            });
        }
        let mut allowed = Allowed::default();
        // The usual case costs nothing more than this.
        if settings.address.requests_per_minute.is_some()
            && let Some(rate) = &self.in_force.load().address
        {
            let key = AddressKey::of(client.address);
            check(rate, &key, &mut allowed.headers, "your address is over its requests a minute")?;
        }
        Ok(allowed)
    }

    /// Notes a request with a header that proxies write, of a peer that is no trusted proxy; `over`: it was over a limit
    /// of its address. `configured` is the header that the settings name.
    pub(crate) fn unnamed_proxy(&self, peer: IpAddr, configured: ProxyHeader, seen: ProxyHeader, over: bool) {
        self.proxies.unnamed(peer, configured, seen, over, Instant::now());
    }

    /// Notes a request of a trusted proxy that does not say who calls in the header that the settings name; `other`: it
    /// does in the other one.
    pub(crate) fn silent_proxy(&self, proxy: IpAddr, configured: ProxyHeader, other: bool) {
        self.proxies.silent(proxy, configured, other, Instant::now());
    }

    /// Lets a tenant's request in, or says how long to wait. Called once for each request, after its token was verified.
    pub(crate) fn allow(
        &self,
        settings: &Settings,
        principal: &Principal,
        _client: &Client,
    ) -> Result<Allowed, Refusal> {
        let mut allowed = Allowed::default();
        let tier = principal.tier.as_deref();
        if settings.tier(tier).requests_per_minute.is_some()
            && let Some(rate) = &self.in_force.load().tiers.get(tier).requests
        {
            check(
                rate,
                &principal.subject,
                &mut allowed.headers,
                "your account is over its requests a minute",
            )?;
        }
        Ok(allowed)
    }

    /// Lets a desktop dial, or says how long to wait. Called once for each dial, after its token was verified.
    pub(crate) fn allow_dial(&self, principal: &Principal, kind: &DialKind) -> Result<(), Refusal> {
        let in_force = self.in_force.load();
        let tier = in_force.tiers.get(principal.tier.as_deref());
        let (rate, what) = match kind {
            DialKind::Fresh | DialKind::Migrate { .. } => {
                (&tier.dials, "your desktops dial this relay too often")
            }
            DialKind::Resume { .. } => (&tier.resumes, "your desktops resume their sessions too often"),
        };
        match rate {
            Some(rate) => check(rate, &principal.subject, &mut HeaderMap::new(), what),
            None => Ok(()),
        }
    }

    /// Returns the bytes a second that the tenant's streams share; `None`: as many as there are.
    pub(crate) fn throttles(&self, settings: &Settings, principal: &Principal) -> Option<Arc<Throttles>> {
        let tier = principal.tier.as_deref();
        let rate = settings.tier(tier).bytes_per_second?;
        Some(self.in_force.load().tiers.get(tier).throttles(&principal.subject, rate, Instant::now()))
    }

    /// Notes that a token from this address was not taken.
    pub(crate) fn token_refused(&self, address: IpAddr) {
        if let Some(rate) = &self.in_force.load().refused_tokens
            && let Err(Wait(wait)) = rate.check(&AddressKey::of(address))
        {
            self.closed.close(address, Instant::now() + wait);
        }
    }

    /// Forgets those who have all of their allowance again, from time to time, until the relay ends.
    pub(crate) async fn sweep_until_the_end(shared: Arc<Shared>) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                _ = ticks.tick() => shared.limits.sweep(Instant::now()),
                () = shared.hard.cancelled() => return,
            }
        }
    }

    fn sweep(&self, now: Instant) {
        let in_force = self.in_force.load();
        in_force.tiers.sweep(now);
        for rate in [&in_force.address, &in_force.refused_tokens].into_iter().flatten() {
            rate.sweep();
        }
        self.closed.sweep(now);
    }
}

/// Returns a limit with these terms: the one from before, where it has them.
fn rate_of<K: Eq + Hash + Clone>(
    name: &'static str,
    before: Option<Arc<Rate<K>>>,
    terms: Option<Terms>,
) -> Option<Arc<Rate<K>>> {
    let terms = terms?;
    let same = before.filter(|before| before.terms() == terms);
    Some(same.unwrap_or_else(|| Arc::new(Rate::new(name, terms))))
}

fn check<K: Eq + Hash + Clone>(
    rate: &Rate<K>,
    key: &K,
    headers: &mut HeaderMap,
    what: &'static str,
) -> Result<(), Refusal> {
    match rate.check(key) {
        Ok(left) => rate.tell(left, headers),
        Err(wait) => {
            let mut headers = Box::new(HeaderMap::new());
            rate.tell_wait(&wait, &mut headers);
            return Err(Refusal::RateLimited { what, retry_after: wait.0, headers });
        }
    }
    Ok(())
}

fn append(headers: &mut HeaderMap, more: &HeaderMap) {
    for (name, value) in more {
        headers.append(HeaderName::clone(name), HeaderValue::clone(value));
    }
}

/// Addresses whose tokens are not looked at for a while.
#[derive(Debug)]
struct Closed {
    until: Mutex<Bounded<AddressKey, Instant>>,
    /// How many: no lock is taken while there are none.
    n_closed: AtomicUsize,
}

/// Addresses that can be closed at once; beyond, the oldest are let in.
const MAX_CLOSED: usize = 100_000;

impl Default for Closed {
    fn default() -> Self {
        Self { until: Mutex::new(Bounded::new(MAX_CLOSED)), n_closed: AtomicUsize::new(0) }
    }
}

impl Closed {
    fn close(&self, address: IpAddr, until: Instant) {
        self.with(|closed| closed.insert(AddressKey::of(address), until));
    }

    /// Returns how long an address is still closed.
    fn left(&self, address: IpAddr) -> Option<Duration> {
        if self.n_closed.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let until = self.with(|closed| closed.get(&AddressKey::of(address)).copied())?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn sweep(&self, now: Instant) {
        self.with(|closed| closed.retain(|until| *until > now));
    }

    fn open_all(&self) {
        self.with(|closed| closed.retain(|_| false));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Bounded<AddressKey, Instant>) -> T) -> T {
        let mut closed = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let value = change(&mut closed);
        self.n_closed.store(closed.len(), Ordering::Relaxed);
        value
    }
}

#[cfg(test)]
mod tests;
