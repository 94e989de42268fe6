//! A daemon whose status never stands still: the real one, with changes of status put between its messages on `/ws`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_tungstenite::{accept_async, client_async, tungstenite::Message};

const WEBSOCKET: &[u8] = b"GET /ws";
/// Most that is read of a request's head.
const MOST_HEAD: usize = 64 << 10;

/// What changes, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unrest {
    changes: u32,
    per_s: u32,
}

/// A proxy before a daemon's control port. Dropping it closes everything.
#[derive(Debug)]
pub struct RestlessDaemon {
    addr: SocketAddr,
    unrest: watch::Sender<Unrest>,
    /// How many changes somebody has seen.
    seen: watch::Sender<u32>,
    _tasks: JoinSet<()>,
}

impl RestlessDaemon {
    /// Starts one before the daemon whose control port is there; at first it only passes on.
    pub async fn before(daemon: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (unrest, begin) = watch::channel(Unrest::default());
        let seen = watch::Sender::new(0);
        let count = seen.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (begin, count) = (begin.clone(), count.clone());
                // A broken connection is for its two ends to report.
                connections.spawn(async move { drop(serve(stream, daemon, begin, count).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { addr, unrest, seen, _tasks: tasks })
    }

    /// Its address as a base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Has the one who watches see so many changes of status, at this rate, from now on. The last one says that the
    /// tunnel is paused, and after it nothing changes any more.
    pub fn begin(&self, changes: u32, per_s: u32) {
        self.unrest.send_replace(Unrest { changes, per_s });
    }

    /// Waits until so many changes were sent.
    pub async fn seen(&self, changes: u32) {
        // Cannot fail: the sender is ours.
        drop(self.seen.subscribe().wait_for(|seen| *seen >= changes).await);
    }
}

async fn serve(
    stream: TcpStream,
    daemon: SocketAddr,
    begin: watch::Receiver<Unrest>,
    seen: watch::Sender<u32>,
) -> Result<()> {
    let mut first = [0; WEBSOCKET.len()];
    let n = stream.peek(&mut first).await?;
    if first[..n] == *WEBSOCKET {
        watched(stream, daemon, begin, seen).await
    } else {
        asked(stream, daemon).await
    }
}

/// Passes on one request and its answer; the daemon wants its own address in `Host`.
async fn asked(mut near: TcpStream, daemon: SocketAddr) -> Result<()> {
    let mut request = Vec::new();
    let end = loop {
        if let Some(at) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at;
        }
        if request.len() > MOST_HEAD || near.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8(request[..end].to_vec())?;
    let kept = head.lines().filter(|line| {
        let line = line.to_ascii_lowercase();
        !line.starts_with("host:") && !line.starts_with("connection:")
    });
    let kept: Vec<&str> = kept.collect();
    let mut far = TcpStream::connect(daemon).await?;
    let head = format!("{}\r\nHost: {daemon}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
    far.write_all(head.as_bytes()).await?;
    far.write_all(&request[end + 4..]).await?;
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = far.split();
    tokio::select! {
        ended = tokio::io::copy(&mut far_read, &mut near_write) => drop(ended?),
        ended = tokio::io::copy(&mut near_read, &mut far_write) => drop(ended?),
    }
    Ok(near.shutdown().await?)
}

/// Passes on the daemon's messages, and changes of its last status between them.
async fn watched(
    near: TcpStream,
    daemon: SocketAddr,
    mut begin: watch::Receiver<Unrest>,
    seen: watch::Sender<u32>,
) -> Result<()> {
    let mut near = accept_async(near).await?;
    let far = TcpStream::connect(daemon).await?;
    let (mut far, _) = client_async(format!("ws://{daemon}/ws"), far).await?;
    let mut status = Value::Null;
    // Nothing is due until it begins.
    let mut due = tokio::time::interval(Duration::from_secs(3600));
    let (mut left, mut begun) = (0, false);
    loop {
        tokio::select! {
            message = far.next() => {
                let message = message.context("the daemon has closed")??;
                if let Message::Text(text) = &message {
                    let told: Value = serde_json::from_str(text)?;
                    if told["type"] == "status_update" {
                        if begun {
                            // What it says itself would be one change more.
                            continue;
                        }
                        status = told;
                    }
                }
                near.send(message).await?;
            }
            message = near.next() => far.send(message.context("the client has closed")??).await?,
            changed = begin.changed() => {
                changed?;
                let unrest = *begin.borrow_and_update();
                (left, begun) = (unrest.changes, true);
                due = tokio::time::interval(Duration::from_secs(1) / unrest.per_s.max(1));
                // One that comes late is made up for: the count is what is asked for.
                due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
            }
            _ = due.tick(), if left > 0 && !status.is_null() => {
                left -= 1;
                near.send(Message::text(change(&status, left).to_string())).await?;
                seen.send_modify(|seen| *seen += 1);
            }
        }
    }
}

/// The status with another round trip and, every tenth time, another state; the last one is a tunnel that was paused.
fn change(status: &Value, left: u32) -> Value {
    let mut changed = status.clone();
    if left > 0 {
        let tunnel = &mut changed["data"]["tunnel"];
        tunnel["rtt_ms"] = json!(f64::from(left) / 7.0);
        if (left / 10).is_multiple_of(2) {
            tunnel["state"] = json!("connecting");
        }
        for connection in
            changed["data"]["connections"].as_object_mut().into_iter().flat_map(|map| map.values_mut())
        {
            connection["latency"] = json!(f64::from(left) / 3.0);
        }
    } else {
        let tunnel = &mut changed["data"]["tunnel"];
        tunnel["target"] = json!("down");
        tunnel["state"] = json!("disconnected");
    }
    changed
}
