//! The keys of an issuer that publishes them: cached, refreshed, kept through its outages.

mod schedule;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};
use url::Url;

use super::TokenError;
use super::fetch::{FetchError, Fetcher, is_plain};
use super::jwt::Jwt;
use super::key::Key;
use crate::metrics::Metrics;
use schedule::{NoRoom, Schedule, Step};
use tunnel_runtime::AddressKey;

/// Most keys of one issuer.
const KEYS_MAX: usize = 64;

/// Where the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The issuer's discovery document says (OpenID Connect Discovery 1.0 §4).
    Discovery {
        /// What the document must say its issuer is.
        issuer: String,
    },
    Address(Url),
}

/// What keys are fetched with.
#[derive(Clone, Debug)]
pub(super) struct Means {
    pub(super) fetcher: Arc<Fetcher>,
    /// Fetches under way; at most one for each issuer.
    pub(super) tasks: TaskTracker,
    /// Ends them.
    pub(super) over: CancellationToken,
    /// Least time from the end of a fetch from one issuer to the beginning of the next.
    pub(super) cool_down: Duration,
    pub(super) metrics: Arc<Metrics>,
}

/// What one issuer publishes.
pub(super) struct RemoteKeys {
    /// The issuer's name in the settings, for the log.
    name: String,
    place: Place,
    means: Means,
    keys: ArcSwapOption<KeySet>,
    /// The address that the discovery document named, and until when it is believed without asking.
    discovered: Mutex<Option<(Url, Instant)>>,
    schedule: Mutex<Schedule>,
    /// Told with the end of each fetch.
    fetched: watch::Sender<()>,
}

#[derive(Debug)]
struct KeySet {
    keys: Vec<Key>,
    stale_at: Instant,
}

impl KeySet {
    /// Checks a token's signature; `None` where no key here is the one that the token names.
    fn verify(&self, jwt: &Jwt<'_>) -> Option<bool> {
        let fitting = || self.keys.iter().filter(|key| key.fits(jwt.algorithm));
        let verifies = |key: &Key| key.verifies(jwt.algorithm, jwt.signed, &jwt.signature);
        match jwt.key_id.as_deref() {
            // Without a name there is no saying which key it should be, unless there is but one.
            None => {
                let mut keys = fitting();
                let only = keys.next().filter(|_| keys.next().is_none());
                Some(only.is_some_and(verifies))
            }
            Some(id) => {
                let mut named = fitting().filter(|key| key.id.as_deref() == Some(id)).peekable();
                named.peek()?;
                Some(named.any(verifies))
            }
        }
    }
}

impl RemoteKeys {
    pub(super) fn new(name: &str, place: Place, means: &Means) -> Self {
        Self {
            name: name.to_owned(),
            place,
            means: means.clone(),
            keys: ArcSwapOption::empty(),
            discovered: Mutex::default(),
            schedule: Mutex::new(Schedule::new(means.cool_down)),
            fetched: watch::Sender::default(),
        }
    }

    /// Checks the signature of a token.
    ///
    /// Waits only for a key that is not known. A key that a fetch after the token's arrival did not bring is not the
    /// issuer's; before that nothing can be said, so that a token signed with the issuer's newest key is never taken for
    /// a forged one.
    pub(super) async fn verify(self: &Arc<Self>, jwt: &Jwt<'_>, from: AddressKey) -> Result<(), TokenError> {
        if let Some(keys) = &*self.keys.load() {
            if Instant::now() >= keys.stale_at {
                self.refresh();
            }
            if let Some(good) = keys.verify(jwt) {
                return if good { Ok(()) } else { Err(TokenError::Invalid) };
            }
        }
        self.wait_for_key(jwt, from).await
    }

    /// Fetches the keys in the background, where they are not known or old, and it has not just been tried.
    pub(super) fn refresh(self: &Arc<Self>) {
        if self.is_fresh() {
            return;
        }
        let now = Instant::now();
        let begun = self.schedule().begin_in_background(now);
        if begun {
            self.begin(now);
        }
    }

