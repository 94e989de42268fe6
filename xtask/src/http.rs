//! As much of an HTTP client as the demo needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};

/// Longest silence of a server: a model loads, and two cores are slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// A response whose head has been read.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    body: Body,
}

impl Response {
    /// Returns the rest of the body.
    pub(crate) fn text(&mut self) -> anyhow::Result<String> {
        let mut text = String::new();
        self.body.read_to_string(&mut text).context("reading the answer")?;
        Ok(text)
    }

    /// Returns the body's lines as they come.
    pub(crate) fn lines(self) -> impl Iterator<Item = io::Result<String>> {
        BufReader::new(self.body).lines()
    }
}

pub(crate) fn get(addr: SocketAddr, path: &str, token: Option<&str>) -> anyhow::Result<Response> {
    send(addr, "GET", path, token, "")
}

pub(crate) fn post(
    addr: SocketAddr,
    path: &str,
    token: Option<&str>,
    json: &str,
) -> anyhow::Result<Response> {
    send(addr, "POST", path, token, json)
}

fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    json: &str,
) -> anyhow::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))
        .with_context(|| format!("connecting to {addr}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let authorization = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{authorization}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{json}",
        json.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status =
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("not an HTTP answer")?;
    let mut left = Left::UntilClose;
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the answer broke off");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            left = Left::Bytes(value.trim().parse()?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            left = Left::Chunk(0);
        }
    }
    Ok(Response { status, body: Body { reader, left } })
}

#[derive(Debug)]
struct Body {
    reader: BufReader<TcpStream>,
    left: Left,
}

#[derive(Debug, Clone, Copy)]
enum Left {
    Bytes(u64),
    /// What is left of the present chunk.
    Chunk(u64),
    UntilClose,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = match self.left {
            Left::UntilClose => return self.reader.read(buffer),
            Left::Bytes(left) => left,
            Left::Chunk(0) => {
                let size = self.next_chunk()?;
                if size == 0 {
                    self.left = Left::Bytes(0);
                    return Ok(0);
                }
                size
            }
            Left::Chunk(left) => left,
        };
        if left == 0 {
            return Ok(0);
        }
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self.reader.read(&mut buffer[..room])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = left - n as u64;
        self.left = match self.left {
            Left::Chunk(_) => Left::Chunk(left),
            Left::Bytes(_) | Left::UntilClose => Left::Bytes(left),
        };
        if matches!(self.left, Left::Chunk(0)) {
            self.reader.read_line(&mut String::new())?;
        }
        Ok(n)
    }
}

impl Body {
    fn next_chunk(&mut self) -> io::Result<u64> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let digits = line.trim_end().split(';').next().unwrap_or_default();
        u64::from_str_radix(digits, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "malformed chunk"))
    }
}

/// Finds a port that nobody listens on, on either loopback address.
pub(crate) fn free_addr() -> anyhow::Result<SocketAddr> {
    for _ in 0..20 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
        let addr = listener.local_addr()?;
        drop(listener);
        if is_free(addr.port()) {
            return Ok(addr);
        }
    }
    anyhow::bail!("found no free port")
}

/// Whether nobody listens on `port` of loopback.
pub(crate) fn is_free(port: u16) -> bool {
    let taken = |addr: &str| match TcpListener::bind((addr, port)) {
        Ok(_) => false,
        // A machine without IPv6 has nobody there.
        Err(error) => error.kind() == io::ErrorKind::AddrInUse,
    };
    !taken("127.0.0.1") && !taken("::1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(wire: &'static [u8]) -> Response {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The whole request comes first: closing with bytes unread would reset the connection.
            for line in BufReader::new(&stream).lines() {
                if line.unwrap().is_empty() {
                    break;
                }
            }
            stream.write_all(wire).unwrap();
        });
        let response = get(addr, "/", None).unwrap();
        server.join().unwrap();
        response
    }

    #[test]
    fn chunks_are_put_together() {
        let mut response =
            answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n");
        assert_eq!((response.status, response.text().unwrap().as_str()), (200, "hello world"));
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        let mut response = answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nhello");
        assert_eq!(response.status, 404);
        assert!(response.text().is_err());
    }
}
