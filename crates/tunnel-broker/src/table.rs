use std::sync::Arc;

use crate::backend::Backend;
use crate::broker::Ingress;
use crate::catalog::{Catalog, ModelName};
use crate::config::BrokerConfig;
use crate::path::Dialect;
use crate::route::{NoRoute, Spread, Standing, pick};
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
    /// Backends that have been tried for this request.
    pub(crate) tried: &'a [Arc<Upstream>],
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

    /// Finds the backend for a request.
    pub(crate) fn route(&self, wanted: &Wanted<'_>) -> Result<Route, NoRoute> {
        let dialect = wanted.dialect;
        let Some(name) = wanted.model else {
            let all =
                self.acceptable(wanted).map(|(index, backend)| backend.candidate(index, dialect, false));
            let index = pick(all, wanted.spread)?;
            return Ok(Route { backend: Arc::clone(&self.backends[index]), model: None });
        };
        let served = self.catalog.find(name);
        let candidates = served.iter().filter_map(|served| {
            let backend = self.backends.get(served.backend).filter(|backend| wanted.accepts(backend))?;
            Some(backend.candidate(served.backend, dialect, served.loaded))
        });
        match pick(candidates, wanted.spread) {
            Ok(index) => {
                let model = served.iter().find(|served| served.backend == index);
                let model = model.map(|served| Arc::clone(&served.name));
                Ok(Route { backend: Arc::clone(&self.backends[index]), model })
            }
            // One that has not said yet what it has may have it.
            Err(NoRoute::Nobody) => {
                let silent = self.acceptable(wanted).filter(|(_, backend)| backend.report.listing.is_none());
                let silent = silent.map(|(index, backend)| backend.candidate(index, dialect, false));
                let silent = silent.filter(|candidate| candidate.speaks);
                Err(pick(silent, wanted.spread).err().unwrap_or(NoRoute::Nobody))
            }
            Err(no_route) => Err(no_route),
        }
    }

    /// Returns the backends that would take a request if they had a slot free, a list for each side, in the order of
    /// preference. Ejected ones are among them only where there is no other.
    pub(crate) fn takers(&self, wanted: &Wanted<'_>) -> Vec<Vec<Route>> {
        let found = |index: usize, loaded, model: Option<&Arc<ModelName>>| {
            let backend = self.backends.get(index).filter(|backend| wanted.accepts(backend))?;
            let candidate = backend.candidate(index, wanted.dialect, loaded);
            let rank = match candidate.standing {
                Standing::Healthy => 0,
                Standing::Doubtful => 1,
                Standing::Ejected => 2,
                Standing::Warming | Standing::Unknown | Standing::Unauthorised | Standing::Down => {
                    return None;
                }
            };
            let route = Route { backend: Arc::clone(backend), model: model.map(Arc::clone) };
            candidate.speaks.then_some(((rank, candidate.priority, index), route))
        };
        let mut takers: Vec<((u8, u32, usize), Route)> = match wanted.model {
            None => (0..self.backends.len()).filter_map(|index| found(index, false, None)).collect(),
            Some(name) => {
                let served = self.catalog.find(name).iter();
                served.filter_map(|served| found(served.backend, served.loaded, Some(&served.name))).collect()
            }
        };
        takers.sort_by_key(|(order, _)| *order);
        let has_better = takers.first().is_some_and(|((rank, ..), _)| *rank < 2);
        takers.retain(|((rank, ..), _)| *rank < 2 || !has_better);
        vec![takers.into_iter().map(|(_, route)| route).collect()]
    }

    fn acceptable(&self, wanted: &Wanted<'_>) -> impl Iterator<Item = (usize, &Arc<Backend>)> {
        self.backends.iter().enumerate().filter(|(_, backend)| wanted.accepts(backend))
    }
}

impl Wanted<'_> {
    fn accepts(&self, backend: &Backend) -> bool {
        self.pin.is_none_or(|id| backend.config.id == id)
            && backend.takes_from(self.ingress)
            && !self.tried.iter().any(|tried| Arc::ptr_eq(tried, &backend.upstream))
    }
}
