use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderValue;

use crate::config::{BackendConfig, BackendKind};
use crate::path::Dialect;
use crate::route::{Candidate, Standing};
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
        match (self.config.kind, dialect) {
            (BackendKind::Ollama, _) | (BackendKind::OpenAi, Dialect::OpenAi | Dialect::Other) => true,
            (BackendKind::OpenAi, Dialect::Ollama) => false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.report.state == BackendState::Connected
    }

    /// Tells whether its first probe is still under way.
    pub(crate) fn is_new(&self) -> bool {
        self.report.state == BackendState::Connecting
    }

    pub(crate) fn candidate(&self, index: usize, dialect: Dialect, loaded: bool) -> Candidate {
        let in_flight = self.upstream.in_flight.load(Ordering::Relaxed);
        Candidate {
            backend: index,
            server: self.upstream.id,
            standing: match self.report.state {
                BackendState::Connected if self.report.failing => Standing::Doubtful,
                BackendState::Connected => Standing::Healthy,
                BackendState::Connecting => Standing::Unknown,
                BackendState::Disconnected | BackendState::Error => Standing::Down,
            },
            speaks: self.speaks(dialect),
            side: self.config.kind.side(),
            priority: self.config.priority,
            weight: self.config.weight.get(),
            share: 100,
            in_flight,
            full: self.config.max_concurrent.is_some_and(|max| in_flight >= max.get() as usize),
            loaded,
            latency: self.upstream.load.latency(),
        }
    }

    /// Returns the models to offer: what is configured, else what is listed.
    pub(crate) fn models(&self) -> Vec<ModelInfo> {
        let listed = self.report.listing.iter().flat_map(|listing| &listing.models);
        if self.config.models.is_empty() {
            return listed.map(|model| model.info()).collect();
        }
        let find = |name: &String| {
            let known = listed.clone().find(|model| model.is_called(self.config.kind, name));
            known.map_or_else(
                || ModelInfo { name: name.clone(), loaded: false, size_bytes: None },
                |model| ModelInfo { name: name.clone(), ..model.info() },
            )
        };
        self.config.models.iter().map(find).collect()
    }

    /// Tells whether the configuration lets a listed model be offered.
    pub(crate) fn offers(&self, listed: &str) -> bool {
        let tagless = listed.strip_suffix(":latest");
        let models = &self.config.models;
        models.is_empty() || models.iter().any(|name| name == listed || Some(name.as_str()) == tagless)
    }

    pub(crate) fn status(&self) -> BackendStatus {
        let report = &self.report;
        BackendStatus {
            id: self.config.id.clone(),
            kind: self.config.kind,
            endpoint: self.upstream.origin.shown.clone(),
            state: report.state,
            version: report.version.clone(),
            models: self.models(),
            latency: report.latency,
            last_check: report.last_check,
            error: report.error.clone(),
            in_flight: self.upstream.in_flight.load(Ordering::Relaxed),
            error_rate: self.upstream.outcomes.error_rate(),
        }
    }
}
