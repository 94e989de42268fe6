use std::sync::Arc;

use tokio::time::Instant;

use crate::affinity::Recall;
use crate::backend::Backend;
use crate::broker::Ingress;
use crate::catalog::{Catalog, ModelName, Served};
use crate::config::BrokerConfig;
use crate::path::Dialect;
use crate::profile::Side;
use crate::route::{Candidate, Choice, NoRoute, Rules, Spread, Standing, obstacle, order, pick};
use crate::upstream::Upstream;

/// All that a request needs to know: one consistent picture, replaced as a whole.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) settings: Arc<BrokerConfig>,
    /// Enabled backends, in the order of the configuration.
    pub(crate) backends: Vec<Arc<Backend>>,
    pub(crate) catalog: Catalog,
}

/// What decides where a request goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) ingress: Ingress,
    pub(crate) dialect: Dialect,
    /// The id of the only backend that will do.
    pub(crate) pin: Option<&'a str>,
    /// The model; none when any backend that speaks the dialect will do.
    pub(crate) model: Option<&'a str>,
    pub(crate) spread: Spread,
    /// Whether it needs a slot. To what needs none no backend is full.
    pub(crate) takes_slot: bool,
    /// Knows who served the conversation last; none where that does not matter.
    pub(crate) recall: Option<Recall<'a>>,
    /// What is passed over.
    pub(crate) tried: &'a Tried,
}

/// What a request passes over for what has become of its attempts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried {
    /// Backends that are not asked again.
    pub(crate) servers: Vec<Arc<Upstream>>,
    /// Whether the cloud is passed over, with whatever a change of the configuration adds to it.
    pub(crate) stays_home: bool,
}

impl Tried {
    /// Nothing: what the first attempt passes over.
    pub(crate) const NONE: &Self = &Self { servers: Vec::new(), stays_home: false };

    pub(crate) fn has(&self, upstream: &Arc<Upstream>) -> bool {
        self.servers.iter().any(|tried| Arc::ptr_eq(tried, upstream))
    }

    fn bars(&self, backend: &Backend) -> bool {
        (self.stays_home && backend.profile().side == Side::Cloud) || self.has(&backend.upstream)
    }
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) backend: Arc<Backend>,
    /// The name in the catalogue.
    pub(crate) model: Option<Arc<ModelName>>,
}

impl Table {
    /// Builds the table. `upstreams` are those of the enabled backends, in their order.
    pub(crate) fn new(settings: Arc<BrokerConfig>, upstreams: &[Arc<Upstream>]) -> Self {
        let enabled = settings.backends.iter().filter(|config| config.enabled);
        let backends: Vec<Arc<Backend>> = enabled
            .zip(upstreams)
            .map(|(config, upstream)| Arc::new(Backend::new(config.clone(), Arc::clone(upstream))))
            .collect();
        let mut catalog = Catalog::default();
        for (index, backend) in backends.iter().enumerate() {
            for model in backend.models() {
                catalog.add(index, backend.names(), &model.name, model.loaded);
            }
        }
        Self { settings, backends, catalog }
    }

