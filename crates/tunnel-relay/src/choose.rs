//! Which of the tenant's desktops gets a request.

use http::Request;
use hyper::body::Incoming;

use crate::auth::Principal;
use crate::error::Refusal;
use crate::registry::StreamPermit;
use crate::relay::Shared;
use crate::waiting;

/// Finds the device for a request and admits the request to it. `asked` is the device that path or header names.
pub(crate) async fn choose(
    shared: &Shared,
    principal: &Principal,
    asked: Option<&str>,
    request: Request<Incoming>,
) -> Result<(StreamPermit, Request<Incoming>), Refusal> {
    let limit = shared.settings().tier(principal.tier.as_deref()).max_streams;
    let admit = || shared.registry.admit(principal, asked, limit);
    Ok((waiting::admitted(shared, principal, asked, admit).await?, request))
}
