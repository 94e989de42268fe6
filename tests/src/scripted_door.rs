//! An HTTP server that gives the same answer to whatever it is asked.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Most that is read of a request's head.
const MOST_HEAD: u64 = 64 << 10;

/// A running server. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct ScriptedDoor {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl ScriptedDoor {
    /// Starts one that gives this answer and closes; it is written as it is, head and all.
    pub async fn answering(answer: String) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                connections.spawn(async move { drop(serve(stream, answer).await) });
                // Those that have ended are not kept.
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, _tasks: tasks })
    }

    /// What `tunneld` says to another user's process.
    pub async fn refusing() -> Result<Self> {
        let body = serde_json::json!({
            "error": "this door is open to the user who runs tunneld only, and your connection is another user's \
                      or comes from a container; ask through a process of that user",
            "code": "not_same_user",
            "status_code": 403,
            "request_id": "0191e0ab-1c2d-7000-8000-0123456789ab",
            "timestamp": "2026-01-31T10:00:00Z",
        })
        .to_string();
        let version = env!("CARGO_PKG_VERSION");
        Self::answering(format!(
            "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\ntunneld-version: {version}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ))
        .await
    }

    /// What some web server says that knows nothing of us.
    pub async fn other_web_server() -> Result<Self> {
        let body = "<html><head><title>404 Not Found</title></head></html>\n";
        Self::answering(format!(
            "HTTP/1.1 404 Not Found\r\nserver: web\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        ))
        .await
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Its address as a base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

async fn serve(mut stream: TcpStream, answer: String) -> std::io::Result<()> {
    let mut request = Vec::new();
    let (read, mut write) = stream.split();
    let mut read = read.take(MOST_HEAD);
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if read.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    // A body that is still unread would turn the close into a reset, which drops the answer.
    let head = String::from_utf8_lossy(&request).into_owned();
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
    });
    let begin = head.find("\r\n\r\n").map_or(0, |at| at + 4);
    while request.len() - begin < length.unwrap_or(0) {
        if read.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    write.write_all(answer.as_bytes()).await?;
    write.shutdown().await
}
