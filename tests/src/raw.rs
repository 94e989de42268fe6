//! Requests written by hand, for what no HTTP client would send.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longest wait for an answer to a request of a few lines.
const LIMIT: Duration = Duration::from_secs(10);
/// What is read of an answer.
const MOST_BYTES: u64 = 1 << 20;

/// Sends these bytes and returns what was answered until the other end closed; `Connection: close` is the caller's to send.
pub async fn raw(addr: SocketAddr, request: &[u8]) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        // A reset after the answer is an end too.
        drop(stream.take(MOST_BYTES).read_to_end(&mut answer).await);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(LIMIT, exchange).await.context("no end of the answer")?
}

/// Returns the status of an answer; none if there was no answer.
pub fn status_of(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}
