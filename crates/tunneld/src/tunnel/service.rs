//! What the relay's requests meet on the desktop: our own few paths, then the broker.

use bytes::Bytes;
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tracing::debug;
use tunnel_broker::{Broker, Ingress};
use tunnel_transport::{MIGRATE_PATH, SessionId};

/// The broker's answer, or one of our own.
pub(super) type TunnelBody = Either<tunnel_broker::Body, Full<Bytes>>;

/// Paths that only the relay itself asks for; it never forwards a caller's request to them.
const OWN_PATHS: &str = "/_tunnel/";
/// Who the caller is, by the relay's word. It is for us, not for the backend.
const TUNNEL_CALLER: HeaderName = HeaderName::from_static("tunnel-caller");

/// Answers the requests of one session.
#[derive(Debug, Clone)]
pub(super) struct TunnelService {
    pub(super) broker: Broker,
    pub(super) session: SessionId,
    /// Sessions that the relay has asked to move. Bounded: the relay asks again if it is not heard.
    pub(super) moves: mpsc::Sender<SessionId>,
}

impl TunnelService {
    pub(super) async fn answer(self, mut request: Request<Incoming>) -> Response<TunnelBody> {
        if request.uri().path().starts_with(OWN_PATHS) {
            return self.own(request.method(), request.uri().path());
        }
        request.headers_mut().remove(TUNNEL_CALLER);
        self.broker.handle(Ingress::Tunnel, request).await.map(Either::Left)
    }

    fn own(&self, method: &Method, path: &str) -> Response<TunnelBody> {
        let status = if path != MIGRATE_PATH {
            StatusCode::NOT_FOUND
        } else if method != Method::POST {
            StatusCode::METHOD_NOT_ALLOWED
        } else {
            debug!(session = %self.session, "the relay asks to move to a second session");
            match self.moves.try_send(self.session) {
                Ok(()) => StatusCode::ACCEPTED,
                Err(_) => StatusCode::SERVICE_UNAVAILABLE,
            }
        };
        let mut response = Response::new(Either::Right(Full::default()));
        *response.status_mut() = status;
        response
    }
}
