use std::sync::Arc;

use crate::backend::Backend;
use crate::broker::Ingress;
use crate::catalog::{Catalog, ModelName};
use crate::config::BrokerConfig;
use crate::path::Dialect;
use crate::route::{NoRoute, Spread, pick};
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
