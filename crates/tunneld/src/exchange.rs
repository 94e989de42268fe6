//! One request over a connection of its own, with a bounded answer.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tunnel_transport::Socket;

/// Why there is no answer: the connection broke, it was no HTTP, or the answer was too long.
pub(crate) type ExchangeError = Box<dyn std::error::Error + Send + Sync>;

/// Sends `request` and reads the whole answer, of at most `max_bytes`. Has no time limit of its own.
///
/// Nothing of the connection outlives the future: there is no task behind it.
pub(crate) async fn exchange<S, B>(
    stream: S,
    request: Request<B>,
    max_bytes: usize,
) -> Result<Response<Bytes>, ExchangeError>
where
    S: Socket,
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<ExchangeError>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, max_bytes).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        response = &mut exchange => response,
        // The server has closed; what was received is handed out all the same.
        _closed = connection => exchange.await,
    }
}
