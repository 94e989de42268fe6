//! Whose tokens are taken: those of the relay's own issuer, and those of the issuers in the settings.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::cache::{Digest, VerifiedCache};
use super::fetch::Fetcher;
use super::issuer::Issuer;
use super::jwt::{Jwt, TOKEN_MAX_BYTES};
use super::remote_keys::Means;
use super::revoked::{By, Revocations, RevokeError};
use super::standing::Holder;
use super::{Principal, TokenError, Verifier, sha256, unix_now};
use crate::config::Settings;
use crate::metrics::Metrics;
use tunnel_runtime::AddressKey;

/// Least time between two fetches of keys from one issuer, whatever tokens come.
const COOL_DOWN: Duration = Duration::from_secs(10);

/// How often files are looked at, and keys that have become old.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Checks tokens, whoever issued them.
#[derive(Debug)]
pub(crate) struct Authority {
    local: Verifier,
    issuers: ArcSwap<Vec<Arc<Issuer>>>,
    verified: VerifiedCache,
    revocations: Arc<Revocations>,
    means: Means,
}

impl Authority {
    /// May wait for the disk, where an issuer's keys are a file.
    pub(crate) fn new(
        local: Verifier,
        revocations: Revocations,
        settings: &Settings,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self::with_cool_down(local, revocations, settings, metrics, COOL_DOWN)
    }

    fn with_cool_down(
        local: Verifier,
        revocations: Revocations,
        settings: &Settings,
        metrics: Arc<Metrics>,
        cool_down: Duration,
    ) -> Self {
        let means = Means {
            fetcher: Arc::new(Fetcher::new()),
            tasks: TaskTracker::new(),
            over: CancellationToken::new(),
            cool_down,
            metrics,
        };
        let authority = Self {
            local,
            issuers: ArcSwap::default(),
            verified: VerifiedCache::default(),
            revocations: Arc::new(revocations),
            means,
        };
        authority.reload(settings);
        authority
    }

    /// Verifies a token now, which was sent from this address.
    ///
    /// Waits at most for the issuer's keys, and only where the token names a key that is not known. A token that was
    /// verified a moment ago is only asked whether it has expired, was revoked, or its issuer is gone.
    pub(crate) async fn verify(&self, token: &str, from: IpAddr) -> Result<Arc<Principal>, TokenError> {
        self.verify_at(token, from, unix_now()).await
    }

    /// Tells, without waiting, whether a token was verified a moment ago and is good.
    pub(crate) fn remembers(&self, token: &str) -> bool {
        let known = self.verified.get(&sha256(token.as_bytes()));
        known.is_some_and(|principal| {
            let is_trusted = !principal.origin.is_retired() && principal.expires_at > unix_now();
            is_trusted && self.revocations.check(&principal).is_ok()
        })
    }

