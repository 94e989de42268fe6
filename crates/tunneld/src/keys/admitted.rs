//! A request that runs with a key, from its admission to the last byte of its answer.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tunnel_broker::Tally;

use super::limits::Spent;
use super::ring::{BadKey, KeyInUse};

/// The right to run, which is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    key: Arc<KeyInUse>,
    tally: Tally,
    spent: Spent,
}

impl Admitted {
    pub(super) fn new(key: Arc<KeyInUse>) -> Self {
        Self { key, tally: Tally::default(), spent: Spent::default() }
    }

    /// Says on the request who sent it, what it may reach, and where its cost is counted.
    pub(crate) fn label<B>(&self, request: &mut Request<B>) {
        let extensions = request.extensions_mut();
        extensions.insert(self.key.label());
        if let Some(scope) = self.key.scope() {
            extensions.insert(scope);
        }
        if self.key.limiter().counts_tokens() {
            extensions.insert(self.tally.clone());
        }
    }

    /// Ends when the key does.
    pub(crate) fn ended(&self) -> WaitForCancellationFutureOwned {
        self.key.ended().cancelled_owned()
    }

    /// Why the key lets nobody in any more.
    pub(crate) fn why_ended(&self) -> BadKey {
        self.key.why_ended()
    }

    /// Holds the right until the answer is gone.
    pub(crate) fn hold<B>(self, response: Response<B>) -> Response<KeyedBody<B>> {
        let hold = Hold { ended: Box::pin(self.ended()), admitted: self };
        response.map(|body| KeyedBody { body: Some(body), hold: Some(Box::new(hold)) })
    }

    /// Charges what the answer has cost since the last time.
    fn charge(&mut self) {
        let tokens = self.tally.tokens();
        if self.spent.is_news(tokens) {
            self.key.limiter().charge(&mut self.spent, tokens, Instant::now());
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.charge();
        self.key.limiter().leave();
    }
}

/// An answer's body. With a key it ends early when that does: as a failed one, so that nobody takes it for whole.
#[derive(Debug)]
pub(crate) struct KeyedBody<B> {
    /// None once it was cut.
    body: Option<B>,
    /// After the body: what the request has cost is told when that is gone.
    hold: Option<Box<Hold>>,
}

#[derive(Debug)]
struct Hold {
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    admitted: Admitted,
}

/// Why an answer was cut.
#[derive(Debug, thiserror::Error)]
#[error("the key of the request was revoked, or its time is over")]
struct KeyEnded;

impl<B> KeyedBody<B> {
    /// A body of a request without a key.
    pub(crate) fn free(body: B) -> Self {
        Self { body: Some(body), hold: None }
    }
}

impl<B> Body for KeyedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Some(hold) = &mut this.hold
            && hold.ended.as_mut().poll(cx).is_ready()
        {
            // Closes the connection to the model server now, not when the caller has read the end.
            this.body = None;
            return Poll::Ready(Some(Err(Box::new(KeyEnded))));
        }
        let polled = Pin::new(body).poll_frame(cx).map_err(Into::into);
        if let Some(hold) = &mut this.hold
            && polled.is_ready()
        {
            hold.admitted.charge();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::num::NonZeroU32;

    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use jiff::Timestamp;
    use secrecy::ExposeSecret;
    use tunnel_api::{Key, KeyLimits, KeyReach};
    use tunnel_broker::CallerLabel;

    use super::*;
    use crate::keys::KeyRing;
    use crate::keys::token::fresh;
    use crate::store::StoredKey;

    /// A ring with one key that may run one request at once, the key, and what its callers show.
    fn ring() -> (KeyRing, StoredKey, String) {
        let (fresh, ring) = (fresh().unwrap(), KeyRing::default());
        let limits = KeyLimits { concurrent: NonZeroU32::new(1), ..KeyLimits::default() };
        let key = Key { id: fresh.id, reach: KeyReach::Local, limits, ..Key::default() };
        let stored = StoredKey { key, hash: Some(fresh.hash) };
        ring.replace(std::slice::from_ref(&stored), Instant::now());
        (ring, stored, fresh.token.expose_secret().to_owned())
    }

    fn admit(ring: &KeyRing, token: &str) -> Option<Admitted> {
        ring.find(token, Timestamp::now()).ok()?.admit(Instant::now(), Timestamp::now()).ok()
    }

    #[tokio::test]
    async fn place_is_held_until_the_answer_is_gone() {
        let (ring, stored, token) = ring();
        let admitted = admit(&ring, &token).unwrap();
        let mut request = Request::new(());
        admitted.label(&mut request);
        assert_eq!(request.extensions().get::<CallerLabel>().map(|label| &*label.0), Some(&*stored.key.id));
        let body = http_body_util::Full::<Bytes>::from("whole");
        let response = admitted.hold(Response::new(body));
        assert!(admit(&ring, &token).is_none());
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "whole");
        assert!(admit(&ring, &token).is_some());
    }

    #[tokio::test]
    async fn revoked_key_cuts_an_answer_that_has_not_ended() {
        let (ring, stored, token) = ring();
        let silent = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let answer = admit(&ring, &token).unwrap().hold(Response::new(silent)).into_body();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(answer.collect());
        tokio::task::yield_now().await;
        assert!(tasks.try_join_next().is_none());
        let revoked = Key { revoked_at: Some(Timestamp::now()), ..stored.key };
        ring.replace(&[StoredKey { key: revoked, ..stored }], Instant::now());
        assert!(tasks.join_next().await.unwrap().unwrap().unwrap_err().to_string().contains("revoked"));
    }
}
