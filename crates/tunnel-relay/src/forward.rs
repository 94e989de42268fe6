//! One request of a caller: who asks, which device, there and back.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::debug;
use tunnel_transport::{ResponseBody, SendError};

use crate::audit::Event;
use crate::auth::standing::Holder;
use crate::auth::{self, Principal, Scope, TokenError};
use crate::body::{
    Forwarded, IdleLimits, Length, Progress, RelayBody, Terms, Upload, UploadFault, UploadTerms, overdue,
};
use crate::caller_body::CallerBody;
use crate::choose::{self, Choice};
use crate::client::Client;
use crate::config::Settings;
use crate::error::{Dialect, Refusal, X_REQUEST_ID};
use crate::headers::{self, TUNNEL_CALLER, TUNNEL_DEVICE};
use crate::limits::Throttle;
use crate::listener::Connection;
use crate::merge;
use crate::metrics::{Metrics, Outcome};
use crate::registry::{StreamPermit, Tunnel};
use crate::relay::Shared;
use crate::target::{self, Target};

/// How often a request that waits for its response is asked whether its token was revoked.
const TOKEN_CHECKED_EVERY: Duration = Duration::from_secs(1);

/// Forwards a request to the caller's device and passes the answer back as it comes.
pub(crate) async fn forward(
    connection: &Connection,
    client: &Client,
    mut request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Response<RelayBody> {
    let asked = match aim(&mut request) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(connection, client, None, &refusal, dialect(&request), request_id),
    };
    let dialect = dialect(&request);
    let mut subject = None;
    match exchange(connection, client, request, asked.as_deref(), request_id, &mut subject).await {
        Ok(response) => response,
        Err(refusal) => refuse(connection, client, subject.as_deref(), &refusal, dialect, request_id),
    }
}

/// Answers a request that is not forwarded. `subject` is whose it was, where that is known.
pub(crate) fn refuse(
    connection: &Connection,
    client: &Client,
    subject: Option<&str>,
    refusal: &Refusal,
    dialect: Dialect,
    request_id: &HeaderValue,
) -> Response<RelayBody> {
    match refusal {
        // Nobody is left to read the answer.
        Refusal::BadUpload => connection.shared.metrics.count(Outcome::CallerGone),
        refusal => connection.shared.metrics.refused(refusal.code()),
    }
    note(connection, client, subject, refusal);
    debug!(request_id = ?request_id, code = refusal.code(), "request refused");
    refusal.response(dialect, request_id)
}

/// Notes what whoever is responsible for the relay may want to know of.
pub(crate) fn note(connection: &Connection, client: &Client, subject: Option<&str>, refusal: &Refusal) {
    let (shared, client, code) = (&connection.shared, client.address, refusal.code());
    match refusal {
        Refusal::Token(error) => {
            if error.is_of_the_token() {
                shared.limits.token_refused(client);
            }
            shared.metrics.refused_tokens.inc(code);
            shared.audit.note(&Event::TokenRefused { client, code });
        }
        Refusal::RateLimited { .. }
        | Refusal::TooManyStreams { .. }
        | Refusal::TooMuchWaiting
        | Refusal::TooManyDevices { .. }
        | Refusal::BodyTooLarge { .. }
        | Refusal::UploadTooSlow { .. } => {
            shared.metrics.limit_hits.inc(code);
            shared.audit.note(&Event::LimitHit { subject, client, code });
        }
        _ => {}
    }
}

fn dialect(request: &Request<Incoming>) -> Dialect {
    Dialect::of(request.uri().path())
}

/// Reduces the request's target to a path on a device, and tells which device the path named.
fn aim(request: &mut Request<Incoming>) -> Result<Option<String>, Refusal> {
    let uri = request.uri();
    if !uri.path().starts_with('/') || request.method() == Method::CONNECT {
        return Err(Refusal::Unforwardable {
            status: StatusCode::BAD_REQUEST,
            code: "bad_request",
            why: "The request names no path. Send requests for paths such as /api/chat or /v1/chat/completions; this \
                  relay is no general proxy.",
        });
    }
    if let Some(prefixed) = target::split_device(uri) {
        *request.uri_mut() = Uri::from(prefixed.rest);
        match target::target(request.uri().path()) {
            Target::Connect | Target::Own(_) | Target::Reserved => return Err(Refusal::Reserved),
            Target::Health | Target::Device => {}
        }
        return Ok(Some(prefixed.device));
    }
    if uri.scheme().is_some() || uri.authority().is_some() {
        // A client that takes the relay for a proxy: only the path counts.
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
    }
    Ok(None)
}

