//! The gateway: the LLM data plane for local programs, straight from hyper into the broker.
//!
//! The hot path: a request costs the guard's comparison of its `Host` and nothing else that it does not need.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tunnel_broker::{Broker, Ingress, RemotePaths};

use crate::doors::accept::Handler;
use crate::doors::peer::Peer;
use crate::guard::{Effect, Guards, Preflight, Refusal, Verdict};

/// What the relay says about a caller: believed inside a tunnel only, so local callers cannot bring it.
const TUNNEL_CALLER: HeaderName = HeaderName::from_static("tunnel-caller");

/// Answers the requests of the gateway port.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    broker: Broker,
    guards: Arc<Guards>,
}

/// The broker's answer, or one of our own.
pub(crate) type GatewayBody = Either<tunnel_broker::Body, Full<Bytes>>;

impl Gateway {
    pub(crate) fn new(broker: Broker, guards: Arc<Guards>) -> Self {
        Self { broker, guards }
    }
}

impl Handler for Gateway {
    type Body = GatewayBody;

    async fn handle(&self, peer: Peer, mut request: Request<Incoming>) -> Response<GatewayBody> {
        let verdict = self.guards.gateway().check(peer, &request, effect);
        let cors = match verdict {
            Verdict::Pass(cors) => cors,
            Verdict::Preflight(granted) => return preflight(granted),
            Verdict::Refuse(refusal) => return refused(refusal, request.uri().path()),
        };
        request.headers_mut().remove(TUNNEL_CALLER);
        let mut response = self.broker.handle(Ingress::Local, request).await;
        if let Some(cors) = cors {
            cors.apply(response.headers_mut());
        }
        response.map(Either::Left)
    }
}

/// A page whose origin is allowed by a wildcard may ask models, not manage them: the same line that the
/// default remote policy draws.
fn effect(method: &Method, uri: &Uri) -> Effect {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let harmless = method.is_safe() || RemotePaths::Inference.allows(method, target).is_ok();
    if harmless { Effect::Reads } else { Effect::Changes }
}

fn preflight(granted: Preflight) -> Response<GatewayBody> {
    let mut response = Response::new(Either::Right(Full::default()));
    *response.status_mut() = Preflight::STATUS;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS"));
    granted.apply(response.headers_mut());
    response
}

/// Answers in the dialect of the path, so that the caller's library shows the sentence.
fn refused(refusal: Refusal, path: &str) -> Response<GatewayBody> {
    let (content_type, body) = if under(path, "/v1") {
        let error = serde_json::json!({
            "message": refusal.to_string(), "type": "permission_error", "param": null, "code": refusal.code(),
        });
        ("application/json", serde_json::json!({ "error": error }))
    } else if under(path, "/api") {
        ("application/json", serde_json::json!({ "error": refusal.to_string() }))
    } else {
        let problem = serde_json::json!({
            "title": "Forbidden", "status": Refusal::STATUS.as_u16(),
            "detail": refusal.to_string(), "code": refusal.code(),
        });
        ("application/problem+json", problem)
    };
    let mut response = Response::new(Either::Right(Full::from(body.to_string())));
    *response.status_mut() = Refusal::STATUS;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body_of(path: &str) -> (String, serde_json::Value) {
        let response = refused(Refusal::Host, path);
        assert_eq!(response.status(), 403);
        let content_type = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (content_type, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn refusal_speaks_the_dialect_of_the_path() {
        let (_, ollama) = body_of("/api/chat").await;
        assert!(ollama["error"].as_str().unwrap().contains("localhost"));
        let (_, openai) = body_of("/v1/chat/completions").await;
        assert_eq!(openai["error"]["code"], "host_not_allowed");
        let (content_type, problem) = body_of("/v1x").await;
        assert_eq!((content_type.as_str(), &problem["status"]), ("application/problem+json", &403.into()));
    }

    #[test]
    fn wildcard_origins_may_ask_models_but_not_manage_them() {
        let of = |method, target: &str| effect(&method, &target.parse().unwrap());
        assert_eq!(of(Method::POST, "/api/chat"), Effect::Reads);
        assert_eq!(of(Method::POST, "/v1/embeddings?x=1"), Effect::Reads);
        assert_eq!(of(Method::GET, "/api/tags"), Effect::Reads);
        assert_eq!(of(Method::POST, "/api/pull"), Effect::Changes);
        assert_eq!(of(Method::DELETE, "/api/delete"), Effect::Changes);
        assert_eq!(of(Method::POST, "/api/../api/chat"), Effect::Changes);
    }
}
