//! One request on one connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::conn::Conn;
use crate::dialect::ProbeError;
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
    /// The caller stopped sending its body.
    UploadStalled,
    /// The caller's body failed: mostly the caller has gone.
    UploadFailed,
}

/// Sends a request and waits for the response's headers.
///
/// `first_byte` counts from the last progress of the upload. Dropping the future leaves the connection in
/// mid-exchange: it must then be dropped too.
pub(crate) async fn exchange(
    conn: &mut Conn,
    request: Request<Upload>,
    watch: Option<&UploadWatch>,
    first_byte: Duration,
) -> Result<Response<Incoming>, ExchangeError> {
    let sent = (Upstate::Sent, Instant::now());
    let mut response = pin!(conn.send(request));
    poll_fn(|cx| {
        if let Poll::Ready(result) = conn.poll_while(cx, |cx| response.as_mut().poll(cx)) {
            return Poll::Ready(result.map_err(|e| classify(&e)));
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

/// The limits of a small question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
}

/// Gets a small document from a backend: for probes.
pub(crate) async fn get(
    upstream: &Upstream,
    path: &'static str,
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
    path: &'static str,
    limits: &Limits,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let strange = || ProbeError::Strange { path, server: "an HTTP server" };
    let silent = || ProbeError::Silent { path, after: limits.answer };
    let target = upstream.origin.target(&http::uri::PathAndQuery::from_static(path)).ok_or_else(strange)?;
    let mut request = Request::new(Upload::Empty);
    *request.uri_mut() = target.into();
    request.headers_mut().insert(HOST, upstream.origin.authority.clone());
    let answer = async {
        let response = exchange(&mut conn, request, None, limits.answer).await.map_err(|e| match e {
            ExchangeError::Silent => silent(),
            ExchangeError::NotHttp => strange(),
            ExchangeError::Lost | ExchangeError::UploadStalled | ExchangeError::UploadFailed => {
                ProbeError::Broken(path)
            }
        })?;
        let (head, body) = response.into_parts();
        let body = collect(&mut conn, body).await.map_err(|error| match error {
            CollectError::Broke => ProbeError::Broken(path),
            CollectError::TooMuch => ProbeError::TooMuch(path),
        })?;
        Ok((head.status, body))
    };
    let answer = tokio::time::timeout(limits.answer, answer).await.unwrap_or(Err(silent()))?;
    // Whether there are too many is for the sweep to see.
    upstream.pool.put(conn, usize::MAX);
    Ok(answer)
}

/// Why a small document could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CollectError {
    Broke,
    /// It is larger than any list of models, or would be once it is taken apart.
    TooMuch,
}

/// Reads a whole body: a small document.
pub(crate) async fn collect(conn: &mut Conn, mut body: Incoming) -> Result<Bytes, CollectError> {
    const LARGEST: usize = 8 << 20;
    let mut all = BytesMut::new();
    let mut parts = Parts::default();
    loop {
        let frame = poll_fn(|cx| conn.poll_while(cx, |cx| pin!(&mut body).poll_frame(cx))).await;
        match frame {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if all.len() + data.len() > LARGEST || !parts.count(&data) {
                    return Err(CollectError::TooMuch);
                }
                all.extend_from_slice(&data);
            }
            Some(Err(_)) => return Err(CollectError::Broke),
            None => return Ok(all.freeze()),
        }
    }
}

/// Counts what a JSON text is made of, before it is taken apart: eight bytes `{"a":0},` become an object of half a
/// kilobyte, and a backend could so make a gigabyte of a few megabytes.
#[derive(Debug, Default)]
struct Parts {
    n_objects: usize,
    n_values: usize,
}

impl Parts {
    /// A list of a thousand models, each with all its details, has a few thousand.
    const MOST_OBJECTS: usize = 30_000;
    const MOST_VALUES: usize = 400_000;

    /// Adds a piece of the text; false when there are too many. Those within strings count, too: it is a bound.
    fn count(&mut self, piece: &[u8]) -> bool {
        self.n_objects += memchr::memchr_iter(b'{', piece).count();
        self.n_values += memchr::memchr2_iter(b',', b'[', piece).count();
        self.n_objects <= Self::MOST_OBJECTS && self.n_values <= Self::MOST_VALUES
    }
}
