//! How much a tenant and an address may ask for.

use http::HeaderMap;

use crate::auth::Principal;
use crate::client::Client;
use crate::config::Settings;
use crate::error::Refusal;

/// Counts what is asked for.
#[derive(Debug, Default)]
pub(crate) struct Limits {}

/// A request that was let in, and what its answer should say of what is left.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    /// `RateLimit-Policy` and `RateLimit`, where the tier has such a limit.
    pub(crate) headers: HeaderMap,
}

impl Limits {
    /// Lets a request in, or says how long to wait. Called once for each request, after its token was verified.
    pub(crate) fn allow(
        &self,
        _settings: &Settings,
        _principal: &Principal,
        _client: &Client,
    ) -> Result<Allowed, Refusal> {
        Ok(Allowed::default())
    }
}
