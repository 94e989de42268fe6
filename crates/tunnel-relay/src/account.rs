//! What a tenant asks the relay itself, under `/_tunnel/v1`: how to log in, its devices, keys for its apps.

mod devices;

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
pub(crate) async fn answer(
    connection: &Connection,
    client: &Client,
    resource: Resource,
    request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Result<Response<RelayBody>, Refusal> {
    match resource {
        Resource::Devices => devices::answer(connection, client, request, request_id).await,
        Resource::Login | Resource::Tokens | Resource::Token(_) => Err(Refusal::Reserved),
    }
}
