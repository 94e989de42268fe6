//! Pages of other origins whose scripts call the relay.
//!
//! A browser asks before it sends a token to another origin, and hides the answer from the page unless it is told
//! otherwise. Which origins may is the operator's list. Callers prove who they are with a bearer token, which no browser
//! sends by itself, so a request from elsewhere needs no refusal: its answer just stays hidden. There are no cookies, and
//! so no credentials mode.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::body::RelayBody;
use crate::error::Refusal;

/// The origin of a page that may read answers, and of whose requests this is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AllowedOrigin(HeaderValue);

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
/// Browsers keep an answer for so many seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, tunnel-error, tunnel-device, tunnel-devices-missing, ratelimit, ratelimit-policy, retry-after",
);
const PREFLIGHT_VARIES: HeaderValue =
    HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers");
const VARIES: HeaderValue = HeaderValue::from_static("origin");

/// What the libraries for OpenAI's, Anthropic's and Ollama's APIs send, and what the relay itself understands. Ollama's
/// names itself in `user-agent`, for which some browsers ask.
const TAKEN: [&str; 17] = [
    "accept",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "anthropic-version",
    "authorization",
    "cache-control",
    "content-type",
    "idempotency-key",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "traceparent",
    "tunnel-device",
    "user-agent",
    "x-api-key",
    "x-request-id",
    "x-requested-with",
];
const TAKEN_PREFIX: &str = "x-stainless-";
/// The list that is answered may not be longer than the sane one.
const MOST_ASKED: usize = 64;

impl AllowedOrigin {
    /// Returns the request's origin if it is on the list.
    pub(crate) fn of(allowed: &[String], headers: &HeaderMap) -> Option<Self> {
        let origin = headers.get(ORIGIN)?;
        allowed.iter().any(|one| one.as_bytes() == origin.as_bytes()).then(|| Self(origin.clone()))
    }

    /// Lets the page read an answer.
    pub(crate) fn expose(&self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.0.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        // The backend's own stays.
        headers.append(VARY, VARIES);
    }

    /// Answers what a browser asks before the page's request.
    pub(crate) fn preflight(&self, asked: &HeaderMap) -> Response<RelayBody> {
        let mut response = Response::new(RelayBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.0.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        headers.insert(VARY, PREFLIGHT_VARIES);
        if let Some(taken) = taken(asked) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, taken);
        }
        response
    }
}

/// Tells whether a browser asks before it sends a page's request.
pub(crate) fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What a page elsewhere is told; the browser shows it to whoever looks into its console.
pub(crate) fn refused() -> Refusal {
    Refusal::Unforwardable {
        status: StatusCode::FORBIDDEN,
        code: "origin_not_allowed",
        why: "Pages of this origin may not call the relay. Its operator can allow it: put the origin, exactly as the \
              browser sends it, into edge.allowed_origins of the relay's settings.",
    }
}

/// Returns those of the headers that are asked for that a page may send.
fn taken(asked: &HeaderMap) -> Option<HeaderValue> {
    let asked = asked.get(ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
    let taken: Vec<String> = asked
        .split(',')
        .take(MOST_ASKED)
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| TAKEN.contains(&name.as_str()) || is_stainless(name))
        .collect();
    if taken.is_empty() { None } else { HeaderValue::try_from(taken.join(", ")).ok() }
}

fn is_stainless(name: &str) -> bool {
    name.strip_prefix(TAKEN_PREFIX)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use http::header::RETRY_AFTER;

    use super::*;
    use crate::error::{TUNNEL_ERROR, X_REQUEST_ID};
    use crate::headers::TUNNEL_DEVICE;
    use crate::limits::{RATELIMIT, RATELIMIT_POLICY};
    use crate::merge::DEVICES_MISSING;

    fn request(headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(Method::OPTIONS);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn allowed(origin: &str) -> Option<AllowedOrigin> {
        let list = ["https://chat.example.org".to_owned(), "http://localhost:3000".to_owned()];
        AllowedOrigin::of(&list, request(&[("origin", origin)]).headers())
    }

    #[test]
    fn an_origin_is_on_the_list_or_not() {
        assert!(allowed("https://chat.example.org").is_some());
        assert!(allowed("http://localhost:3000").is_some());
        for other in [
            "https://chat.example.org.evil.example",
            "https://evil.chat.example.org",
            "http://chat.example.org",
            "https://chat.example.org:8443",
            "https://CHAT.example.org",
            "null",
            "*",
            "",
        ] {
            assert_eq!(allowed(other), None, "{other}");
        }
        assert_eq!(AllowedOrigin::of(&[], request(&[("origin", "null")]).headers()), None);
        assert_eq!(AllowedOrigin::of(&["null".into()], request(&[]).headers()), None);
    }

    #[test]
    fn a_page_may_send_what_the_libraries_send() {
        let asked = request(&[
            ("origin", "http://localhost:3000"),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "Authorization,content-type, X-Stainless-Lang,User-Agent,x-stainless-,x-evil,cookie,tunnel-caller",
            ),
        ]);
        assert!(is_preflight(&asked));
        let response = allowed("http://localhost:3000").unwrap().preflight(asked.headers());
        assert_eq!(response.status(), 204);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("access-control-allow-origin"), "http://localhost:3000");
        assert_eq!(
            header("access-control-allow-headers"),
            "authorization, content-type, x-stainless-lang, user-agent"
        );
        assert_eq!(header("access-control-max-age"), "600");
        assert!(header("vary").contains("origin"));
        assert!(!response.headers().contains_key("access-control-allow-credentials"));
    }

    #[test]
    fn only_a_browsers_question_is_a_preflight() {
        assert!(!is_preflight(&request(&[("origin", "http://localhost:3000")])));
        assert!(!is_preflight(&request(&[("access-control-request-method", "POST")])));
    }

    #[test]
    fn an_answer_keeps_what_it_varies_by() {
        let mut headers = HeaderMap::new();
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        allowed("http://localhost:3000").unwrap().expose(&mut headers);
        let varies: Vec<_> = headers.get_all(VARY).iter().collect();
        assert_eq!(varies, ["accept-encoding", "origin"]);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "http://localhost:3000");
    }

    #[test]
    fn a_page_may_read_all_that_the_relay_adds() {
        let mut headers = HeaderMap::new();
        allowed("http://localhost:3000").unwrap().expose(&mut headers);
        let exposed = headers[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
        let exposed: Vec<HeaderName> = exposed.split(", ").map(|name| name.parse().unwrap()).collect();
        for added in [
            X_REQUEST_ID,
            TUNNEL_ERROR,
            TUNNEL_DEVICE,
            DEVICES_MISSING,
            RATELIMIT,
            RATELIMIT_POLICY,
            RETRY_AFTER,
        ] {
            assert!(exposed.contains(&added), "{added}");
        }
    }
}