async fn exchange(
    connection: &Connection,
    client: &Client,
    request: Request<Incoming>,
    asked: Option<&str>,
    request_id: &HeaderValue,
    subject: &mut Option<Arc<str>>,
) -> Result<Response<RelayBody>, Refusal> {
    let shared = &*connection.shared;
    let principal = shared.authority.verify(auth::bearer(request.headers())?, client.address).await?;
    *subject = Some(Arc::clone(&principal.subject));
    if !principal.scopes.has(Scope::Inference) {
        return Err(Refusal::Scope { needed: Scope::Inference, has: principal.scopes });
    }
    if headers::wants_websocket(request.headers()) {
        return Err(Refusal::Unforwardable {
            status: StatusCode::NOT_IMPLEMENTED,
            code: "upgrade_unsupported",
            why: "This relay does not pass WebSockets on. Send the request as plain HTTP; streamed responses work.",
        });
    }
    let allowed = shared.limits.allow(&shared.settings(), &principal, client)?;
    let (upload_terms, throttle) = terms(shared, &principal);
    if let Some(limit) = upload_terms.max_bytes
        && headers::content_length(request.headers()).is_some_and(|length| length > limit)
    {
        return Err(Refusal::BodyTooLarge { limit });
    }
    let named = request.headers().get(TUNNEL_DEVICE).map(|name| name.to_str().unwrap_or("?").to_owned());
    let is_head = request.method() == Method::HEAD;
    let attempt = Attempt { metrics: &shared.metrics, settled: false };
    let chosen = choose::choose(shared, &principal, asked.or(named.as_deref()), request).await;
    let (permit, request) = match chosen {
        Ok(Choice::Device(permit, request)) => (permit, request),
        Ok(Choice::Lists(listing, permits)) => {
            let asking = merge::Asking {
                listing,
                principal: &principal,
                client,
                request_id,
                readers: &connection.readers,
            };
            // Boxed: it is rare, and larger than what each request needs.
            let merged = Box::pin(merge::answer(asking, permits)).await;
            attempt.settle();
            let mut merged = merged?;
            shared.metrics.count(Outcome::Ok);
            merged.headers_mut().extend(allowed.headers);
            return Ok(if is_head { merged.map(|_| RelayBody::empty()) } else { merged });
        }
        Err(refusal) => {
            attempt.settle();
            return Err(refusal);
        }
    };

    let (mut head, body) = request.into_parts();
    if head.version == Version::HTTP_10 {
        connection.body_ends_with_connection.store(true, Ordering::Relaxed);
    }
    headers::strip_request(&mut head.headers);
    let mut once = request_id.clone();
    // Keeps HPACK from remembering what never comes again, at the cost of what does.
    once.set_sensitive(true);
    head.headers.insert(X_REQUEST_ID, once);
    head.headers.insert(headers::FORWARDED, client.forwarded.clone());
    head.headers.insert(TUNNEL_CALLER, principal.caller.clone());
    // What hyper left there is for this connection.
    head.extensions.clear();
    // h2 wants an authority with version 2, and the caller's does not matter to the desktop.
    head.version = Version::HTTP_11;

    let upload = Upload::new(body, upload_terms.clone(), Arc::clone(&shared.metrics));
    let progress = upload.progress();
    let holder = shared.authority.holder(&principal);
    let watched = Uploading { progress: progress.as_deref(), terms: &upload_terms };
    let answer = send(&permit, Request::from_parts(head, upload), watched, &holder, connection).await;
    attempt.settle();
    let (mut head, body) = answer?.into_parts();
    headers::strip_response(&mut head.headers);
    head.headers.insert(X_REQUEST_ID, request_id.clone());
    head.headers.insert(TUNNEL_DEVICE, permit.tunnel().device_header.clone());
    head.headers.extend(allowed.headers);
    head.version = Version::HTTP_11;
    let bodyless =
        is_head || head.status == StatusCode::NO_CONTENT || head.status == StatusCode::NOT_MODIFIED;
    let body = Forwarded::new(
        if bodyless { Length::None } else { Length::AsSaid },
        &head.headers,
        body,
        Terms {
            idle: idle_limits(&shared.settings()),
            throttle,
            reader: connection.readers.next(),
            permit,
            holder,
            metrics: Arc::clone(&shared.metrics),
        },
    );
    Ok(Response::from_parts(head, RelayBody::Forwarded(body)))
}

