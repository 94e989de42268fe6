//! What a browser is told about a page whose origin may ask here.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

const PRIVATE_NETWORK_ASKED: HeaderName = HeaderName::from_static("access-control-request-private-network");
const PRIVATE_NETWORK_ALLOWED: HeaderName = HeaderName::from_static("access-control-allow-private-network");
/// What a page may read besides the safe-listed headers.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, x-tunnel-connection, x-tunnel-model, x-tunnel-queue-position, x-tunnel-queued-ms, retry-after, tunneld-version",
);
/// Seconds a browser may remember a preflight: short, since the config can change.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("origin");

/// The headers that let a page of an allowed origin read the answer.
#[derive(Debug, Clone)]
pub(crate) struct Cors {
    origin: HeaderValue,
}

impl Cors {
    pub(super) fn of(origin: &HeaderValue) -> Self {
        Self { origin: origin.clone() }
    }

    /// Sets the headers. A backend's own CORS opinion is replaced: this door decides.
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        headers.append(VARY, VARY_ORIGIN);
    }
}

/// The answer to a preflight that is granted.
#[derive(Debug)]
pub(crate) struct Preflight {
    cors: Cors,
    method: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    private_network: bool,
}

impl Preflight {
    /// The status of a preflight that is granted.
    pub(crate) const STATUS: StatusCode = StatusCode::NO_CONTENT;

    pub(super) fn asked(cors: Cors, headers: &HeaderMap) -> Self {
        Self {
            cors,
            method: headers.get(ACCESS_CONTROL_REQUEST_METHOD).cloned(),
            headers: headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
            private_network: headers.contains_key(PRIVATE_NETWORK_ASKED),
        }
    }

    /// Sets what was asked for as what is allowed: the origin has been judged for just this method.
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        self.cors.apply(headers);
        if let Some(method) = self.method {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method);
        }
        if let Some(asked) = self.headers {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE);
        if self.private_network {
            headers.insert(PRIVATE_NETWORK_ALLOWED, HeaderValue::from_static("true"));
        }
    }
}
