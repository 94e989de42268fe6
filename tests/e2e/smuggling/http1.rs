//! HTTP/1.1 as bytes.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{FIRST, MOST_BYTES, QUIET, Told};

/// Sends these bytes as they are, and reads until the relay closes or is silent.
pub(super) async fn exchange(addr: SocketAddr, request: &[u8]) -> Result<Told> {
    let mut stream = TcpStream::connect(addr).await?;
    // The relay may have answered and closed before it has read all.
    drop(stream.write_all(request).await);
    let (mut bytes, mut closed) = (Vec::new(), false);
    while bytes.len() < MOST_BYTES {
        let patience = if bytes.is_empty() { FIRST } else { QUIET };
        match tokio::time::timeout(patience, stream.read_buf(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => {
                closed = true;
                break;
            }
            Ok(Ok(_)) => {}
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok(Told {
        statuses: statuses(&text),
        over: closed,
        whole: is_whole(head, body, request.starts_with(b"HEAD ")),
        body: plain(head, body),
        text,
    })
}

/// The status of each final response; no body of these tests has such a line.
fn statuses(text: &str) -> Vec<u16> {
    let heads = text.split("HTTP/1.").skip(1);
    heads.filter_map(|head| head.get(2..5)?.parse().ok()).filter(|status| *status >= 200).collect()
}

fn is_chunked(head: &str) -> bool {
    head.to_ascii_lowercase().contains("transfer-encoding: chunked")
}

/// Tells whether a body is complete by its own framing.
fn is_whole(head: &str, body: &str, is_head: bool) -> bool {
    if is_head {
        return body.is_empty();
    }
    if is_chunked(head) {
        return body.ends_with("0\r\n\r\n");
    }
    let lower = head.to_ascii_lowercase();
    let len = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    len.is_none_or(|len| body.len() == len || body.is_empty())
}

fn plain(head: &str, body: &str) -> String {
    if !is_chunked(head) {
        return body.to_owned();
    }
    let (mut rest, mut plain) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        let Some(chunk) = after.get(..size) else { break };
        plain.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    plain
}
