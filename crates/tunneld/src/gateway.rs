//! The gateway: the LLM data plane for local programs, straight from hyper into the broker; and for callers with a key.
//!
//! The hot path: a request of the user's own program costs the guard's comparison of its `Host` and nothing else that it
//! does not need.

mod keyed;
mod lan;

use std::sync::Arc;

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tunnel_broker::{Broker, Ingress, RemotePaths};

use self::keyed::Wicket;
pub(crate) use self::lan::LanGateway;
use crate::doors::accept::Handler;
use crate::doors::peer::Peer;
use crate::guard::{Effect, Guards, Preflight, Refusal, Verdict};
use crate::keys::{Admitted, KeyRefusal, KeyRing, KeyedBody};
use crate::refused::Refused;
use crate::store::RecorderHandle;

/// What the relay says about a caller: believed inside a tunnel only, so local callers cannot bring it.
const TUNNEL_CALLER: HeaderName = HeaderName::from_static("tunnel-caller");

/// Answers the requests of the gateway port.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    broker: Broker,
    guards: Arc<Guards>,
    wicket: Wicket,
}

/// The broker's answer, or one of our own.
pub(crate) type GatewayBody = Either<KeyedBody<tunnel_broker::Body>, Full<Bytes>>;

impl Gateway {
    pub(crate) fn new(broker: Broker, guards: Arc<Guards>, ring: KeyRing, record: RecorderHandle) -> Self {
        Self { broker, guards, wicket: Wicket::new(ring, record) }
    }

    async fn forward(&self, ingress: Ingress, mut request: Request<Incoming>) -> Response<GatewayBody> {
        request.headers_mut().remove(TUNNEL_CALLER);
        self.broker.handle(ingress, request).await.map(|body| Either::Left(KeyedBody::free(body)))
    }

    /// Forwards a request that was let in with a key; ends it when the key does.
    async fn forward_admitted(
        &self,
        ingress: Ingress,
        admitted: Admitted,
        mut request: Request<Incoming>,
    ) -> Response<GatewayBody> {
        request.headers_mut().remove(TUNNEL_CALLER);
        admitted.label(&mut request);
        // Cheap, and only needed for a key that ends meanwhile.
        let uri = request.uri().clone();
        tokio::select! {
            biased;
            () = admitted.ended() => {
                KeyRefusal::from(admitted.why_ended()).response(uri.path()).map(Either::Right)
            }
            response = self.broker.handle(ingress, request) => admitted.hold(response).map(Either::Left),
        }
    }
}

impl Handler for Gateway {
    type Body = GatewayBody;

    async fn handle(&self, peer: Peer, request: Request<Incoming>) -> Response<GatewayBody> {
        let guard = match peer {
            Peer::SameUser => self.guards.gateway(),
            // Containers know this machine by names of their own; what protects it from them is the key.
            Peer::Stranger => self.guards.keyed(),
        };
        let cors = match guard.check_page(&request, effect) {
            Verdict::Pass(cors) => cors,
            Verdict::Preflight(granted) => return preflight(granted),
            Verdict::Refuse(refusal) => return refused(refusal, request.uri().path()),
        };
        drop(guard);
        let admitted = match peer {
            Peer::SameUser => self.wicket.recognise(request.headers()),
            Peer::Stranger => self.wicket.admit_stranger(request.headers()).map(Some),
        };
        let mut response = match admitted {
            Ok(None) => self.forward(Ingress::Local, request).await,
            // Boxed: what is rarer must not make the future of every request larger.
            Ok(Some(admitted)) => Box::pin(self.forward_admitted(Ingress::Local, admitted, request)).await,
            Err(refusal) => refusal.response(request.uri().path()).map(Either::Right),
        };
        if let Some(cors) = cors {
            cors.apply(response.headers_mut());
        }
        response
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

fn refused(refusal: Refusal, path: &str) -> Response<GatewayBody> {
    let (status, code) = (Refusal::STATUS, refusal.code());
    let refused = Refused { status, kind: "permission_error", code, message: refusal.to_string() };
    refused.response(path).map(Either::Right)
}

#[cfg(test)]
mod tests {
    use super::*;

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
