//! One request on one connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::conn::Conn;
use crate::dialect::ProbeError;
use crate::doubt::Doubt;
use crate::profile::Text;
use crate::upload::{Upload, UploadWatch, Upstate};
use crate::upstream::Upstream;

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeError {
    /// The connection ended before the response's headers were complete.
    Lost,
    /// What came is not HTTP.
    NotHttp,
    /// The backend has the request and says nothing.
    Silent,
    /// Nor does it answer a probe, and there is another backend to go to.
    Hangs,
    /// The caller stopped sending its body.
    UploadStalled,
    /// The caller's body failed: mostly the caller has gone.
    UploadFailed,
}

/// Sends a request and waits for the response's headers.
///
/// `first_byte` counts from the last progress of the upload; with a `doubt` the wait may end sooner. Dropping the future leaves the connection in
/// mid-exchange: it must then be dropped too.
pub(crate) async fn exchange(
    conn: &mut Conn,
    request: Request<Upload>,
    watch: Option<&UploadWatch>,
    first_byte: Duration,
    mut doubt: Option<Doubt<'_>>,
) -> Result<Response<Incoming>, ExchangeError> {
    let sent = (Upstate::Sent, Instant::now());
    let mut response = pin!(conn.send(request));
    poll_fn(|cx| {
        if let Poll::Ready(result) = conn.poll_while(cx, |cx| response.as_mut().poll(cx)) {
            return Poll::Ready(result.map_err(|e| classify(&e)));
        }
        if let Some(doubt) = &mut doubt {
            if doubt.poll(sent.1, conn, cx).is_ready() {
                return Poll::Ready(Err(ExchangeError::Hangs));
            }
            if doubt.comes_before(first_byte) {
                return Poll::Pending;
            }
        }
        let (state, since) = watch.map_or(sent, UploadWatch::state);
        if !conn.poll_past(since + first_byte) {
            return Poll::Pending;
        }
        Poll::Ready(Err(match state {
            Upstate::WaitsForCaller => ExchangeError::UploadStalled,
            Upstate::WaitsForBackend | Upstate::Sent => ExchangeError::Silent,
        }))
    })
    .await
}

fn classify(error: &hyper::Error) -> ExchangeError {
    if error.is_user() {
        ExchangeError::UploadFailed
    } else if error.is_parse() {
        ExchangeError::NotHttp
    } else {
        ExchangeError::Lost
    }
}

/// Longest list of models that is read.
const LARGEST: usize = 8 << 20;

/// The limits of a small question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
}

/// Gets a small document from a backend: for probes.
pub(crate) async fn get(
    upstream: &Upstream,
    path: &Text,
    limits: &Limits,
) -> Result<(StatusCode, Bytes), ProbeError> {
    if let Some(conn) = upstream.pool.take() {
        match get_on(conn, upstream, path, limits).await {
            // It was closed while it was idle, and that was not noticed yet.
            Err(ProbeError::Broken(_)) => {}
            answer => return answer,
        }
    }
    let conn = upstream.connect(limits.connect).await?;
    get_on(conn, upstream, path, limits).await
}

async fn get_on(
    mut conn: Conn,
    upstream: &Upstream,
    path: &Text,
    limits: &Limits,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let strange = || ProbeError::Strange { path: path.clone(), server: Text::Borrowed("an HTTP server") };
    let silent = || ProbeError::Silent { path: path.clone(), after: limits.answer };
    let target = PathAndQuery::try_from(&**path).map_err(|_| strange())?;
    let target = upstream.origin.target(&target).ok_or_else(strange)?;
    let mut request = Request::new(Upload::Empty);
    *request.uri_mut() = target.into();
    request.headers_mut().insert(HOST, upstream.origin.authority.clone());
    if let Some(authorization) = upstream.authorization()? {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    let answer = async {
        let response =
            exchange(&mut conn, request, None, limits.answer, None).await.map_err(|e| match e {
                ExchangeError::Silent | ExchangeError::Hangs => silent(),
                ExchangeError::NotHttp => strange(),
                ExchangeError::Lost | ExchangeError::UploadStalled | ExchangeError::UploadFailed => {
                    ProbeError::Broken(path.clone())
                }
            })?;
        let (head, body) = response.into_parts();
        let body = document(&mut conn, body).await.map_err(|error| match error {
            CollectError::Broke => ProbeError::Broken(path.clone()),
            CollectError::TooMuch => ProbeError::TooMuch(path.clone()),
        })?;
        Ok((head.status, body))
    };
    let answer = tokio::time::timeout(limits.answer, answer).await.unwrap_or(Err(silent()))?;
    // Whether there are too many is for the sweep to see.
    upstream.pool.put(conn, usize::MAX);
    Ok(answer)
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CollectError {
    Broke,
    /// It is larger than it may be, or would be once it is taken apart.
    TooMuch,
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn collect(
    conn: &mut Conn,
    mut body: Incoming,
    limit: usize,
) -> Result<Bytes, CollectError> {
    let mut all = BytesMut::new();
    loop {
        let frame = poll_fn(|cx| conn.poll_while(cx, |cx| pin!(&mut body).poll_frame(cx))).await;
        match frame {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if all.len() + data.len() > limit {
                    return Err(CollectError::TooMuch);
                }
                all.extend_from_slice(&data);
            }
            Some(Err(_)) => return Err(CollectError::Broke),
            None => return Ok(all.freeze()),
        }
    }
}

/// Reads a small JSON document, such as a list of models.
pub(crate) async fn document(conn: &mut Conn, body: Incoming) -> Result<Bytes, CollectError> {
    let text = collect(conn, body, LARGEST).await?;
    if is_small(&text) { Ok(text) } else { Err(CollectError::TooMuch) }
}

/// Tells whether a JSON text stays small when it is taken apart: eight bytes `{"a":0},` become an object of half a
/// kilobyte, and a backend could so make a gigabyte of a few megabytes.
fn is_small(text: &[u8]) -> bool {
    // A list of a thousand models, each with all its details, has a few thousand.
    const MOST_OBJECTS: usize = 30_000;
    const MOST_VALUES: usize = 400_000;
    // Those within strings count, too: it is a bound.
    memchr::memchr_iter(b'{', text).count() <= MOST_OBJECTS
        && memchr::memchr2_iter(b',', b'[', text).count() <= MOST_VALUES
}
