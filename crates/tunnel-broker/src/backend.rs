use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderValue;
use tokio::time::Instant;

use crate::broker::Ingress;
use crate::config::BackendConfig;
use crate::dialect::Listed;
use crate::health::Phase;
use crate::path::Dialect;
use crate::profile::{Names, Profile, Side};
use crate::route::Candidate;
use crate::status::{BackendState, BackendStatus, ModelInfo};
use crate::upstream::{Report, Upstream};

/// One backend as a request sees it: the configuration and the last report, together and unchanging.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) config: BackendConfig,
    /// The id, for records and metrics.
    pub(crate) label: Arc<str>,
    /// The value of `X-Tunnel-Connection`; none for an id that no header can hold.
    pub(crate) id_header: Option<HeaderValue>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) report: Arc<Report>,
}

impl Backend {
    pub(crate) fn new(config: BackendConfig, upstream: Arc<Upstream>) -> Self {
        let report = upstream.report();
        let label = Arc::from(config.id.as_str());
        Self { id_header: HeaderValue::from_str(&config.id).ok(), label, config, upstream, report }
    }

    pub(crate) fn speaks(&self, dialect: Dialect) -> bool {
        self.report.speaks.understands(dialect)
    }

    pub(crate) fn profile(&self) -> &Profile {
        &self.upstream.profile
    }

    /// Tells whether a request that came in there may go out here.
    ///
    /// Nothing goes to the cloud from the tunnel or the network, whatever the caller's key says: who reaches this device
    /// from elsewhere is not meant to spend its user's money. And an account at the tunnel's own relay would send it back
    /// to this very device, round and round.
    pub(crate) fn takes_from(&self, ingress: Ingress) -> bool {
        match ingress {
            Ingress::Local => true,
            Ingress::Tunnel | Ingress::Lan => self.profile().side == Side::Local,
        }
    }

    /// What the names of its models mean: one that has no list of Ollama's takes them as they are.
    pub(crate) fn names(&self) -> Names {
        if self.report.speaks.ollama { self.profile().names } else { Names::EXACT }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.report.state == BackendState::Connected
    }

    /// Tells whether its first probe is still under way.
    pub(crate) fn is_new(&self) -> bool {
        self.report.phase == Phase::Unknown
    }

    pub(crate) fn candidate(&self, index: usize, dialect: Dialect, loaded: bool) -> Candidate {
        let now = Instant::now();
        let in_flight = self.upstream.in_flight.load(Ordering::Relaxed);
        Candidate {
            backend: index,
            server: self.upstream.id,
            standing: self.upstream.standing(&self.report, now),
            speaks: self.speaks(dialect),
            side: self.config.profile.side,
            priority: self.config.priority,
            weight: self.config.weight.get(),
            share: self.upstream.share(now),
            in_flight,
            full: self.upstream.slots.are_taken(in_flight),
            loaded,
            latency: self.upstream.load.latency(),
        }
    }

    fn is_full(&self, in_flight: usize) -> bool {
        self.config.max_concurrent.is_some_and(|max| in_flight >= max.get() as usize)
    }

    /// Returns the models to offer: what is configured, else what is listed.
    pub(crate) fn models(&self) -> Vec<ModelInfo> {
        self.described_models().into_iter().map(|(model, _)| model).collect()
    }

    /// The same, each with what the server says of it; none where it is configured only.
    pub(crate) fn described_models(&self) -> Vec<(ModelInfo, Option<&Listed>)> {
        let listed = self.report.listing.iter().flat_map(|listing| &listing.models);
        if self.config.models.is_empty() {
            return listed.map(|model| (model.info(), Some(model))).collect();
        }
        let find = |name: &String| {
            let known = listed.clone().find(|model| model.is_called(self.names(), name));
            let info = known.map_or_else(
                || ModelInfo { name: name.clone(), loaded: false, size_bytes: None },
                |model| ModelInfo { name: name.clone(), ..model.info() },
            );
            (info, known)
        };
        self.config.models.iter().map(find).collect()
    }

    /// Tells whether it has one model at most: what is said of that is said of the server.
    pub(crate) fn has_one_model(&self) -> bool {
        let listed = self.report.listing.as_ref().map_or(0, |listing| listing.models.len());
        let n_models = if self.config.models.is_empty() { listed } else { self.config.models.len() };
        n_models <= 1
    }

    /// Tells whether the configuration lets a listed model be offered.
    pub(crate) fn offers(&self, listed: &str) -> bool {
        let tagless = listed.strip_suffix(":latest");
        let models = &self.config.models;
        models.is_empty() || models.iter().any(|name| name == listed || Some(name.as_str()) == tagless)
    }

    pub(crate) fn status(&self) -> BackendStatus {
        let report = &self.report;
        let now = Instant::now();
        let in_flight = self.upstream.in_flight.load(Ordering::Relaxed);
        BackendStatus {
            id: self.config.id.clone(),
            kind: self.config.kind,
            profile: Arc::clone(&self.config.profile),
            speaks: report.speaks,
            endpoint: self.upstream.origin.shown.clone(),
            state: report.state,
            health: self.upstream.health(report, self.is_full(in_flight), now),
            breaker: self.upstream.breaker(now),
            version: report.version.clone(),
            models: self.models(),
            latency: report.latency,
            last_check: report.last_check,
            error: report.error.clone(),
            in_flight,
            queued: self.upstream.slots.n_queued(),
            error_rate: self.upstream.outcomes.error_rate(),
        }
    }
}
