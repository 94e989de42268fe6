//! The keys that requests are held against: looked up for each request that shows one, replaced when one changes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel_api::{Key, KeyReach};
use tunnel_broker::{CallerLabel, CallerScope};

use super::admitted::Admitted;
use super::limits::{Limiter, OverLimit};
use super::token::{SecretHash, Shown};
use crate::config::broker_paths;
use crate::store::StoredKey;

/// All keys that are good here, or are limited here. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyRing {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    by_id: ArcSwap<HashMap<Box<str>, Arc<KeyInUse>>>,
}

/// One key, with what it has used of its limits.
pub(crate) struct KeyInUse {
    label: CallerLabel,
    reach: KeyReach,
    hash: Option<SecretHash>,
    scope: Arc<CallerScope>,
    /// Of a local one; when the time of a remote one is over the relay says, by its clock.
    expires_at: Option<Timestamp>,
    revoked: AtomicBool,
    /// Cancelled when the key is revoked, forgotten or over: what runs with it is cut.
    ended: Mutex<CancellationToken>,
    /// Held for a few instructions.
    limiter: Mutex<Limiter>,
    /// Milliseconds since 1970; 0: never.
    last_used: AtomicI64,
}

/// Why a key that was shown lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadKey {
    /// No key of this machine: mistyped, of another machine, or forgotten after its end.
    Unknown,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
}

impl KeyRing {
    /// Takes over what there is now. A key that stays keeps what it has used; one that goes, or is revoked, ends its
    /// requests.
    pub(crate) fn replace(&self, keys: &[StoredKey], now: Instant) {
        let before = self.shared.by_id.load_full();
        let after: HashMap<Box<str>, Arc<KeyInUse>> = keys
            .iter()
            .filter(|stored| stored.hash.is_some() || stored.key.limits.is_some())
            .map(|stored| {
                let id: Box<str> = stored.key.id.as_str().into();
                let kept = before.get(&id).filter(|kept| kept.reach == stored.key.reach);
                (id, kept.map_or_else(|| Arc::new(KeyInUse::new(stored, now)), Arc::clone))
            })
            .collect();
        for stored in keys.iter().filter(|stored| stored.key.revoked_at.is_some()) {
            if let Some(key) = after.get(stored.key.id.as_str()) {
                key.revoke();
            }
        }
        for (_, gone) in before.iter().filter(|(id, _)| !after.contains_key(*id)) {
            gone.revoke();
        }
        self.shared.by_id.store(Arc::new(after));
    }

    /// Ends what runs with keys whose time is over; returns the ids of those that it has not ended before.
    pub(super) fn end_expired(&self, now: Timestamp) -> Vec<CallerLabel> {
        let keys = self.shared.by_id.load();
        let over = keys.values().filter(|key| key.is_over(now) && !key.ended().is_cancelled());
        over.inspect(|key| key.ended().cancel()).map(|key| key.label()).collect()
    }

    /// Returns when the next key that holds is over.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        let keys = self.shared.by_id.load();
        keys.values().filter(|key| !key.ended().is_cancelled()).filter_map(|key| key.expires_at).min()
    }

    /// Returns the local key that a caller shows.
    ///
    /// What is wrong with it is told only to one who knows its secret.
    pub(crate) fn find(&self, shown: &str, now: Timestamp) -> Result<Arc<KeyInUse>, BadKey> {
        let Shown { id, secret } = Shown::parse(shown).ok_or(BadKey::Unknown)?;
        let keys = self.shared.by_id.load();
        let key = keys.get(id).filter(|key| key.hash.as_ref().is_some_and(|hash| hash.matches(secret)));
        let key = key.ok_or(BadKey::Unknown)?;
        if key.revoked.load(Ordering::Relaxed) {
            return Err(BadKey::Revoked);
        }
        if key.is_over(now) {
            return Err(BadKey::Expired);
        }
        key.begin_anew();
        Ok(Arc::clone(key))
    }

    /// Returns the key made from this machine that the relay admitted a caller with, if it has limits.
    pub(crate) fn remote(&self, id: &str) -> Option<Arc<KeyInUse>> {
        self.shared.by_id.load().get(id).filter(|key| key.reach != KeyReach::Local).cloned()
    }

    /// Fills in when keys were used, to the minute; tells whether that is news.
    pub(super) fn note_use(&self, key: &mut Key) -> bool {
        let used = self.shared.by_id.load().get(key.id.as_str()).and_then(|used| used.last_used());
        let news = used.is_some() && used > key.last_used_at;
        if news {
            key.last_used_at = used;
        }
        news
    }
}

