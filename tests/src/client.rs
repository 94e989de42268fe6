//! A caller, of HTTP/1.1 where nothing else is said, that sees each chunk with its time of arrival, and that can hang up whenever it likes.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet};

use crate::fake_backend::script::{self, Script};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Someone who asks at one address, with one set of credentials. Each call uses a connection of its own.
#[derive(Clone, Debug)]
pub struct Caller {
    addr: SocketAddr,
    headers: HeaderMap,
    prefix: String,
    version: Version,
}

impl Caller {
    /// A caller without credentials.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, headers: HeaderMap::new(), prefix: String::new(), version: Version::HTTP_11 }
    }

    /// Sends `Authorization: Bearer <token>` with each call.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sends this header with each call.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("tests use valid header names");
        self.headers.insert(name, HeaderValue::from_str(value).expect("tests use valid header values"));
        self
    }

    /// Speaks HTTP/2 from the first byte, without TLS.
    #[must_use]
    pub fn http2(self) -> Self {
        Self { version: Version::HTTP_2, ..self }
    }

    /// Puts this before each path.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Where it asks.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A GET.
    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    /// A POST, without a body until one is given.
    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    /// Any method.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let path = format!("{}{path}", self.prefix);
        Call {
            addr: self.addr,
            method,
            path,
            headers: self.headers.clone(),
            body: full(Bytes::new()),
            version: self.version,
        }
    }
}

/// One request that is being put together.
#[derive(Debug)]
pub struct Call {
    addr: SocketAddr,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Body,
    version: Version,
}

impl Call {
    /// Sets a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("tests use valid header names");
        self.headers.insert(name, HeaderValue::from_str(value).expect("tests use valid header values"));
        self
    }

    /// Tells the scripted backend what to do.
    #[must_use]
    pub fn script(self, script: &Script) -> Self {
        self.header(script::HEADER, &script.header())
    }

    /// Sends JSON.
    #[must_use]
    pub fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }

    /// Sends these bytes.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        self.body = full(bytes.into());
        self
    }

    /// Sends what the stream yields, chunked.
    #[must_use]
    pub fn stream(mut self, stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        use futures_util::StreamExt as _;

        self.body = StreamBody::new(stream.map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync();
        self
    }

    /// Connects, sends the request and waits for the response's head. Dropping the future hangs up.
    pub async fn send(self) -> Result<Reply> {
        let stream =
            TcpStream::connect(self.addr).await.with_context(|| format!("connecting to {}", self.addr))?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        let mut driver = JoinSet::new();
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        let target = |text: &str| text.parse().with_context(|| format!("request target {text}"));
        let (sent, response);
        // The error of a connection also reaches whoever reads the response.
        if self.version == Version::HTTP_2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
            driver.spawn(async move { drop(connection.await) });
            *request.uri_mut() = target(&format!("http://{}{}", self.addr, self.path))?;
            sent = Instant::now();
            response = sender.send_request(request).await;
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
            driver.spawn(async move { drop(connection.await) });
            *request.uri_mut() = target(&self.path)?;
            if !request.headers().contains_key(http::header::HOST) {
                request.headers_mut().insert(http::header::HOST, self.addr.to_string().parse()?);
            }
            sent = Instant::now();
            response = sender.send_request(request).await;
        }
        let response = response.context("no response")?;
        Ok(Reply { response, sent, head: Instant::now(), _driver: driver })
    }
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A piece of a response body, as it came.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// When it came.
    pub at: Instant,
    /// What came.
    pub bytes: Bytes,
}

/// How a response body ended, and what had come by then.
#[derive(Debug)]
pub struct Ending {
    /// All bytes that came.
    pub bytes: Vec<u8>,
    /// Why the body broke off; none when it ended as HTTP says.
    pub error: Option<hyper::Error>,
    /// When it ended.
    pub at: Instant,
}

impl Ending {
    /// The bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A response. Dropping it closes the connection.
#[derive(Debug)]
pub struct Reply {
    response: Response<Incoming>,
    sent: Instant,
    head: Instant,
    _driver: JoinSet<()>,
}

impl Reply {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// One header as text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Time from sending the request to the response's head.
    pub fn waited(&self) -> Duration {
        self.head - self.sent
    }

    /// The next piece of the body; none at its regular end.
    pub async fn chunk(&mut self) -> Result<Option<Chunk>, hyper::Error> {
        while let Some(frame) = self.response.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(Chunk { at: Instant::now(), bytes }));
            }
        }
        Ok(None)
    }

    /// Reads to the end, however that comes.
    pub async fn ending(mut self) -> Ending {
        let mut bytes = Vec::new();
        let error = loop {
            match self.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk.bytes),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        Ending { bytes, error, at: Instant::now() }
    }

    /// The whole body; fails if it broke off.
    pub async fn bytes(self) -> Result<Bytes> {
        Ok(self
            .response
            .into_body()
            .into_data_stream()
            .try_fold(Vec::new(), |mut whole, bytes| async move {
                whole.extend_from_slice(&bytes);
                Ok(whole)
            })
            .await?
            .into())
    }

    /// The whole body as text.
    pub async fn text(self) -> Result<String> {
        Ok(String::from_utf8(self.bytes().await?.into())?)
    }

    /// The whole body as JSON.
    pub async fn json(self) -> Result<Value> {
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&bytes)))
    }
}
