//! What arrives at the public address, and where it goes.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::auth::{self, TokenError};
use crate::body::RelayBody;
use crate::client::{self, Client};
use crate::config::ProxyHeader;
use crate::cors::{self, AllowedOrigin};
use crate::error::{Dialect, Refusal, X_REQUEST_ID};
use crate::listener::Connection;
use crate::target::{Target, target};
use crate::{account, attach, forward, headers, strict};

/// Answers one request.
///
/// Also what the relay refuses can be read by the pages that may call it.
pub(crate) async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<RelayBody>, Infallible> {
    connection.mark_used();
    let request_id = request_id();
    // Only pages send their origin, so other callers do not pay for this.
    let origin = request.headers().get(ORIGIN).and_then(|_| {
        AllowedOrigin::of(&connection.shared.settings().edge.allowed_origins, request.headers())
    });
    let client = Client::of(&connection, request.headers());
    let mut response = if cors::is_preflight(&request) {
        match &origin {
            Some(origin) => origin.preflight(request.headers()),
            None => {
                let refusal = cors::refused();
                forward::refuse(&connection, &client, None, &refusal, Dialect::Plain, &request_id)
            }
        }
    } else {
        let mut response = answer(&connection, &client, request, &request_id).await;
        if let Some(origin) = origin {
            origin.expose(response.headers_mut());
        }
        response
    };
    let tls_max_age = connection.is_tls.then(|| connection.shared.settings().edge.hsts_max_age);
    headers::harden(response.headers_mut(), tls_max_age);
    Ok(response)
}

async fn answer(
    connection: &Connection,
    client: &Client,
    request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Response<RelayBody> {
    let refuse =
        |refusal: &Refusal| forward::refuse(connection, client, None, refusal, Dialect::Plain, request_id);
    if let Err(refusal) = strict::check(&request) {
        let mut response = refuse(&refusal);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let shared = &connection.shared;
    let known = |token: &str| shared.authority.remembers(token);
    let settings = shared.settings();
    let arrived = shared.limits.arrive(&settings, client, request.headers(), known);
    note_proxy(connection, settings.edge.proxy_header, &request, arrived.is_err());
    drop(settings);
    let arrived = match arrived {
        Ok(arrived) => arrived,
        Err(refusal) => {
            let dialect = Dialect::of(request.uri().path());
            return forward::refuse(connection, client, None, &refusal, dialect, request_id);
        }
    };
    let mut response = match target(request.uri().path()) {
        Target::Device => forward::forward(connection, client, request, request_id).await,
        Target::Connect => {
            let mut subject = None;
            let connected = attach::connect(connection, client, request, &mut subject).await;
            connected.unwrap_or_else(|refusal| {
                forward::refuse(connection, client, subject.as_deref(), &refusal, Dialect::Plain, request_id)
            })
        }
        Target::Health => health(connection, client, request.method(), request.headers(), request_id).await,
        Target::Own(resource) => account::answer(connection, client, resource, request, request_id)
            .await
            .unwrap_or_else(|refusal| refuse(&refusal)),
        Target::Reserved => refuse(&Refusal::Reserved),
    };
    arrived.tell(response.headers_mut());
    response
}

/// Notes what does not fit together: who is trusted to say for whom requests come, and who says it in which header.
fn note_proxy(connection: &Connection, configured: ProxyHeader, request: &Request<Incoming>, over: bool) {
    let (limits, peer) = (&connection.shared.limits, connection.direct.address);
    let has = |header: ProxyHeader| request.headers().contains_key(client::name_of(header));
    match (connection.is_proxy, has(configured)) {
        (true, true) => {}
        // Whoever asks this is mostly the proxy itself, for nobody.
        (true, false) if target(request.uri().path()) == Target::Health => {}
        (true, false) => limits.silent_proxy(peer, configured, has(configured.other())),
        (false, true) => limits.unnamed_proxy(peer, configured, configured, over),
        (false, false) if has(configured.other()) => {
            limits.unnamed_proxy(peer, configured, configured.other(), over);
        }
        (false, false) => {}
    }
}

/// Draws an id for a request: 128 random bits in hexadecimal.
fn request_id() -> HeaderValue {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let random: [u8; 16] = rand::random();
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are a header value")
}

/// Says that the relay is there, to anybody. A token is judged too, so that one `curl` tells both.
async fn health(
    connection: &Connection,
    client: &Client,
    method: &Method,
    headers: &HeaderMap,
    request_id: &HeaderValue,
) -> Response<RelayBody> {
    let mut response = if matches!(*method, Method::GET | Method::HEAD) {
        let mut body = json!({
            "status": "ok",
            "service": "tunnel-relay",
            "protocol": tunnel_transport::SUBPROTOCOL,
            "timestamp": jiff::Timestamp::now().to_string(),
        });
        if let Some(token) = token_state(connection, client, headers).await {
            body["token"] = token.into();
        }
        let mut response = Response::new(RelayBody::full(Bytes::from(body.to_string())));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    } else {
        let mut response = Response::new(RelayBody::empty());
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_REQUEST_ID, request_id.clone());
    response
}

async fn token_state(connection: &Connection, client: &Client, headers: &HeaderMap) -> Option<&'static str> {
    let verified = match auth::bearer(headers) {
        Ok(token) => connection.shared.authority.verify(token, client.address).await,
        Err(error) => Err(error),
    };
    if let Err(error) = verified
        && error != TokenError::Missing
    {
        // The answer is no refusal, but this is as good a place to try tokens as any.
        forward::note(connection, client, None, &error.into());
    }
    match verified {
        Ok(_) => Some("valid"),
        Err(TokenError::Missing) => None,
        Err(TokenError::Invalid) => Some("invalid"),
        Err(TokenError::Expired) => Some("expired"),
        Err(TokenError::Revoked) => Some("revoked"),
        Err(TokenError::IssuerAway | TokenError::Crowded) => Some("unknown"),
    }
}
