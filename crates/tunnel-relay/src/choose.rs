//! Which of the tenant's desktops gets a request.
//!
//! Where token, path or header name the device, or only one is online, the request goes there and nothing of it is
//! looked at. Among several, lists of models are put together from all, and other requests go where their model is.
//! A token that holds for some models only is checked here, too: both need the model's name.

mod bounds;
mod listing;
mod rank;
mod read;

use std::sync::Arc;

use http::{Method, Request};
use http_body::Body as _;
use hyper::body::Incoming;

use self::bounds::Asks;
pub(crate) use self::bounds::{Bounds, ambiguous_later};
pub(crate) use self::listing::Listing;
use self::rank::{Candidate, Undecided, Wish};
use self::read::Read;
use crate::auth::Principal;
use crate::caller_body::CallerBody;
use crate::error::Refusal;
use crate::registry::{Found, Slot, StreamPermit, Tunnel, shown};
use crate::relay::Shared;
use crate::waiting;

/// What becomes of a request.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is nearly each request, which a box would slow down"
)]
pub(crate) enum Choice {
    /// It is forwarded to one device.
    Device(StreamPermit, Request<CallerBody>),
    /// It is answered with the lists of these devices, of which the first is the most trusted.
    Lists(Listing, Vec<StreamPermit>),
}

/// Finds the device for a request and admits the request to it. `asked` is the device that path or header names.
pub(crate) async fn choose(
    shared: &Shared,
    principal: &Principal,
    asked: Option<&str>,
    request: Request<Incoming>,
) -> Result<Choice, Refusal> {
    let limit = shared.settings().tier(principal.tier.as_deref()).max_streams;
    let bounds = principal.models.as_deref().map(Bounds);
    let find = || shared.registry.find(principal, asked, limit);
    match (waiting::admitted(shared, principal, asked, find).await?, bounds) {
        (Found::One(permit), None) => Ok(Choice::Device(permit, request.map(CallerBody::untouched))),
        // Boxed: what is rarer must not make the future of every request larger.
        (Found::One(permit), Some(bounds)) => Box::pin(bounded(permit, bounds, request)).await,
        (Found::Several { online, slot }, bounds) => {
            Box::pin(among(shared, online, slot, bounds, request)).await
        }
    }
}

/// Lets a request to the only device through that could be meant, if it keeps to its token's models.
async fn bounded(
    permit: StreamPermit,
    bounds: Bounds<'_>,
    request: Request<Incoming>,
) -> Result<Choice, Refusal> {
    match bounds.ask(request.method(), request.uri().path(), request.headers())? {
        Asks::List(listing) => Ok(Choice::Lists(listing, vec![permit])),
        Asks::Model(_) | Asks::Nothing => Ok(Choice::Device(permit, request.map(CallerBody::untouched))),
        Asks::Body => {
            let (head, body) = request.into_parts();
            let Read { body, .. } = read::strict(body, permit.tunnel().hold(), bounds).await?;
            Ok(Choice::Device(permit, Request::from_parts(head, body)))
        }
    }
}

/// Chooses among several devices.
async fn among(
    shared: &Shared,
    online: Vec<Arc<Tunnel>>,
    slot: Slot,
    bounds: Option<Bounds<'_>>,
    request: Request<Incoming>,
) -> Result<Choice, Refusal> {
    let (method, path) = (request.method(), request.uri().path());
    let harmless = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let asks = match bounds {
        Some(bounds) => bounds.ask(method, path, request.headers())?,
        None if request.body().is_end_stream() => match harmless.then(|| Listing::of(path)).flatten() {
            Some(listing) => Asks::List(listing),
            None => described(path).map_or(Asks::Nothing, Asks::Model),
        },
        None => Asks::Body,
    };
    let held = || online.first().map(|tunnel| tunnel.hold());
    let (head, body) = request.into_parts();
    let (model, body) = match (asks, held(), bounds) {
        (Asks::List(listing), ..) => return lists(shared, &online, slot, listing),
        (Asks::Model(model), ..) => (Some(model), CallerBody::untouched(body)),
        (Asks::Body, Some(held), Some(bounds)) => read::strict(body, held, bounds).await?.parts(),
        (Asks::Body, Some(held), None) => read::loose(body, held).await?.parts(),
        (Asks::Nothing | Asks::Body, ..) => (None, CallerBody::untouched(body)),
    };
    let wish = match &model {
        Some(model) => Wish::Model(model),
        None if harmless => Wish::Any,
        None => Wish::Certain,
    };
    // Only now: what desktops say may have changed while the body came.
    let names = || online.iter().map(|tunnel| tunnel.device.to_string()).collect();
    let chosen = rank::choose(&candidates(&online), wish).map_err(|undecided| match undecided {
        Undecided::NoModel => {
            Refusal::ModelNotFound { model: shown(model.as_deref().unwrap_or_default()), devices: names() }
        }
        Undecided::Unclear => Refusal::DeviceRequired { online: names() },
    })?;
    let permit = shared.registry.admit(&online[chosen], slot)?;
    Ok(Choice::Device(permit, Request::from_parts(head, body)))
}

/// Admits a request for a list to all devices.
fn lists(shared: &Shared, online: &[Arc<Tunnel>], slot: Slot, listing: Listing) -> Result<Choice, Refusal> {
    let ordered: Vec<Arc<Tunnel>> =
        rank::order(&candidates(online)).into_iter().map(|at| Arc::clone(&online[at])).collect();
    let permits = shared.registry.admit_all(&ordered, slot);
    match (permits.is_empty(), ordered.first()) {
        // They have all gone in this moment.
        (true, Some(first)) => Err(crate::registry::offline(first.device.to_string())),
        _ => Ok(Choice::Lists(listing, permits)),
    }
}

/// Returns the model that `/v1/models/<model>` asks about.
fn described(path: &str) -> Option<String> {
    path.strip_prefix("/v1/models/").and_then(bounds::decoded)
}

fn candidates(online: &[Arc<Tunnel>]) -> Vec<Candidate<'_>> {
    let candidate = |tunnel: &'_ Arc<Tunnel>| (tunnel.presence(), tunnel.in_flight(), tunnel.opened().0);
    let of = online.iter().map(|tunnel| (tunnel, candidate(tunnel)));
    of.map(|(tunnel, (presence, in_flight, since))| Candidate {
        name: tunnel.device.as_str(),
        presence,
        in_flight,
        since,
    })
    .collect()
}
