//! A backend for a request, and the right to use it.

use std::sync::Arc;

use crate::call::Call;
use crate::decide::decide;
use crate::error::Failure;
use crate::permit::Permit;
use crate::route::Spread;
use crate::shared::Shared;
use crate::table::Route;
use crate::upstream::Upstream;

/// Where a request goes, with a slot that is its own.
pub(crate) struct Place {
    pub(crate) route: Route,
    pub(crate) permit: Permit,
}

/// Finds a backend that has a free slot. Those that turn out to have none are added to `tried`.
pub(crate) async fn place(
    shared: &Shared,
    call: &Call,
    spread: Spread,
    tried: &mut Vec<Arc<Upstream>>,
) -> Result<Place, Failure> {
    let mut full = None;
    loop {
        let route = match decide(shared, call, spread, tried).await {
            Ok(route) => route,
            Err(failure) => return Err(full.unwrap_or(failure)),
        };
        match Permit::acquire(&route.backend, shared.settings().pool_size) {
            Some(permit) => return Ok(Place { route, permit }),
            None => {
                full.get_or_insert_with(|| Failure::Full(route.backend.config.id.clone()));
                tried.push(Arc::clone(&route.backend.upstream));
            }
        }
    }
}
