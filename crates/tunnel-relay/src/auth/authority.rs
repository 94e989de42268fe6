//! Whose tokens are taken: those of the relay's own issuer, and those of the issuers in the settings.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::cache::{Digest, VerifiedCache};
use super::fetch::Fetcher;
use super::issuer::Issuer;
use super::jwt::{Jwt, TOKEN_MAX_BYTES};
use super::remote_keys::Means;
use super::revoked::{Revocations, RevokeError};
use super::standing::Holder;
use super::{Principal, TokenError, Verifier, sha256, unix_now};
use crate::config::Settings;
use crate::metrics::Metrics;

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
        let means =
            Means { fetcher: Arc::new(Fetcher::new()), tasks: TaskTracker::new(), cool_down, metrics };
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

    /// Verifies a token now.
    ///
    /// Waits at most for the issuer's keys, and only where the token names a key that is not known. A token that was
    /// verified a moment ago is only asked whether it has expired, was revoked, or its issuer is gone.
    pub(crate) async fn verify(&self, token: &str) -> Result<Arc<Principal>, TokenError> {
        self.verify_at(token, unix_now()).await
    }

    /// Tells, without waiting, whether a token was verified a moment ago and is good.
    pub(crate) fn remembers(&self, token: &str) -> bool {
        let known = self.verified.get(&sha256(token.as_bytes()));
        known.is_some_and(|principal| {
            let is_trusted = !principal.origin.is_retired() && principal.expires_at > unix_now();
            is_trusted && self.revocations.check(&principal).is_ok()
        })
    }

    pub(super) async fn verify_at(&self, token: &str, now: u64) -> Result<Arc<Principal>, TokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::Invalid);
        }
        let digest = sha256(token.as_bytes());
        let known = self.verified.get(&digest).filter(|principal| !principal.origin.is_retired());
        let principal = match known {
            Some(principal) => principal,
            None => {
                let principal = Arc::new(self.check(token, &digest, now).await?);
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
    async fn check(&self, token: &str, digest: &Digest, now: u64) -> Result<Principal, TokenError> {
        let jwt = Jwt::parse(token)?;
        let name = jwt.issuer().ok_or(TokenError::Invalid)?;
        if name == super::local_issuer::ISSUER {
            return self.local.check(&jwt, now);
        }
        let issuer = self.issuers.load().iter().find(|issuer| issuer.settings.issuer == name).cloned();
        issuer.ok_or(TokenError::Invalid)?.verify(&jwt, digest, now).await
    }

    /// Takes the issuers of new settings. Those whose settings are the same stay as they are, with their keys; what the
    /// others' tokens opened ends. May wait for the disk, where an issuer's keys are a file.
    pub(crate) fn reload(&self, settings: &Settings) {
        let before = self.issuers.load_full();
        let issuers: Vec<Arc<Issuer>> = settings
            .issuers
            .iter()
            .map(|wanted| match before.iter().find(|issuer| issuer.settings == *wanted) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Issuer::new(wanted, &self.means)),
            })
            .collect();
        let gone = |issuer: &&Arc<Issuer>| !issuers.iter().any(|stays| Arc::ptr_eq(stays, issuer));
        let gone: Vec<_> = before.iter().filter(gone).cloned().collect();
        self.issuers.store(Arc::new(issuers));
        for issuer in &gone {
            info!(issuer = issuer.settings.name, "tokens of this issuer are not taken any more");
            issuer.retire();
        }
        if !gone.is_empty() {
            self.revocations.changed();
        }
    }

    /// Revokes a token: no request is taken with it from now on, streams and sessions that it opened end. `until`: when
    /// it ends anyway, in Unix seconds, where that is known.
    pub(crate) async fn revoke(
        &self,
        subject: &str,
        token_id: &str,
        until: Option<u64>,
    ) -> Result<(), RevokeError> {
        self.revocations.revoke(subject, token_id, until).await
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