/// Tells what the bodies of a tenant's request are held to: upwards, and the bytes a second downwards.
fn terms(shared: &Shared, principal: &Principal) -> (UploadTerms, Option<Arc<Throttle>>) {
    let settings = shared.settings();
    let throttles = shared.limits.throttles(&settings, principal);
    let upload = UploadTerms {
        max_bytes: settings.tier(principal.tier.as_deref()).max_body_bytes,
        least_per_second: settings.edge.min_upload_bytes_per_second,
        throttle: throttles.as_ref().map(|throttles| Arc::clone(&throttles.up)),
    };
    (upload, throttles.map(|throttles| Arc::clone(&throttles.down)))
}

/// An upload under way, as seen from outside.
#[derive(Clone, Copy)]
struct Uploading<'a> {
    progress: Option<&'a Progress>,
    terms: &'a UploadTerms,
}

fn idle_limits(settings: &Settings) -> IdleLimits {
    IdleLimits {
        // A backend may send its headers at once and think only then.
        first: settings.first_byte_timeout.max(settings.idle_timeout),
        then: settings.idle_timeout,
    }
}

/// Sends a request and waits for the head of its response for as long as the device may take.
async fn send(
    permit: &StreamPermit,
    request: Request<Upload<CallerBody>>,
    upload: Uploading<'_>,
    holder: &Holder,
    connection: &Connection,
) -> Result<Response<ResponseBody>, Refusal> {
    let tunnel = permit.tunnel();
    let limit = connection.shared.settings().first_byte_timeout;
    let started = Instant::now();
    let mut answer = pin!(tunnel.session.send(request));
    let mut timer = pin!(tokio::time::sleep_until(started + limit.min(TOKEN_CHECKED_EVERY)));
    loop {
        tokio::select! {
            biased;
            answer = answer.as_mut() => {
                connection.shared.metrics.first_byte(started.elapsed());
                return answer.map_err(|error| refusal(&error, tunnel, upload));
            }
            () = timer.as_mut() => {
                if holder.is_over() {
                    return Err(TokenError::Revoked.into());
                }
                // A slow upload is not the device's fault: its time runs from the last piece.
                let since = upload.progress.map_or(started, Progress::last).max(started);
                match overdue(tunnel, since, limit) {
                    Some(deadline) => timer.as_mut().reset(deadline.min(Instant::now() + TOKEN_CHECKED_EVERY)),
                    None => {
                        let device = tunnel.device.to_string();
                        return Err(Refusal::FirstByteTimeout { device, after: limit });
                    }
                }
            }
        }
    }
}

fn refusal(error: &SendError, tunnel: &Tunnel, upload: Uploading<'_>) -> Refusal {
    let device = tunnel.device.to_string();
    // Then it is the upload that ended the stream.
    match upload.progress.and_then(Progress::fault) {
        Some(UploadFault::BrokenOff) => return Refusal::BadUpload,
        Some(UploadFault::Ambiguous) => return choose::ambiguous_later(),
        Some(UploadFault::TooLarge) => {
            return Refusal::BodyTooLarge { limit: upload.terms.max_bytes.unwrap_or(u64::MAX) };
        }
        Some(UploadFault::TooSlow) => {
            return Refusal::UploadTooSlow { least_per_second: upload.terms.least_per_second };
        }
        None => {}
    }
    match error {
        SendError::Offline => Refusal::DeviceOffline { device, retry_after: Duration::from_secs(5) },
        SendError::Draining => Refusal::DeviceOffline { device, retry_after: Duration::from_secs(2) },
        SendError::Lost(_) => Refusal::TunnelLost { device },
        SendError::Reset(_) => Refusal::StreamReset { device },
    }
}

/// Counts a caller that hangs up before the response begins: then the future is dropped where it stands.
struct Attempt<'a> {
    metrics: &'a Metrics,
    settled: bool,
}

impl Attempt<'_> {
    fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.metrics.count(Outcome::CallerGone);
        }
    }
}