    pub(crate) fn backend(&self, id: &str) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| backend.config.id == id)
    }

    /// Tells whether a name counts as a model's own, before aliases and pins: when a local backend has, or had when it was
    /// last up, a model of this name, or the one that the request is pinned to.
    ///
    /// What only the cloud has comes after what the user has configured: no list that somebody else writes may send there
    /// what was meant for a local model.
    pub(crate) fn knows(&self, name: &str, pin: Option<&str>) -> bool {
        self.catalog.find(name).iter().any(|served| {
            let backend = &self.backends[served.backend];
            backend.profile().side == Side::Local || pin == Some(backend.config.id.as_str())
        })
    }

    /// Tells whether this backend has, or had when it was last up, a model of this name.
    pub(crate) fn has(&self, id: &str, name: &str) -> bool {
        self.catalog.find(name).iter().any(|served| self.backends[served.backend].config.id == id)
    }

    /// Tells whether a name that a list has is understood as an alias, and so does not mean what the list says.
    pub(crate) fn is_alias(&self, name: &str, pin: Option<&str>) -> bool {
        self.settings.aliases.find(name).is_some() && !self.knows(name, pin)
    }

    /// Returns the connection that gets what manages models: the first that speaks Ollama's API, local ones before those
    /// in the cloud, or the first of those that have the model. Whether it is up does not matter: what changes a machine
    /// must not change whichever happens to be free.
    pub(crate) fn manager(&self, ingress: Ingress, model: Option<&str>) -> Option<&str> {
        let able = |backend: &&Arc<Backend>| backend.speaks(Dialect::Ollama) && backend.takes_from(ingress);
        let rank = |backend: &&Arc<Backend>| (backend.profile().side == Side::Cloud, backend.config.priority);
        let having = model.map_or(&[][..], |model| self.catalog.find(model));
        let having = having.iter().map(|served| &self.backends[served.backend]).filter(able).min_by_key(rank);
        let first = having.or_else(|| self.backends.iter().filter(able).min_by_key(rank));
        first.map(|backend| backend.config.id.as_str())
    }

    /// Finds the backend for a request. Allocates nothing.
    pub(crate) fn route(&self, wanted: &Wanted<'_>) -> Result<Route, NoRoute> {
        let served = self.served(wanted);
        match pick(self.candidates(wanted, served), &self.rules(wanted)) {
            Ok(choice) => Ok(self.to(choice.winner.backend, served)),
            Err(no_route) => Err(self.reason(wanted, no_route)),
        }
    }

    /// Returns where a request can wait that [`Self::route`] calls [`NoRoute::Full`], in the order in which queues are
    /// to be asked: first the backends of the preferred side by rank, those that know the conversation and have less
    /// to do before their equals, then those of the other side.
    ///
    /// All are up and would take the request. Some may have a free slot: those of the other side, which come after
    /// the queues of this one, and whatever has become free meanwhile. Ejected ones are among them only when there are
    /// no others. Empty when none would take it.
    pub(crate) fn waiting_candidates(&self, wanted: &Wanted<'_>) -> Vec<Route> {
        let served = self.served(wanted);
        let mut all = self.order(wanted);
        // They come last: when the first is ejected, all are.
        if let Some(first) = all.first().map(|choice| choice.winner.standing) {
            all.retain(|choice| {
                (choice.winner.standing == Standing::Ejected) == (first == Standing::Ejected)
            });
        }
        all.into_iter().map(|choice| self.to(choice.winner.backend, served)).collect()
    }

    /// Returns when the first of the ejected backends that would take the request may be tried again. Time alone does
    /// that: no change of the status tells.
    pub(crate) fn next_trial(&self, wanted: &Wanted<'_>) -> Option<Instant> {
        let now = Instant::now();
        let policy = self.settings.routing_policy;
        let able = self.candidates(wanted, self.served(wanted)).filter(|c| obstacle(c, policy).is_none());
        able.filter_map(|c| self.backends[c.backend].upstream.outcomes.next_trial(now)).min()
    }

    /// Returns all that would take the request, free or full, in the order in which they would be asked.
    fn order(&self, wanted: &Wanted<'_>) -> Vec<Choice> {
        order(self.candidates(wanted, self.served(wanted)), &self.rules(wanted))
    }

    /// Returns what a choice for this request follows.
    pub(crate) fn rules<'a>(&self, wanted: &Wanted<'a>) -> Rules<'a> {
        Rules { policy: self.settings.routing_policy, spread: wanted.spread, recall: wanted.recall }
    }

    /// Returns the backends that have the model; empty for a request that names none.
    pub(crate) fn served(&self, wanted: &Wanted<'_>) -> &[Served] {
        wanted.model.map_or(&[], |name| self.catalog.find(name))
    }

    /// Returns all that may be asked: those that have the model, or all where none is named.
    pub(crate) fn candidates(
        &self,
        wanted: &Wanted<'_>,
        served: &[Served],
    ) -> impl Iterator<Item = Candidate> {
        let any = if wanted.model.is_none() { self.backends.len() } else { 0 };
        let named = served.iter().map(|served| (served.backend, served.loaded));
        named.chain((0..any).map(|index| (index, false))).filter_map(|(index, loaded)| {
            let backend = self.backends.get(index).filter(|backend| wanted.accepts(backend))?;
            let candidate = backend.candidate(index, wanted.dialect, loaded);
            Some(Candidate { full: candidate.full && wanted.takes_slot, ..candidate })
        })
    }

    fn to(&self, index: usize, served: &[Served]) -> Route {
        let model = served.iter().find(|served| served.backend == index);
        Route {
            backend: Arc::clone(&self.backends[index]),
            model: model.map(|served| Arc::clone(&served.name)),
        }
    }

    /// Looks once more at a request that nobody seems to have a model for: a backend that has not said yet what it has
    /// may have it.
    pub(crate) fn reason(&self, wanted: &Wanted<'_>, no_route: NoRoute) -> NoRoute {
        if no_route != NoRoute::Nobody || wanted.model.is_none() {
            return no_route;
        }
        let silent = self.backends.iter().enumerate().filter(|(_, backend)| {
            wanted.accepts(backend) && backend.report.listing.is_none() && backend.speaks(wanted.dialect)
        });
        let silent = silent.map(|(index, backend)| backend.candidate(index, wanted.dialect, false));
        pick(silent, &self.rules(wanted)).err().unwrap_or(NoRoute::Nobody)
    }
}

impl Wanted<'_> {
    pub(crate) fn accepts(&self, backend: &Backend) -> bool {
        self.pin.is_none_or(|id| backend.config.id == id)
            && backend.takes_from(self.ingress)
            && !self.tried.bars(backend)
    }
}
