//! `/_tunnel/v1/devices`.

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::body::RelayBody;
use crate::client::Client;
use crate::error::Refusal;
use crate::listener::Connection;

/// Answers a request for it.
#[expect(clippy::unused_async, reason = "tokens are verified")]
pub(crate) async fn answer(
    _connection: &Connection,
    _client: &Client,
    _request: Request<Incoming>,
    _request_id: &HeaderValue,
) -> Result<Response<RelayBody>, Refusal> {
    Err(Refusal::Reserved)
}
