//! What the relay's requests meet on the desktop: our own few paths, then the broker.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::debug;
use tunnel_broker::{CallerLabel, Ingress};
use tunnel_transport::{MIGRATE_PATH, PRESENCE_PATH, Session, SessionId};

use super::presence::{self, PresenceBody};
use super::sessions::Serves;
use super::settings::Settings;
use crate::keys::{KeyInUse, KeyRefusal, KeyedBody, is_key_id};

/// The broker's answer, or one of our own.
pub(super) type TunnelBody = Either<KeyedBody<tunnel_broker::Body>, Either<Full<Bytes>, PresenceBody>>;

/// Paths that only the relay itself asks for; it never forwards a caller's request to them.
const OWN_PATHS: &str = "/_tunnel/";
/// Who the caller is, by the relay's word. It is for us, not for the backend.
const TUNNEL_CALLER: HeaderName = HeaderName::from_static("tunnel-caller");

/// Answers the requests of one session.
#[derive(Debug, Clone)]
pub(super) struct TunnelService {
    pub(super) serves: Serves,
    pub(super) session: Session,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    /// Sessions that the relay has asked to move. Bounded: the relay asks again if it is not heard.
    pub(super) moves: mpsc::Sender<SessionId>,
    /// The session that takes requests.
    pub(super) serving: watch::Receiver<Option<Session>>,
}

impl TunnelService {
    pub(super) async fn answer(self, mut request: Request<Incoming>) -> Response<TunnelBody> {
        if request.uri().path().starts_with(OWN_PATHS) {
            return self.own(request.method(), request.uri().path());
        }
        let caller = request.headers_mut().remove(TUNNEL_CALLER).as_ref().and_then(key_of);
        let Some(key) = caller else {
            return self.serves.broker.handle(Ingress::Tunnel, request).await.map(free);
        };
        if let Some(limited) = self.serves.ring.remote(&key) {
            return Box::pin(self.limited(limited, request)).await;
        }
        request.extensions_mut().insert(CallerLabel(key.into()));
        self.serves.broker.handle(Ingress::Tunnel, request).await.map(free)
    }

    /// Answers a caller whose key has limits of ours.
    async fn limited(&self, key: Arc<KeyInUse>, mut request: Request<Incoming>) -> Response<TunnelBody> {
        let uri = request.uri().clone();
        match key.admit(Instant::now(), Timestamp::now()) {
            Ok(admitted) => {
                admitted.label(&mut request);
                // The relay refuses a key that is revoked, and cuts what runs with it.
                admitted.hold(self.serves.broker.handle(Ingress::Tunnel, request).await).map(Either::Left)
            }
            Err(over) => {
                let refused = KeyRefusal::Over(over).response(uri.path());
                refused.map(|body| Either::Right(Either::Left(body)))
            }
        }
    }

    fn own(&self, method: &Method, path: &str) -> Response<TunnelBody> {
        if path == PRESENCE_PATH && method == Method::GET {
            let (broker, settings) = (self.serves.broker.clone(), self.settings.clone());
            return presence::tell(broker, settings, self.session.clone())
                .map(|body| Either::Right(Either::Right(body)));
        }
        let status = if path == PRESENCE_PATH {
            StatusCode::METHOD_NOT_ALLOWED
        } else if path != MIGRATE_PATH {
            StatusCode::NOT_FOUND
        } else if method != Method::POST {
            StatusCode::METHOD_NOT_ALLOWED
        } else if self.has_moved() {
            StatusCode::OK
        } else {
            debug!(session = %self.session.id(), "the relay asks to move to a second session");
            match self.moves.try_send(self.session.id()) {
                Ok(()) => StatusCode::ACCEPTED,
                Err(_) => StatusCode::SERVICE_UNAVAILABLE,
            }
        };
        let mut response = Response::new(Either::Right(Either::Left(Full::default())));
        *response.status_mut() = status;
        response
    }
}

impl TunnelService {
    /// Tells whether another session is up in place of this one.
    fn has_moved(&self) -> bool {
        self.serving.borrow().as_ref().is_some_and(|serving| serving.id() != self.session.id())
    }
}

fn free(body: tunnel_broker::Body) -> TunnelBody {
    Either::Left(KeyedBody::free(body))
}

/// Returns the id of the caller's token, for the count of usage by key.
///
/// The header is a dictionary of strings (RFC 8941): `sub="…", token="…", scope="…"`.
fn key_of(caller: &HeaderValue) -> Option<String> {
    const MEMBER: &str = "token=\"";
    let text = caller.to_str().ok()?;
    let mut quoted = false;
    let mut from = None;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        if !quoted && text[at..].starts_with(MEMBER) && (at == 0 || text[..at].ends_with([' ', ','])) {
            from = Some(at + MEMBER.len());
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    let value = &text[from?..];
    let key = &value[..value.find('"')?];
    is_key_id(key).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_the_tokens_id_and_nothing_that_a_subject_says() {
        let key = |text: &str| key_of(&HeaderValue::from_str(text).unwrap());
        assert_eq!(key(r#"sub="alice", token="3fa9-7", scope="inference""#).as_deref(), Some("3fa9-7"));
        assert_eq!(key(r#"token="a.b_c:1""#).as_deref(), Some("a.b_c:1"));
        let longest = format!("token=\"{}~\"", "x".repeat(127));
        assert_eq!(key(&longest).map(|key| key.len()), Some(128), "the office takes such ids, too");
        let posing = r#"sub="x, token=\"root\"", token="mine""#;
        assert_eq!(key(posing).as_deref(), Some("mine"));
        let long = format!("token=\"{}\"", "x".repeat(129));
        for bad in [r#"sub="alice""#, r#"token="""#, r#"token="a b""#, r#"token="open"#, "", &long] {
            assert_eq!(key(bad), None, "{bad}");
        }
    }
}