    pub(super) async fn verify_at(
        &self,
        token: &str,
        from: IpAddr,
        now: u64,
    ) -> Result<Arc<Principal>, TokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::Invalid);
        }
        let digest = sha256(token.as_bytes());
        let known = self.verified.get(&digest).filter(|principal| !principal.origin.is_retired());
        let principal = match known {
            Some(principal) => principal,
            None => {
                let principal = Arc::new(self.check(token, &digest, from, now).await?);
                if principal.expires_at > now {
                    self.verified.insert(digest, Arc::clone(&principal));
                }
                principal
            }
        };
        // A token is good up to, not at, its `exp` (RFC 7519 §4.1.4).
        if principal.expires_at <= now {
            self.verified.remove(&digest);
            return Err(TokenError::Expired);
        }
        self.revocations.check(&principal)?;
        Ok(principal)
    }

    /// Verifies a token that is not remembered, by the keys of the issuer that it names and of no other.
    async fn check(
        &self,
        token: &str,
        digest: &Digest,
        from: IpAddr,
        now: u64,
    ) -> Result<Principal, TokenError> {
        let jwt = Jwt::parse(token)?;
        let name = jwt.issuer().ok_or(TokenError::Invalid)?;
        if name == super::local_issuer::ISSUER {
            let principal = self.local.check(&jwt, now)?;
            return self.check_keys_issuer(principal);
        }
        let issuer = self.issuers.load().iter().find(|issuer| issuer.settings.issuer == name).cloned();
        issuer.ok_or(TokenError::Invalid)?.verify(&jwt, digest, AddressKey::of(from), now).await
    }

    /// A key that was made with the token of an issuer is good as long as that issuer is in the settings.
    fn check_keys_issuer(&self, key: Principal) -> Result<Principal, TokenError> {
        let Some(via) = &key.issuer else { return Ok(key) };
        let issuers = self.issuers.load();
        let issuer = issuers.iter().find(|issuer| issuer.vouches_for(via, &key.subject));
        let origin = issuer.ok_or(TokenError::Invalid)?.origin_of_keys();
        Ok(Principal { origin, ..key })
    }

    /// Takes the issuers of new settings. Those whose settings are the same stay as they are, with their keys; what the
    /// others' tokens opened ends, and where the issuer itself is gone, what the keys opened that were made with such tokens.
    /// May wait for the disk, where an issuer's keys are a file.
    pub(crate) fn reload(&self, settings: &Settings) {
        let before = self.issuers.load_full();
        let issuers: Vec<Arc<Issuer>> = settings
            .issuers
            .iter()
            .map(|wanted| match before.iter().find(|issuer| issuer.settings == *wanted) {
                Some(same) => Arc::clone(same),
                None => {
                    let same = before.iter().find(|issuer| issuer.is_of(wanted));
                    Arc::new(Issuer::new(wanted, same.map(|issuer| issuer.origin_of_keys()), &self.means))
                }
            })
            .collect();
        let gone = |issuer: &&Arc<Issuer>| !issuers.iter().any(|stays| Arc::ptr_eq(stays, issuer));
        let gone: Vec<_> = before.iter().filter(gone).cloned().collect();
        let issuers = Arc::new(issuers);
        self.issuers.store(Arc::clone(&issuers));
        for issuer in &gone {
            info!(issuer = issuer.settings.name, "tokens of this issuer are not taken any more");
            issuer.retire();
            if issuers.iter().any(|stays| stays.is_of(&issuer.settings)) {
                continue;
            }
            issuer.retire_keys();
            if let Some(other) = issuers.iter().find(|other| other.settings.name == issuer.settings.name) {
                warn!(
                    issuer = issuer.settings.name,
                    before = issuer.settings.issuer,
                    now = other.settings.issuer,
                    "the name stands for another issuer: whoever is called the same there has the devices of those before; a new \
                     issuer should have a name of its own"
                );
            }
        }
        if !gone.is_empty() {
            self.revocations.changed();
        }
    }

    /// Revokes a token: no request is taken with it from now on, streams and sessions that it opened end. `until`: when
    /// it ends anyway, in Unix seconds.
    pub(crate) async fn revoke(
        &self,
        subject: &str,
        token_id: &str,
        until: u64,
        by: By,
    ) -> Result<(), RevokeError> {
        self.revocations.revoke(subject, token_id, until, by).await
    }

    /// Revokes all tokens of a subject that were issued before a time, in Unix seconds, in the same way. Returns until when
    /// that is kept.
    pub(crate) async fn revoke_issued_before(&self, subject: &str, before: u64) -> Result<u64, RevokeError> {
        self.revocations.revoke_issued_before(subject, before).await
    }

    /// Returns what watches, for a stream under way, whether its token is still good.
    pub(crate) fn holder(&self, principal: &Arc<Principal>) -> Holder {
        Holder::new(Arc::clone(principal), Arc::clone(&self.revocations))
    }

    /// Keeps keys fresh and takes over changed files until `over`.
    pub(crate) async fn run(self: Arc<Self>, over: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = over.cancelled() => break,
                _ = ticks.tick() => {}
            }
            for issuer in &**self.issuers.load() {
                issuer.refresh();
            }
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.look()).await {
                error!(%error, "secrets and revoked tokens could not be looked at");
            }
        }
        self.means.over.cancel();
        self.means.tasks.close();
        self.means.tasks.wait().await;
    }

    /// Takes over what has changed in files.
    pub(super) fn look(&self) {
        self.revocations.look();
        let mut ended = false;
        for issuer in self.issuers.load().iter() {
            ended |= issuer.look();
        }
        if ended {
            self.revocations.changed();
        }
    }
}

#[cfg(test)]
mod tests;
