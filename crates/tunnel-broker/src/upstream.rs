use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::admission::LineId;
use crate::affinity::ServerId;
use crate::breaker::Position;
use crate::config::BackendConfig;
use crate::conn::Conn;
use crate::connect::{ConnectError, connect};
use crate::credential::{Credential, NoSecret};
use crate::dialect::Listing;
use crate::health::{Fault, Phase};
use crate::load::Load;
use crate::origin::Origin;
use crate::outcomes::Outcomes;
use crate::pool::Pool;
use crate::profile::{Profile, Speaks};
use crate::queue::Queue;
use crate::route::Standing;
use crate::slots::Slots;
use crate::status::{BackendState, BreakerState, Health};
use crate::tls::Roots;

/// A model server: its connections, its load, and what its prober last saw.
///
/// Outlives a change of the configuration that leaves id, profile, URL, credential and roots as they are.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// No other has it, now or later.
    pub(crate) id: ServerId,
    pub(crate) profile: Arc<Profile>,
    credential: Option<Credential>,
    roots: Roots,
    url: Url,
    pub(crate) origin: Origin,
    pub(crate) pool: Pool,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) slots: Slots,
    /// Where those are that wait for a slot; one for all backends.
    pub(crate) queue: Arc<Queue>,
    /// How quickly it begins its answers.
    pub(crate) load: Load,
    pub(crate) outcomes: Outcomes,
    /// Replaced after each probe; read when the table is built, not by requests.
    report: RwLock<Arc<Report>>,
    /// Counts the probes that were ordered.
    orders: watch::Sender<u64>,
    /// Counts the orders that have been carried out.
    done: watch::Sender<u64>,
    /// The order of the probe that a request asked for which was told that the only model is being loaded; 0 when a
    /// probe has looked since.
    loading: AtomicU64,
    /// Ends the prober.
    pub(crate) stop: CancellationToken,
}

/// What a prober last saw.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) state: BackendState,
    /// The same in finer terms.
    pub(crate) phase: Phase,
    /// Whether the last probe failed, whatever the state.
    pub(crate) failing: bool,
    /// Whether it failed because the server accepts connections, or used to, and says nothing at all.
    pub(crate) hangs: bool,
    /// When a probe last went well.
    pub(crate) heard: Option<Instant>,
    pub(crate) version: Option<String>,
    pub(crate) latency: Option<Duration>,
    pub(crate) last_check: Option<SystemTime>,
    pub(crate) error: Option<String>,
    /// The APIs that it speaks: those of its profile, or of these the ones that it turned out to speak.
    pub(crate) speaks: Speaks,
    /// What it listed last; none when no probe has ever succeeded.
    pub(crate) listing: Option<Arc<Listing>>,
}

/// Longest time that the breaker stays open until the first probe has told the time between probes.
const LONGEST_OPEN: Duration = Duration::from_secs(30);
/// A probe that went well this short a time ago answers the question how the server is.
const FRESH: Duration = Duration::from_secs(1);

