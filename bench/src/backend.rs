//! The scripted model server behind everything that is measured: it speaks just enough of OpenAI's API, and a
//! field `bench` in the request says what to answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::http1::Reader;

/// The only model that it has.
pub(crate) const MODEL: &str = "bench";

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    /// A small JSON answer.
    Small,
    /// Server-sent events, each written on its own; an interval of zero is "as fast as it goes".
    Stream { tokens: u64, interval: Duration },
    /// This many bytes of no meaning.
    Download { bytes: u64 },
    /// Takes the body and says how long it was.
    Upload { bytes: u64 },
}

impl Script {
    /// Returns the body of the request that asks for this; an upload's filling is not in it, see
    /// [`Script::filling`].
    pub(crate) fn body(self) -> String {
        let script = match self {
            Self::Small => "\"bench\":\"small\"".to_owned(),
            Self::Stream { tokens, interval } => {
                format!(
                    "\"stream\":true,\"bench\":\"stream\",\"tokens\":{tokens},\"interval_us\":{}",
                    interval.as_micros()
                )
            }
            Self::Download { bytes } => format!("\"bench\":\"download\",\"bytes\":{bytes}"),
            Self::Upload { bytes } => {
                return format!(
                    "{{\"model\":\"{MODEL}\",\"bench\":\"upload\",\"bytes\":{bytes},\"filling\":\""
                );
            }
        };
        format!("{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],{script}}}")
    }

    /// Returns how many bytes of filling follow [`Script::body`]; the body ends with `"}`.
    pub(crate) fn filling(self) -> u64 {
        match self {
            Self::Upload { bytes } => bytes,
            Self::Small | Self::Stream { .. } | Self::Download { .. } => 0,
        }
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let body = String::from_utf8_lossy(body);
        let number = |key: &str| -> Option<u64> {
            let at = body.find(key)? + key.len();
            let digits: String = body[at..].chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        };
        let key = "\"bench\":\"";
        let at = body.find(key)? + key.len();
        match body[at..].split('"').next()? {
            "small" => Some(Self::Small),
            "stream" => Some(Self::Stream {
                tokens: number("\"tokens\":")?,
                interval: Duration::from_micros(number("\"interval_us\":")?),
            }),
            "download" => Some(Self::Download { bytes: number("\"bytes\":")? }),
            "upload" => Some(Self::Upload { bytes: number("\"bytes\":")? }),
            _ => None,
        }
    }
}

/// Serves until the process ends, on the present thread.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A caller that goes away in the middle is what some measures do; there is nobody to tell.
        connections.spawn(async move { drop(connection(stream).await) });
    }
}

pub(crate) fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    // Measures open a thousand connections at once.
    socket.listen(4096)
}

async fn connection(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut reader = Reader::new();
    let (mut begin, mut length) = (Vec::with_capacity(1024), 0u64);
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let progress = reader
                .read(rest, |part| {
                    length += part.len() as u64;
                    let room = 1024usize.saturating_sub(begin.len());
                    begin.extend_from_slice(&part[..part.len().min(room)]);
                })
                .map_err(io::Error::other)?;
            rest = &rest[progress.used..];
            if progress.complete {
                answer(&mut stream, reader.head(), &begin, length).await?;
                reader.reset();
                begin.clear();
                length = 0;
            }
        }
    }
}

async fn answer(stream: &mut TcpStream, head: &[u8], begin: &[u8], length: u64) -> io::Result<()> {
    if head.starts_with(b"GET /v1/models ") || head.starts_with(b"GET /v1/models?") {
        let models = format!(
            "{{\"object\":\"list\",\"data\":[{{\"id\":\"{MODEL}\",\"object\":\"model\",\"created\":1,\"owned_by\":\"bench\"}}]}}"
        );
        return sized(stream, "200 OK", &models).await;
    }
    if head.starts_with(b"GET /health") {
        return sized(stream, "200 OK", "{\"status\":\"ok\"}").await;
    }
    if !head.starts_with(b"POST /v1/chat/completions ") {
        return sized(stream, "404 Not Found", "{\"error\":{\"message\":\"no such path\"}}").await;
    }
    match Script::parse(begin) {
        None => sized(stream, "400 Bad Request", "{\"error\":{\"message\":\"no such script\"}}").await,
        Some(Script::Small) => stream.write_all(SMALL.as_bytes()).await,
        Some(Script::Upload { .. }) => sized(stream, "200 OK", &format!("{{\"received\":{length}}}")).await,
        Some(Script::Download { bytes }) => download(stream, bytes).await,
        Some(Script::Stream { tokens, interval }) => tokens_out(stream, tokens, interval).await,
    }
}

const SMALL: &str = concat!(
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 188\r\n\r\n",
    "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"bench\",\"choices\":",
    "[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"A short answer.\"}}]    }",
);

async fn sized(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await
}

async fn download(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {bytes}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let block = vec![b'd'; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        // Cannot truncate: at most the block's length.
        let part = left.min(block.len() as u64) as usize;
        stream.write_all(&block[..part]).await?;
        left -= part as u64;
    }
    Ok(())
}

async fn tokens_out(stream: &mut TcpStream, tokens: u64, interval: Duration) -> io::Result<()> {
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await?;
    let start = Instant::now();
    for n in 0..tokens {
        if !interval.is_zero() {
            tokio::time::sleep_until(start + interval * u32::try_from(n).unwrap_or(u32::MAX)).await;
        }
        // The time rides along: the one who reads it on the same machine knows how long it took.
        let event = format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" tok\"}}}}],\"sent_ns\":{}}}\n\n",
            clock::now_ns()
        );
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        stream.write_all(chunk.as_bytes()).await?;
    }
    let end = "data: [DONE]\n\n";
    stream.write_all(format!("{:x}\r\n{end}\r\n0\r\n\r\n", end.len()).as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_survives_its_request_body() {
        for script in [
            Script::Small,
            Script::Stream { tokens: 7, interval: Duration::from_micros(1500) },
            Script::Download { bytes: 1 << 30 },
            Script::Upload { bytes: 99 },
        ] {
            assert_eq!(Script::parse(script.body().as_bytes()), Some(script));
        }
    }

    #[test]
    fn the_small_answer_has_the_length_that_it_states() {
        let (_, body) = SMALL.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.len(), 188);
    }
}
