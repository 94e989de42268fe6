//! A model server that takes requests apart by hand and keeps each byte of them, for what an HTTP library would hide.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::MODEL;

/// A request with this header is kept, and answered as [`REPLY`] says; what has none is the daemon's own.
const CASE: &str = "x-case";
/// Which of the scripted answers a request gets. Default: a plain one.
const REPLY: &str = "x-reply";

/// A request as it came.
#[derive(Clone, Debug)]
pub struct RawRequest {
    /// Its case.
    pub case: String,
    /// The first line and the headers, byte for byte, without the empty line.
    pub head: String,
    /// The body, out of its chunks.
    pub body: Vec<u8>,
    /// What came behind the last chunk, a line each.
    pub trailers: String,
}

impl RawRequest {
    /// The request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The values of a header, in order.
    pub fn header(&self, name: &str) -> Vec<&str> {
        values(&self.head, name)
    }
}

/// A running one. Dropping it closes everything.
#[derive(Debug)]
pub struct RawBackend {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    replies: Vec<Vec<u8>>,
    seen: Mutex<Vec<RawRequest>>,
}

impl RawBackend {
    /// Starts one with these answers, byte for byte; the connection is closed after each.
    pub async fn start(replies: Vec<Vec<u8>>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { replies, seen: Mutex::default() });
        let mut tasks = JoinSet::new();
        let serving = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                connections.spawn(async move {
                    // Whoever asked may leave when it likes.
                    drop(shared.serve(stream).await);
                });
            }
        });
        Ok(Self { addr, shared, _tasks: tasks })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The requests of a case so far, also those whose case begins with this.
    pub fn seen(&self, case: &str) -> Vec<RawRequest> {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .filter(|request| request.case == case || request.case.starts_with(&format!("{case}-")))
            .cloned()
            .collect()
    }
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let mut buffer = Vec::new();
        loop {
            let Some((head, (body, trailers))) = read_request(&mut stream, &mut buffer).await? else {
                return Ok(());
            };
            let case = values(&head, CASE).first().map(|case| (*case).to_owned());
            let reply = values(&head, REPLY).first().and_then(|number| number.parse::<usize>().ok());
            let Some(case) = case else {
                stream.write_all(&own_answer(&head)).await?;
                continue;
            };
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(RawRequest {
                case,
                head,
                body,
                trailers,
            });
            match reply.and_then(|number| self.replies.get(number)) {
                Some(reply) => {
                    stream.write_all(reply).await?;
                    stream.shutdown().await?;
                    // What still comes is read, or the answer might be lost to a reset.
                    stream.read_to_end(&mut Vec::new()).await?;
                    return Ok(());
                }
                None => stream.write_all(&answer("{\"done\":true}")).await?,
            }
        }
    }
}

fn own_answer(head: &str) -> Vec<u8> {
    let path = head.split(' ').nth(1).unwrap_or_default();
    match path {
        "/api/tags" => answer(&format!("{{\"models\":[{{\"name\":\"{MODEL}\",\"model\":\"{MODEL}\"}}]}}")),
        "/api/version" => answer("{\"version\":\"0.12.0\"}"),
        _ => answer("{\"models\":[]}"),
    }
}

/// A whole answer with this JSON.
pub(crate) fn answer(body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}")
        .into_bytes()
}

fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// A body and its trailers.
pub(crate) type Content = (Vec<u8>, String);

/// Reads one request as strictly as can be: what it cannot make out fails; none at the end of the connection.
pub(crate) async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Result<Option<(String, Content)>> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer[..end].to_vec()).context("the head is no text")?;
    buffer.drain(..end + 4);
    let (lengths, codings) = (values(&head, "content-length"), values(&head, "transfer-encoding"));
    let content = match (&lengths[..], &codings[..]) {
        ([], []) => Content::default(),
        ([len], []) => (take(stream, buffer, len.parse()?).await?, String::new()),
        ([], ["chunked"]) => read_chunks(stream, buffer).await?,
        _ => bail!("a head that can be read in two ways: {head}"),
    };
    Ok(Some((head, content)))
}

async fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Content> {
    let mut body = Vec::new();
    loop {
        let size = read_line(stream, buffer).await?;
        let size = usize::from_str_radix(&size, 16).context("the size of a chunk")?;
        if size == 0 {
            let mut trailers = String::new();
            loop {
                match read_line(stream, buffer).await?.as_str() {
                    "" => return Ok((body, trailers)),
                    line => trailers.extend([line, "\r\n"]),
                }
            }
        }
        body.extend(take(stream, buffer, size).await?);
        take(stream, buffer, 2).await?;
    }
}

async fn read_line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<String> {
    loop {
        if let Some(at) = find(buffer, b"\r\n") {
            let line = String::from_utf8(buffer[..at].to_vec())?;
            buffer.drain(..at + 2);
            return Ok(line);
        }
        if stream.read_buf(buffer).await? == 0 {
            bail!("the request breaks off");
        }
    }
}

async fn take(stream: &mut TcpStream, buffer: &mut Vec<u8>, n: usize) -> Result<Vec<u8>> {
    while buffer.len() < n {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the request breaks off");
        }
    }
    Ok(buffer.drain(..n).collect())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