impl Upstream {
    pub(crate) fn new(
        config: &BackendConfig,
        ca_file: Option<PathBuf>,
        queue: Arc<Queue>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            id: ServerId::new(),
            profile: Arc::clone(&config.profile),
            credential: config.credential.clone(),
            roots: Roots::new(ca_file),
            url: config.url.clone(),
            origin: Origin::new(&config.profile, &config.url),
            pool: Pool::default(),
            in_flight: AtomicUsize::new(0),
            slots: Slots::default(),
            queue,
            load: Load::default(),
            outcomes: Outcomes::new(LONGEST_OPEN),
            report: RwLock::new(Arc::new(Report {
                state: BackendState::Connecting,
                phase: Phase::Unknown,
                failing: false,
                hangs: false,
                heard: None,
                version: None,
                latency: None,
                last_check: None,
                error: None,
                speaks: config.profile.speaks,
                listing: None,
            })),
            orders: watch::Sender::new(0),
            done: watch::Sender::new(0),
            loading: AtomicU64::new(0),
            stop,
        }
    }

    /// Tells whether this is the same server as the configured one.
    pub(crate) fn is(&self, config: &BackendConfig, ca_file: Option<&Path>) -> bool {
        self.profile == config.profile
            && self.url == config.url
            && self.credential == config.credential
            // Nobody else is asked for a certificate.
            && (self.url.scheme() != "https" || self.roots.ca_file() == ca_file)
    }

    /// Returns what is sent to it as `Authorization`; none when nothing is.
    ///
    /// # Errors
    ///
    /// Why there is nothing to send, or why it must not be sent. Then the backend is not asked at all.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, NoSecret> {
        let Some(credential) = &self.credential else { return Ok(None) };
        if !self.origin.keeps_secrets() {
            return Err(NoSecret::Readable(credential.name().to_owned()));
        }
        credential.header().map(Some)
    }

    pub(crate) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Where those stand that wait for one of its slots.
    pub(crate) fn line(&self) -> LineId {
        u64::from(self.id.0.get())
    }

    pub(crate) fn report(&self) -> Arc<Report> {
        Arc::clone(&self.report.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_report(&self, report: Report) {
        *self.report.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self, limit: Duration) -> Result<Conn, ConnectError> {
        let io = connect(&self.origin, &self.roots, limit).await?;
        Conn::handshake(io).await.map_err(|why| ConnectError::Io {
            at: self.origin.shown.clone(),
            why: std::io::Error::other(why),
        })
    }

    /// Orders a probe; orders that come before it starts are one.
    pub(crate) fn order_probe(&self) -> u64 {
        let mut order = 0;
        self.orders.send_modify(|n| {
            *n += 1;
            order = *n;
        });
        order
    }

    pub(crate) fn orders(&self) -> watch::Receiver<u64> {
        self.orders.subscribe()
    }

    pub(crate) fn carried_out(&self, order: u64) {
        self.done.send_replace(order);
    }

    /// Waits until the order has been carried out, or never will be: the backend has been removed.
    pub(crate) async fn probed(&self, order: u64) {
        let mut done = self.done.subscribe();
        // Cannot fail: the sender is a field of `self`.
        drop(self.stop.run_until_cancelled(done.wait_for(|n| *n >= order)).await);
    }

    /// Has the backend probed unless that was done just now.
    pub(crate) fn order_check(&self) {
        if !self.was_heard_lately() {
            self.order_probe();
        }
    }

    /// Finds out, by a probe if need be, whether the server as a whole says nothing.
    ///
    /// A server that answers its probes works at a long prompt or loads a model, however long it takes.
    pub(crate) async fn hangs(&self) -> bool {
        if self.was_heard_lately() {
            return false;
        }
        let mut done = self.done.subscribe();
        self.order_probe();
        // The one that is under way will do. Cannot fail: the sender is a field of `self`. Of a server that has just
        // been removed from the configuration nothing more will be known.
        self.stop.run_until_cancelled(done.changed()).await;
        self.report().hangs
    }

    /// Tells whether a request may have it probed: not so soon again where a question may cost.
    pub(crate) fn may_be_asked(&self) -> bool {
        let age = self.report().last_check.map(|at| at.elapsed().unwrap_or_default());
        age.is_none_or(|age| age >= self.profile.least_interval)
    }

    fn was_heard_lately(&self) -> bool {
        self.report().heard.is_some_and(|heard| heard.elapsed() < FRESH)
    }

    /// Notes that a request was told that the only model is being loaded, and has a probe look at it.
    pub(crate) fn note_loading(&self) {
        // Within the order: the probe must not have looked before this is noted.
        self.orders.send_modify(|n| {
            *n += 1;
            self.loading.store(*n, Ordering::Relaxed);
        });
    }

    /// Notes that a probe has looked that was ordered as `order` or later.
    pub(crate) fn looked_at(&self, order: u64) {
        let noted = self.loading.load(Ordering::Relaxed);
        if noted <= order {
            // Failing that, a request has noted it anew.
            self.loading.compare_exchange(noted, 0, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }

    fn is_loading(&self) -> bool {
        self.loading.load(Ordering::Relaxed) != 0
    }

    /// Says how good a choice it is for a request: what `report` says, and what has happened to requests since.
    pub(crate) fn standing(&self, report: &Report, now: Instant) -> Standing {
        match report.phase {
            Phase::Unknown => Standing::Unknown,
            Phase::Warming => Standing::Warming,
            Phase::Unauthorised => Standing::Unauthorised,
            Phase::Down(_) => Standing::Down,
            Phase::Up if self.is_loading() => Standing::Warming,
            Phase::Up => match self.outcomes.position(now) {
                Position::Open | Position::Trying => Standing::Ejected,
                Position::Closed | Position::Returning | Position::HalfOpen if report.failing => {
                    Standing::Doubtful
                }
                // Half-open it is as good as any: the next request is its trial.
                Position::Closed | Position::Returning | Position::HalfOpen => Standing::Healthy,
            },
        }
    }

    /// Returns how much of its part of the load it should get, in percent, 1 to 100: a backend that was ejected
    /// comes back by and by.
    pub(crate) fn share(&self, now: Instant) -> u32 {
        self.outcomes.share(now)
    }

    /// Says how it is, for people. `full`: it runs as many requests as it may.
    pub(crate) fn health(&self, report: &Report, full: bool, now: Instant) -> Health {
        match report.phase {
            Phase::Unknown => Health::Unknown,
            Phase::Warming => Health::Warming,
            Phase::Unauthorised => Health::Unauthorised,
            Phase::Down(Fault::Unreachable | Fault::Misbehaves | Fault::Loading | Fault::Unauthorised) => {
                Health::Down
            }
            Phase::Up if self.is_loading() => Health::Warming,
            Phase::Up => {
                let suspect = self.outcomes.position(now) != Position::Closed || self.outcomes.is_bad();
                match () {
                    () if report.failing || suspect => Health::Degraded,
                    () if full => Health::Busy,
                    () => Health::Up,
                }
            }
        }
    }

    /// Says whether requests are let through.
    pub(crate) fn breaker(&self, now: Instant) -> BreakerState {
        match self.outcomes.position(now) {
            Position::Closed | Position::Returning => BreakerState::Closed,
            Position::HalfOpen | Position::Trying => BreakerState::HalfOpen,
            Position::Open => BreakerState::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendKind;

    fn upstream(url: &str, ca_file: Option<&Path>) -> (BackendConfig, Upstream) {
        let config = BackendConfig::new("a", BackendKind::OpenAi, url.parse().unwrap());
        let ca_file = ca_file.map(Path::to_owned);
        let upstream = Upstream::new(&config, ca_file, Arc::default(), CancellationToken::new());
        (config, upstream)
    }

    #[test]
    fn other_roots_concern_those_that_are_asked_for_a_certificate() {
        let file = Path::new("roots.pem");
        for (url, stays) in [("http://127.0.0.1:1", true), ("https://127.0.0.1:1", false)] {
            let (config, server) = upstream(url, None);
            assert!(server.is(&config, None));
            assert_eq!(server.is(&config, Some(file)), stays, "{url}");
            let (config, server) = upstream(url, Some(file));
            assert_eq!(server.is(&config, None), stays, "{url}");
        }
    }

    #[tokio::test]
    async fn of_a_removed_server_no_probe_is_awaited() {
        let (_, server) = upstream("http://127.0.0.1:1", None);
        server.stop.cancel();
        let asked = tokio::time::timeout(Duration::from_secs(5), server.hangs()).await;
        assert_eq!(asked, Ok(false), "it did answer when it was last asked");
        let probed = server.probed(server.order_probe());
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), probed).await, Ok(()));
    }
}
