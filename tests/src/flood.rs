//! Sends the same bytes again and again, as fast as they are taken, until the other end has had enough.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How a flood ended.
#[derive(Clone, Copy, Debug)]
pub struct CutOff {
    /// How long the other end took it.
    pub after: Duration,
    /// How many pieces it was sent; some were still on their way.
    pub pieces: u64,
}

/// Pieces that go out in one write.
const AT_ONCE: usize = 64;

/// Sends `first`, then what `piece` makes of its number, with `pause` between writes; reads and forgets what is
/// answered. Returns when the other end has closed; an error if it has not within `limit`.
pub async fn flood(
    stream: TcpStream,
    first: Vec<u8>,
    mut piece: impl FnMut(u32) -> Vec<u8>,
    pause: Option<Duration>,
    limit: Duration,
) -> Result<CutOff> {
    let begun = Instant::now();
    let (mut reading, mut writing) = stream.into_split();
    let mut pieces = 0;
    let write = async {
        if writing.write_all(&first).await.is_err() {
            return;
        }
        loop {
            let mut bytes = Vec::new();
            for _ in 0..if pause.is_some() { 1 } else { AT_ONCE } {
                bytes.extend(piece(u32::try_from(pieces).unwrap_or(u32::MAX)));
                pieces += 1;
            }
            if writing.write_all(&bytes).await.is_err() {
                return;
            }
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let read = async {
        let mut bin = vec![0; 64 * 1024];
        while matches!(reading.read(&mut bin).await, Ok(1..)) {}
    };
    let ended = tokio::time::timeout(limit, async {
        tokio::select! {
            () = write => {}
            () = read => {}
        }
    });
    if ended.await.is_err() {
        bail!("still open after {} s", limit.as_secs());
    }
    Ok(CutOff { after: begun.elapsed(), pieces })
}
