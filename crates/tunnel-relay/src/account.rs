//! What a tenant asks the relay itself, under `/_tunnel/v1`: how to log in, its devices, keys for its apps.

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::body::RelayBody;
use crate::client::Client;
use crate::error::Refusal;
use crate::listener::Connection;

/// One of the relay's own resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// `/_tunnel/v1/login`
    Login,
    /// `/_tunnel/v1/devices`
    Devices,
    /// `/_tunnel/v1/tokens`
    Tokens,
    /// `/_tunnel/v1/tokens/<id>`
    Token(String),
}

/// Answers a request for one of them.
#[expect(clippy::unused_async, reason = "tokens are verified")]
pub(crate) async fn answer(
    _connection: &Connection,
    _client: &Client,
    _resource: Resource,
    _request: Request<Incoming>,
    _request_id: &HeaderValue,
) -> Result<Response<RelayBody>, Refusal> {
    Err(Refusal::Reserved)
}