impl KeyInUse {
    fn new(stored: &StoredKey, now: Instant) -> Self {
        let StoredKey { key, hash } = stored;
        Self {
            label: CallerLabel(key.id.as_str().into()),
            reach: key.reach,
            hash: hash.clone(),
            scope: Arc::new(CallerScope {
                // Checked when the key was made; what cannot be read any more opens nothing.
                paths: broker_paths(&key.paths).unwrap_or(tunnel_broker::RemotePaths::Rules(Vec::new())),
                models: key.models.clone(),
            }),
            expires_at: key.expires_at.filter(|_| key.reach == KeyReach::Local),
            revoked: AtomicBool::new(false),
            ended: Mutex::default(),
            limiter: Mutex::new(Limiter::new(&key.limits, now)),
            last_used: AtomicI64::new(key.last_used_at.map_or(0, Timestamp::as_millisecond)),
        }
    }

    /// Takes a request in; what it returns is held for as long as the request runs.
    pub(crate) fn admit(self: Arc<Self>, now: Instant, today: Timestamp) -> Result<Admitted, OverLimit> {
        self.limiter().admit(now)?;
        let minute = today.as_millisecond() / MINUTE_MS * MINUTE_MS;
        self.last_used.fetch_max(minute, Ordering::Relaxed);
        Ok(Admitted::new(self))
    }

    pub(super) fn label(&self) -> CallerLabel {
        self.label.clone()
    }

    /// What its callers may reach; none for a remote key, of which the relay and `remotePaths` say that.
    pub(super) fn scope(&self) -> Option<Arc<CallerScope>> {
        (self.reach == KeyReach::Local).then(|| Arc::clone(&self.scope))
    }

    pub(super) fn ended(&self) -> CancellationToken {
        self.lock_ended().clone()
    }

    /// Lets a key that was over by a clock that is set back now be used again: what ran with it is gone.
    fn begin_anew(&self) {
        let mut ended = self.lock_ended();
        if ended.is_cancelled() && !self.revoked.load(Ordering::Relaxed) {
            *ended = CancellationToken::new();
        }
    }

    fn lock_ended(&self) -> MutexGuard<'_, CancellationToken> {
        // Replaced as a whole: sound whatever panicked meanwhile.
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it lets nobody in, once it has [`ended`](Self::ended).
    pub(super) fn why_ended(&self) -> BadKey {
        if self.revoked.load(Ordering::Relaxed) { BadKey::Revoked } else { BadKey::Expired }
    }

    fn revoke(&self) {
        // In this order: a key that is revoked is not begun anew.
        self.revoked.store(true, Ordering::Relaxed);
        self.lock_ended().cancel();
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    pub(super) fn limiter(&self) -> MutexGuard<'_, Limiter> {
        // Numbers: each change is complete before anything could panic.
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_used(&self) -> Option<Timestamp> {
        let ms = Some(self.last_used.load(Ordering::Relaxed)).filter(|ms| *ms > 0)?;
        Timestamp::from_millisecond(ms).ok()
    }
}

const MINUTE_MS: i64 = 60_000;

impl fmt::Debug for KeyInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyInUse")
            .field("id", &self.label.0)
            .field("reach", &self.reach)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use jiff::ToSpan;
    use secrecy::{ExposeSecret, SecretString};
    use tunnel_api::KeyLimits;

    use super::*;
    use crate::keys::token::fresh;

    fn today() -> Timestamp {
        Timestamp::from_second(1_800_000_030).unwrap()
    }

    fn local(change: impl FnOnce(&mut Key)) -> (StoredKey, SecretString) {
        let fresh = fresh().unwrap();
        let mut key = Key { id: fresh.id, reach: KeyReach::Local, ..Key::default() };
        change(&mut key);
        (StoredKey { key, hash: Some(fresh.hash) }, fresh.token)
    }

    fn find(ring: &KeyRing, token: &SecretString) -> Result<Arc<KeyInUse>, BadKey> {
        ring.find(token.expose_secret(), today())
    }

