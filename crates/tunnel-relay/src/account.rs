//! What a tenant asks the relay itself, under `/_tunnel/v1`: how to log in, its devices, keys for its apps.

mod devices;
mod login;
mod tokens;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use crate::body::RelayBody;
use crate::client::Client;
use crate::error::{Refusal, X_REQUEST_ID};
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
    let shared = &*connection.shared;
    let mut response = match resource {
        Resource::Login => login::answer(&shared.settings(), request.method())?,
        Resource::Devices => devices::answer(connection, client, request, request_id).await?,
        Resource::Tokens => tokens::create(shared, client, request).await?,
        Resource::Token(id) => tokens::revoke(shared, client, &id, request).await?,
    };
    response.headers_mut().insert(X_REQUEST_ID, request_id.clone());
    Ok(response)
}

/// An answer that nobody may keep: it is somebody's own, or a key.
fn json(status: StatusCode, body: &Value) -> Response<RelayBody> {
    let mut response = empty(status);
    *response.body_mut() = RelayBody::full(Bytes::from(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Response<RelayBody> {
    let mut response = Response::new(RelayBody::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
