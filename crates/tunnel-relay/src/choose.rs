//! Which of the tenant's desktops gets a request.

use http::Request;
use hyper::body::Incoming;

use crate::auth::Principal;
use crate::error::Refusal;
use crate::registry::StreamPermit;
use crate::relay::Shared;

/// Finds the device for a request and admits the request to it. `asked` is the device that path or header names.
#[expect(clippy::unused_async, reason = "the model may have to be read off the body")]
pub(crate) async fn choose(
    shared: &Shared,
    principal: &Principal,
    asked: Option<&str>,
    request: Request<Incoming>,
) -> Result<(StreamPermit, Request<Incoming>), Refusal> {
    let limit = shared.settings().tier(principal.tier.as_deref()).max_streams;
    Ok((shared.registry.admit(principal, asked, limit)?, request))
}