    async fn wait_for_key(self: &Arc<Self>, jwt: &Jwt<'_>, from: AddressKey) -> Result<(), TokenError> {
        let arrived = Instant::now();
        let mut fetched = self.fetched.subscribe();
        let mut waiting = None;
        loop {
            if let Some(good) = self.keys.load().as_ref().and_then(|keys| keys.verify(jwt)) {
                return if good { Ok(()) } else { Err(TokenError::Invalid) };
            }
            let have_keys = self.keys.load().is_some();
            let now = Instant::now();
            let step = self.schedule().next(jwt.key_id.as_deref(), have_keys, arrived, now);
            match step {
                // The fetch that says so may have ended just after the keys were looked through.
                Step::Invalid => {
                    let brought = self.keys.load().as_ref().and_then(|keys| keys.verify(jwt)) == Some(true);
                    return if brought { Ok(()) } else { Err(TokenError::Invalid) };
                }
                Step::Away => return Err(TokenError::IssuerAway),
                Step::Fetch => self.begin(now),
                Step::WaitForFetch | Step::WaitUntil(_) => {}
            }
            if waiting.is_none() {
                waiting = Some(Waiting::join(self, from, jwt.key_id.as_deref(), have_keys)?);
            }
            let until = match step {
                Step::WaitUntil(until) => until,
                // The fetch has a limit of its own; this one is for a task that died.
                _ => now + Duration::from_secs(30),
            };
            tokio::select! {
                // The sender is a field of this.
                _changed = fetched.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Starts a fetch that the schedule has been told of. It goes on if whoever caused it hangs up.
    fn begin(self: &Arc<Self>, started: Instant) {
        let this = Arc::clone(self);
        self.means.tasks.spawn(async move {
            let attempt = Attempt { keys: &this, started, outcome: false };
            tokio::select! {
                fetched = this.fetch() => attempt.done(fetched),
                () = this.means.over.cancelled() => {}
            }
        });
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let url = match &self.place {
            Place::Address(url) => url.clone(),
            Place::Discovery { issuer } => self.discover(issuer).await?,
        };
        let document = self.means.fetcher.get(&url).await;
        if document.is_err() {
            // It may have moved.
            *self.discovered() = None;
        }
        let document = document?;
        let listed = document.members.get("keys").and_then(Value::as_array);
        let listed = listed.ok_or_else(|| FetchError::Malformed { url: url.clone() })?;
        let keys: Vec<Key> =
            listed.iter().filter_map(Value::as_object).filter_map(Key::of_jwk).take(KEYS_MAX).collect();
        if keys.is_empty() {
            return Err(FetchError::NoKeys { url });
        }
        Ok(KeySet { keys, stale_at: Instant::now() + document.fresh_for })
    }

    pub(super) async fn discover(&self, issuer: &str) -> Result<Url, FetchError> {
        let known = self.discovered().clone();
        if let Some((url, until)) = known
            && Instant::now() < until
        {
            return Ok(url);
        }
        let at =
            discovery_address(issuer).ok_or_else(|| FetchError::NoAddress { issuer: issuer.to_owned() })?;
        let document = self.means.fetcher.get(&at).await?;
        let text = |name: &str| document.members.get(name).and_then(Value::as_str);
        // Whoever answers for another issuer could hand out its own keys for this one.
        if text("issuer") != Some(issuer) {
            let found = tunnel_transport::printable(text("issuer").unwrap_or("none"));
            return Err(FetchError::OtherIssuer { url: at, found, wanted: issuer.to_owned() });
        }
        let url: Url = text("jwks_uri")
            .and_then(|uri| uri.parse().ok())
            .ok_or_else(|| FetchError::NoKeysAddress { url: at.clone() })?;
        if !may_name(&at, &url) {
            return Err(FetchError::Insecure { url });
        }
        *self.discovered() = Some((url.clone(), Instant::now() + document.fresh_for));
        Ok(url)
    }

    fn is_fresh(&self) -> bool {
        self.keys.load().as_ref().is_some_and(|keys| Instant::now() < keys.stale_at)
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discovered(&self) -> MutexGuard<'_, Option<(Url, Instant)>> {
        self.discovered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether a discovery document may name this address of keys. Without TLS only this machine is asked, and an issuer
/// elsewhere has no business there.
pub(super) fn may_name(document: &Url, keys: &Url) -> bool {
    !is_plain(keys) || is_plain(document)
}

/// `<issuer>/.well-known/openid-configuration`, whether or not the issuer ends with a slash.
fn discovery_address(issuer: &str) -> Option<Url> {
    let text = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    text.parse().ok()
}

/// A fetch under way. Whatever becomes of its task, those who wait are told.
struct Attempt<'a> {
    keys: &'a RemoteKeys,
    started: Instant,
    outcome: bool,
}

impl Attempt<'_> {
    fn done(mut self, fetched: Result<KeySet, FetchError>) {
        let issuer = &self.keys.name;
        match fetched {
            Ok(keys) => {
                self.outcome = true;
                debug!(issuer, n_keys = keys.keys.len(), "keys fetched");
                if !self.keys.schedule().last_was_good() {
                    info!(issuer, n_keys = keys.keys.len(), "the issuer's keys are known");
                }
                self.keys.keys.store(Some(Arc::new(keys)));
            }
            Err(error) => {
                let known = self.keys.keys.load().is_some();
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(issuer, %error, cause, known, "the issuer's keys could not be fetched");
            }
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.keys.schedule().ended(self.started, self.outcome, Instant::now());
        self.keys.means.metrics.keys_fetched(self.outcome);
        self.keys.fetched.send_replace(());
    }
}

/// One who waits for a key.
struct Waiting<'a> {
    keys: &'a RemoteKeys,
    from: AddressKey,
    key_id: Option<&'a str>,
}

impl<'a> Waiting<'a> {
    fn join(
        keys: &'a RemoteKeys,
        from: AddressKey,
        key_id: Option<&'a str>,
        have_keys: bool,
    ) -> Result<Self, TokenError> {
        // Not made before it is known that there is room: dropped, it would give back what it never had.
        match keys.schedule().join(from, key_id, have_keys) {
            Ok(()) => Ok(Self { keys, from, key_id }),
            Err(NoRoom::Keys) => Err(TokenError::Crowded),
            Err(NoRoom::Places) => Err(TokenError::IssuerAway),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.keys.schedule().leave(self.from, self.key_id);
    }
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKeys")
            .field("name", &self.name)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