    #[tokio::test]
    async fn key_is_found_by_its_secret_until_it_ends() {
        let ring = KeyRing::default();
        let (good, token) = local(|_| {});
        let (over, over_token) = local(|key| key.expires_at = Some(today()));
        ring.replace(&[good.clone(), over], Instant::now());
        assert!(find(&ring, &token).is_ok());
        assert_eq!(find(&ring, &over_token).unwrap_err(), BadKey::Expired);
        let other_secret = format!("{}_{}", good.key.id, "0".repeat(64));
        assert_eq!(ring.find(&other_secret, today()).unwrap_err(), BadKey::Unknown);
        let revoked = StoredKey { key: Key { revoked_at: Some(today()), ..good.key }, ..good };
        ring.replace(&[revoked], Instant::now());
        assert_eq!(find(&ring, &token).unwrap_err(), BadKey::Revoked);
        assert_eq!(find(&ring, &over_token).unwrap_err(), BadKey::Unknown, "it was forgotten");
    }

    #[tokio::test]
    async fn key_keeps_what_it_has_used_when_others_change() {
        let ring = KeyRing::default();
        let limits = KeyLimits { requests_per_minute: NonZeroU32::new(1), ..KeyLimits::default() };
        let (key, token) = local(|key| key.limits = limits);
        ring.replace(std::slice::from_ref(&key), Instant::now());
        let now = Instant::now();
        drop(find(&ring, &token).unwrap().admit(now, today()).unwrap());
        ring.replace(&[key, local(|_| {}).0], now + Duration::from_secs(1));
        assert!(find(&ring, &token).unwrap().admit(now, today()).is_err());
    }

    #[tokio::test]
    async fn key_whose_time_is_over_ends_what_runs_with_it_once() {
        let ring = KeyRing::default();
        let end = today() + 60.seconds();
        let (short, token) = local(|key| key.expires_at = Some(end));
        ring.replace(&[short, local(|_| {}).0], Instant::now());
        let running = find(&ring, &token).unwrap().admit(Instant::now(), today()).unwrap();
        let cut = running.ended();
        assert_eq!((ring.end_expired(today()).len(), ring.next_end()), (0, Some(end)));
        assert_eq!((ring.end_expired(end).len(), ring.end_expired(end).len()), (1, 0));
        cut.await;
        assert_eq!((running.why_ended(), ring.next_end()), (BadKey::Expired, None));
        // By a clock that was wrong for a moment.
        assert!(!find(&ring, &token).unwrap().ended().is_cancelled());
        assert_eq!((ring.next_end(), ring.end_expired(end).len()), (Some(end), 1));
    }

    #[tokio::test]
    async fn use_is_noted_to_the_minute_and_once() {
        let ring = KeyRing::default();
        let (stored, token) = local(|_| {});
        let mut key = stored.key.clone();
        ring.replace(&[stored], Instant::now());
        assert!(!ring.note_use(&mut key));
        for seconds in 0..20 {
            let at = today() + seconds.seconds();
            drop(find(&ring, &token).unwrap().admit(Instant::now(), at).unwrap());
        }
        assert!(ring.note_use(&mut key) && !ring.note_use(&mut key));
        assert_eq!(key.last_used_at, Timestamp::from_second(1_800_000_000).ok());
    }

    #[tokio::test]
    async fn remote_key_is_held_to_its_limits_and_opens_nothing_here() {
        let ring = KeyRing::default();
        let limits = KeyLimits { concurrent: NonZeroU32::new(1), ..KeyLimits::default() };
        let remote = |id: &str, limits| {
            let key = Key { id: id.to_owned(), relay: "relay.example".to_owned(), limits, ..Key::default() };
            StoredKey { key, hash: None }
        };
        ring.replace(&[remote("a", limits), remote("b", KeyLimits::default())], Instant::now());
        let held = ring.remote("a").unwrap().admit(Instant::now(), today()).unwrap();
        assert!(ring.remote("a").unwrap().admit(Instant::now(), today()).is_err());
        drop(held);
        assert!(ring.remote("a").unwrap().admit(Instant::now(), today()).is_ok());
        assert!(ring.remote("b").is_none(), "nothing to hold it to");
        assert!(ring.find("a", today()).is_err());
    }
}
