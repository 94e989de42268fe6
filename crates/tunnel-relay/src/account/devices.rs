//! `GET /_tunnel/v1/devices`: the tenant's desktops, and what they have.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::Serialize;

use crate::auth::{self, Principal};
use crate::body::RelayBody;
use crate::choose::Bounds;
use crate::client::Client;
use crate::error::{Refusal, X_REQUEST_ID};
use crate::listener::Connection;
use crate::presence::{Offered, Presence};
use crate::registry::KnownDevice;

#[derive(Serialize)]
struct Devices<'a> {
    devices: Vec<Shown<'a>>,
}

/// A device as its owner sees it.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    online: bool,
    /// Whether it is asked first, by its own configuration.
    preferred: bool,
    connected_since: Option<Timestamp>,
    /// None: it is offline, or does not tell.
    models: Option<Vec<&'a Offered>>,
    in_flight: usize,
}

/// Lists the devices of the token's subject; of one device if the token is bound to it. Any scope will do: each of them
/// works with devices.
pub(crate) async fn answer(
    connection: &Connection,
    client: &Client,
    request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Result<Response<RelayBody>, Refusal> {
    let shared = &*connection.shared;
    let is_head = match *request.method() {
        Method::GET => false,
        Method::HEAD => true,
        _ => return Err(Refusal::MethodNotAllowed { allow: "GET, HEAD" }),
    };
    let principal = shared.authority.verify(auth::bearer(request.headers())?, client.address).await?;
    let allowed = shared.limits.allow(&shared.settings(), &principal, client)?;
    let body = listed(&principal, &shared.registry.devices(&principal));
    let mut response =
        Response::new(if is_head { RelayBody::empty() } else { RelayBody::full(Bytes::from(body)) });
    let headers = response.headers_mut();
    headers.extend(allowed.headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, request_id.clone());
    Ok(response)
}

fn listed(principal: &Principal, devices: &[KnownDevice]) -> String {
    let bounds = principal.models.as_deref().map(Bounds);
    let told: Vec<_> = devices.iter().map(|device| device.tunnel.as_ref()?.presence()).collect();
    let devices = devices.iter().zip(&told).map(|(device, told)| show(device, told.as_deref(), bounds));
    // Cannot fail: text, numbers and times.
    serde_json::to_string(&Devices { devices: devices.collect() }).expect("a list of devices is JSON")
}

fn show<'a>(
    device: &'a KnownDevice,
    presence: Option<&'a Presence>,
    bounds: Option<Bounds<'_>>,
) -> Shown<'a> {
    let tunnel = device.tunnel.as_deref();
    let may_see = |model: &&Offered| bounds.is_none_or(|bounds| bounds.allow(&model.name));
    Shown {
        name: device.name.as_str(),
        online: tunnel.is_some(),
        preferred: presence.is_some_and(|presence| presence.preferred),
        connected_since: tunnel.map(|tunnel| tunnel.opened().1),
        models: presence.map(|presence| presence.models().iter().filter(may_see).collect()),
        in_flight: tunnel.map_or(0, |tunnel| tunnel.in_flight()),
    }
}
