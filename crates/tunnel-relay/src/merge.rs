//! Lists of models that are put together from what several devices have.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use tunnel_transport::SendError;

mod list;

use crate::auth::Principal;
use crate::body::{Readers, RelayBody};
use crate::choose::{Bounds, Listing};
use crate::client::Client;
use crate::error::{Refusal, X_REQUEST_ID};
use crate::headers::{FORWARDED, TUNNEL_CALLER, TUNNEL_DEVICE};
use crate::registry::{Held, StreamPermit, offline};

/// The devices whose lists are missing in an answer.
pub(crate) const DEVICES_MISSING: HeaderName = HeaderName::from_static("tunnel-devices-missing");
/// Longest wait for one device's list.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for all of them.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Devices that are asked at the same time.
const AT_ONCE: usize = 32;
/// Longest list of one device.
const LIST_MAX_BYTES: usize = 1 << 20;
/// Lists that are longer than this together are put together where nobody else waits meanwhile.
const AT_ONCE_MAX_BYTES: usize = 256 << 10;

/// A relay that ends while it puts lists together has gone by then.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What asks for a list, and for whom.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) listing: Listing,
    pub(crate) principal: &'a Principal,
    pub(crate) client: &'a Client,
    pub(crate) request_id: &'a HeaderValue,
    /// Who will read the answer.
    pub(crate) readers: &'a Readers,
}

/// A device's list, and what it costs to hold it.
struct List {
    bytes: Bytes,
    held: Held,
}

/// Asks all devices for their lists, and answers with what they have together. Entries of the first device come first.
///
/// # Errors
///
/// None of them gave a list.
pub(crate) async fn answer(
    asking: Asking<'_>,
    permits: Vec<StreamPermit>,
) -> Result<Response<RelayBody>, Refusal> {
    let overall = Instant::now() + TIMEOUT;
    let ask = |permit: StreamPermit| async move {
        let deadline = overall.min(Instant::now() + DEVICE_TIMEOUT);
        let asked = timeout_at(deadline, ask(asking, &permit)).await;
        let device = permit.tunnel().device.to_string();
        let list = asked.unwrap_or_else(|_| {
            Err(Refusal::FirstByteTimeout { device: device.clone(), after: DEVICE_TIMEOUT })
        });
        (device, list, permit)
    };
    let mut asked = futures_util::stream::iter(permits).map(ask).buffered(AT_ONCE);
    let (mut lists, mut listed, mut missing, mut first_refusal) = (Vec::new(), Vec::new(), Vec::new(), None);
    let mut counting = None;
    while let Some((device, list, permit)) = asked.next().await {
        // The tenant's place for a request is taken until the answer is read, no device's.
        counting = counting.or(permit.leave_device());
        match list {
            Ok(list) => {
                lists.push(list);
                listed.push(device);
            }
            Err(refusal) => {
                debug!(device, code = refusal.code(), "a device's list of models is missing");
                missing.push(device);
                first_refusal = first_refusal.or(Some(refusal));
            }
        }
    }
    if let (true, Some(refusal)) = (lists.is_empty(), first_refusal) {
        return Err(refusal);
    }
    let (merged, held) = merge(asking, lists).await?;
    let body = RelayBody::gathered(Bytes::from(merged), (held, counting), asking.readers.next());
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_REQUEST_ID, asking.request_id.clone());
    for (name, devices) in [(TUNNEL_DEVICE, listed), (DEVICES_MISSING, missing)] {
        if !devices.is_empty()
            && let Ok(value) = HeaderValue::try_from(devices.join(", "))
        {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

/// Puts lists together. What it makes is hardly longer than they are, so it costs what they did.
async fn merge(asking: Asking<'_>, lists: Vec<List>) -> Result<(String, Vec<Held>), Refusal> {
    let (listing, models) = (asking.listing, asking.principal.models.clone());
    let n_bytes: usize = lists.iter().map(|list| list.bytes.len()).sum();
    let merge = move || {
        let shown = |model: &str| models.as_deref().is_none_or(|models| Bounds(models).allow(model));
        let merged = list::merge(listing, lists.iter().map(|list| list.bytes.as_ref()), shown);
        (merged, lists.into_iter().map(|list| list.held).collect())
    };
    if n_bytes <= AT_ONCE_MAX_BYTES {
        return Ok(merge());
    }
    // Nobody aborts it but a relay that ends.
    tokio::task::spawn_blocking(merge).await.map_err(|_| Refusal::Draining { retry_after: RETRY_AFTER })
}

/// Asks one device. Nothing of the caller's request goes there but who asks.
async fn ask(asking: Asking<'_>, permit: &StreamPermit) -> Result<List, Refusal> {
    let tunnel = permit.tunnel();
    let device = || tunnel.device.to_string();
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static(asking.listing.path());
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(X_REQUEST_ID, asking.request_id.clone());
    headers.insert(FORWARDED, asking.client.forwarded.clone());
    headers.insert(TUNNEL_CALLER, asking.principal.caller.clone());
    let answer = tunnel.session.send(request).await.map_err(|error| match error {
        SendError::Offline | SendError::Draining => offline(device()),
        SendError::Lost(_) => Refusal::TunnelLost { device: device() },
        SendError::Reset(_) => Refusal::StreamReset { device: device() },
    })?;
    let unusable = || Refusal::StreamReset { device: device() };
    if answer.status() != StatusCode::OK {
        return Err(unusable());
    }
    let mut held = tunnel.hold();
    let mut gather = tunnel_sniff::Gather::default();
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| unusable())?.into_data() else { continue };
        if gather.len() + data.len() > LIST_MAX_BYTES {
            return Err(unusable());
        }
        if !held.grow(data.len()) {
            return Err(Refusal::TooMuchWaiting);
        }
        gather.push(data);
    }
    let bytes = gather.freeze();
    if !list::is_list(asking.listing, &bytes) {
        return Err(unusable());
    }
    Ok(List { bytes, held })
}
