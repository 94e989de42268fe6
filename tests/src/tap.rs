//! A TCP proxy that records when the server's bytes passed, to compare with when they reached a caller.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const READ_BYTES: usize = 64 * 1024;

type Record = Arc<Mutex<Vec<(Instant, Bytes)>>>;

/// A running tap. Dropping it closes its connections.
#[derive(Debug)]
pub struct Tap {
    addr: SocketAddr,
    record: Record,
    alive: CancellationToken,
}

impl Tap {
    /// Starts a proxy to `target` on a free port of 127.0.0.1.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let tap =
            Self { addr: listener.local_addr()?, record: Record::default(), alive: CancellationToken::new() };
        let (record, alive, tasks) = (Arc::clone(&tap.record), tap.alive.clone(), TaskTracker::new());
        tasks.clone().spawn(async move {
            while let Some(Ok((near, _))) = alive.run_until_cancelled(listener.accept()).await {
                let (record, alive) = (Arc::clone(&record), alive.clone());
                tasks.spawn(async move {
                    // A broken connection is for its two ends to report.
                    drop(alive.run_until_cancelled(carry(near, target, &record)).await);
                });
            }
        });
        Ok(tap)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Forgets what it recorded.
    pub fn clear(&self) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// When each occurrence of `marker` passed from the server, in order. Calls at the same time are not told apart.
    pub fn passed(&self, marker: &[u8]) -> Vec<Instant> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        occurrences(record.iter().map(|(at, bytes)| (*at, bytes.as_ref())), marker)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.alive.cancel();
    }
}

/// Returns when the last byte of each `marker` came.
pub(crate) fn occurrences<'a>(
    pieces: impl Iterator<Item = (Instant, &'a [u8])>,
    marker: &[u8],
) -> Vec<Instant> {
    let (mut found, mut tail) = (Vec::new(), Vec::new());
    for (at, bytes) in pieces {
        tail.extend_from_slice(bytes);
        while let Some(start) = tail.windows(marker.len()).position(|window| window == marker) {
            found.push(at);
            tail.drain(..start + marker.len());
        }
        // Keep only what may be the start of a marker that the next piece completes.
        let keep = tail.len().min(marker.len() - 1);
        tail.drain(..tail.len() - keep);
    }
    found
}

async fn carry(mut near: TcpStream, target: SocketAddr, record: &Record) -> std::io::Result<()> {
    let mut far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = far.split();
    let down = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            let n = far_read.read_buf(&mut buffer).await?;
            if n == 0 {
                return near_write.shutdown().await;
            }
            let bytes = buffer.split().freeze();
            record.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), bytes.clone()));
            near_write.write_all(&bytes).await?;
        }
    };
    let up = async {
        tokio::io::copy(&mut near_read, &mut far_write).await?;
        far_write.shutdown().await
    };
    // A caller that hangs up is to be passed on at once: whichever way ends first ends both.
    tokio::select! { ended = down => ended, ended = up => ended }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_that_is_split_over_two_pieces_counts_when_it_is_whole() {
        let start = Instant::now();
        let at = |ms| start + std::time::Duration::from_millis(ms);
        let pieces =
            [(at(0), &b"data: a\n"[..]), (at(1), &b"\ndata: b\n\nda"[..]), (at(2), &b"ta: c\n\n"[..])];
        assert_eq!(occurrences(pieces.into_iter(), b"\n\n"), [at(1), at(1), at(2)]);
        assert_eq!(occurrences(pieces.into_iter(), b"data: "), [at(0), at(1), at(2)]);
    }
}
