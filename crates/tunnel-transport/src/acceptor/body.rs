//! One request and its answer on an HTTP/2 stream.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::future::{Either, select};
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderName};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinSet;

use super::SendError;
use crate::{BoxError, settings};

/// The body of an answer. Each chunk is handed on as it came; dropping it resets the stream.
#[derive(Debug)]
pub struct ResponseBody {
    stream: RecvStream,
    data_done: bool,
    /// The rest of the request's body, where it is still being sent.
    _upload: JoinSet<()>,
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The device reset this stream: what it had to say cannot be had.
    #[error("the device broke the answer off")]
    Reset(#[source] h2::Error),
    /// The session ended.
    #[error("the session was lost")]
    Lost(#[source] h2::Error),
}

/// Sends `request` and waits for the head of its answer.
pub(super) async fn exchange<B>(
    http2: &mut SendRequest<Bytes>,
    request: Request<B>,
) -> Result<Response<ResponseBody>, SendError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (head, mut body) = request.into_parts();
    let first = if body.is_end_stream() { Some(None) } else { first_frame(&mut body).await };
    if let Some(Some(Err(BodyFailed))) = first {
        return Err(SendError::Reset(Reason::CANCEL.into()));
    }
    let bodyless = matches!(first, Some(None));
    let (answer, mut stream) =
        http2.send_request(Request::from_parts(head, ()), bodyless).map_err(SendError::of)?;
    let mut upload = JoinSet::new();
    let answer = match first {
        Some(None) => answer.await,
        // Most bodies are one small piece. h2 keeps it should the window be shut.
        Some(Some(Ok(frame))) if is_small_data(&frame) && body.is_end_stream() => {
            let data = frame.into_data().unwrap_or_default();
            // Where the stream is over already, the answer tells why.
            let _over = stream.send_data(data, true);
            answer.await
        }
        first => match select(answer, Box::pin(send_body(stream, first.flatten(), body))).await {
            Either::Left((answer, sending)) => {
                upload.spawn(sending);
                answer
            }
            Either::Right(((), answer)) => answer.await,
        },
    };
    Ok(answer.map_err(SendError::of)?.map(|stream| ResponseBody {
        stream,
        data_done: false,
        _upload: upload,
    }))
}

/// Why a body failed is known to whoever made it.
type NextFrame = Result<Frame<Bytes>, BodyFailed>;

struct BodyFailed;

/// Takes the first frame of a body if it is there already; the inner `None` is the end.
///
/// A small body mostly came with its head, and so both leave in one write.
async fn first_frame<B>(body: &mut B) -> Option<Option<NextFrame>>
where
    B: Body<Data = Bytes> + Unpin,
{
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Some(frame.map(|frame| frame.map_err(|_| BodyFailed)))),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn is_small_data(frame: &Frame<Bytes>) -> bool {
    frame.data_ref().is_some_and(|data| data.len() <= settings::FRAME as usize)
}

/// Sends a body as fast as the stream's window lets it, or resets the stream where the body fails.
async fn send_body<B>(mut stream: SendStream<Bytes>, mut first: Option<NextFrame>, body: B)
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    loop {
        let frame = poll_fn(|cx| {
            // A stream that the device has reset wants no more.
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(None));
            }
            if let Some(first) = first.take() {
                return Poll::Ready(first.map(Some).map_err(Some));
            }
            let frame = ready!(body.as_mut().poll_frame(cx)).transpose();
            Poll::Ready(frame.map_err(|_| Some(BodyFailed)))
        });
        let frame = match frame.await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(None) => return,
            Err(Some(BodyFailed)) => return stream.send_reset(Reason::CANCEL),
        };
        match frame.into_data().map_err(Frame::into_trailers) {
            Ok(data) => {
                // The end goes with the last piece: a frame less.
                let last = body.is_end_stream();
                if send_data(&mut stream, data, last).await.is_err() || last {
                    return;
                }
            }
            Err(Ok(trailers)) => {
                if stream.send_trailers(passable(trailers)).is_err() {
                    // Without an end the desktop would wait for one.
                    stream.send_reset(Reason::CANCEL);
                }
                return;
            }
            Err(Err(_unknown)) => {}
        }
    }
    let _gone = stream.send_data(Bytes::new(), true);
}

/// Leaves out what must not come in trailers (RFC 9110 §6.5.1): what frames or routes a message or says who sent it. A
/// reader that took it for a header would take the request for another one, and HTTP/2 refuses some of it.
fn passable(mut trailers: HeaderMap) -> HeaderMap {
    const FORBIDDEN: [HeaderName; 18] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::CONTENT_LENGTH,
        header::CONTENT_ENCODING,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::HOST,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        header::EXPECT,
        header::FORWARDED,
        HeaderName::from_static("tunnel-caller"),
    ];
    for name in FORBIDDEN {
        trailers.remove(name);
    }
    trailers
}

async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), h2::Error> {
    while data.has_remaining() {
        stream.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = match capacity {
            Some(room) => room?,
            None => return Err(Reason::CANCEL.into()),
        };
        let chunk = data.split_to(room.min(data.len()));
        if !chunk.is_empty() {
            let end = last && data.is_empty();
            stream.send_data(chunk, end)?;
            if end {
                return Ok(());
            }
        }
    }
    if last { stream.send_data(data, true) } else { Ok(()) }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if !this.data_done {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    // An error means that the stream is over, which the next poll tells.
                    let _over = this.stream.flow_control().release_capacity(bytes.len());
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                // The device had what it wanted of the request and said all it had to say.
                Some(Err(error))
                    if error.is_remote() && error.reason() == Some(Reason::NO_ERROR) && error.is_reset() =>
                {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::of(error)))),
                None => this.data_done = true,
            }
        }
        match ready!(this.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(BodyError::of(error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl BodyError {
    fn of(error: h2::Error) -> Self {
        if error.is_reset() { Self::Reset(error) } else { Self::Lost(error) }
    }
}
