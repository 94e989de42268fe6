//! HTTP/2 as frames.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::Result;
use e2e::h2_raw::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, block, frame,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{FIRST, MOST_BYTES, Told};

/// A frame that ends the connection.
const GOAWAY: u8 = 0x7;

/// The fields of a head, in order.
pub(super) type Fields = Vec<(&'static str, String)>;

/// What a caller sends on a connection.
pub(super) enum Piece {
    /// A block of fields on a stream, and whether it ends it.
    Fields(u32, Fields, bool),
    /// The same in frames of so many bytes.
    InShreds(usize, u32, Fields, bool),
    /// A part of a body, and whether it is the last.
    Data(u32, String, bool),
}

impl Piece {
    fn encode(&self, fill: impl Fn(&str) -> String) -> Vec<u8> {
        let encoded = |fields: &Fields| {
            let filled: Vec<_> = fields.iter().map(|(name, value)| (*name, fill(value))).collect();
            block(&filled.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>())
        };
        let end = |last: &bool| if *last { END_STREAM } else { 0 };
        match self {
            Self::Fields(stream, fields, last) => {
                frame(HEADERS, END_HEADERS | end(last), *stream, &encoded(fields))
            }
            Self::InShreds(n, stream, fields, last) => {
                let mut frames = frame(HEADERS, end(last), *stream, &[]);
                for shred in encoded(fields).chunks(*n) {
                    frames.extend(frame(CONTINUATION, 0, *stream, shred));
                }
                frames.extend(frame(CONTINUATION, END_HEADERS, *stream, &[]));
                frames
            }
            Self::Data(stream, text, last) => frame(DATA, end(last), *stream, fill(text).as_bytes()),
        }
    }

    fn stream(&self) -> u32 {
        match self {
            Self::Fields(stream, ..) | Self::InShreds(_, stream, ..) | Self::Data(stream, ..) => *stream,
        }
    }
}

/// Sends these pieces, and reads until each stream has ended, the connection has, or nothing comes any more.
pub(super) async fn exchange(
    addr: SocketAddr,
    pieces: &[Piece],
    fill: impl Fn(&str) -> String,
) -> Result<Told> {
    let mut stream = TcpStream::connect(addr).await?;
    let mut bytes = [h2_raw::PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    bytes.extend(pieces.iter().flat_map(|piece| piece.encode(&fill)));
    // The relay may have refused it all before it has read it.
    drop(stream.write_all(&bytes).await);
    let streams = pieces.iter().map(Piece::stream).collect();
    let mut reading = Reading { open: streams, ..Reading::default() };
    drop(tokio::time::timeout(FIRST, reading.read(&mut stream)).await);
    if reading.is_answered() {
        // What else would be said is said at once.
        reading.open.insert(u32::MAX);
        drop(tokio::time::timeout(AFTERWARDS, reading.read(&mut stream)).await);
        reading.open.remove(&u32::MAX);
    }
    Ok(reading.told())
}

/// How long a stream may still say something behind its end.
const AFTERWARDS: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Reading {
    open: BTreeSet<u32>,
    statuses: Vec<u16>,
    reset: bool,
    closed: bool,
    n_blocks: usize,
    body: Vec<u8>,
    trailers: Vec<u8>,
    frames: Vec<String>,
}

impl Reading {
    fn is_answered(&self) -> bool {
        self.open.is_empty() && !self.closed
    }

    async fn read(&mut self, stream: &mut TcpStream) {
        let mut n_bytes = 0;
        while !self.closed && !self.open.is_empty() && n_bytes < MOST_BYTES {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                self.closed = true;
                return;
            }
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; len];
            if stream.read_exact(&mut payload).await.is_err() {
                self.closed = true;
                return;
            }
            n_bytes += len;
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.frame(head[3], head[4], id, &payload);
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        self.frames.push(format!("{kind}/{flags} on {id}: {} bytes", payload.len()));
        match kind {
            HEADERS => match status(payload) {
                Some(status) => {
                    self.n_blocks += 1;
                    self.statuses.extend((status >= 200).then_some(status));
                }
                None => self.trailers.extend(payload),
            },
            DATA => self.body.extend(payload),
            RST_STREAM => {
                self.reset = true;
                self.open.remove(&id);
            }
            GOAWAY => self.closed = true,
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            self.open.remove(&id);
        }
    }

    fn told(self) -> Told {
        let body = String::from_utf8_lossy(&self.body).into_owned();
        Told {
            over: self.closed || self.open.is_empty(),
            whole: self.open.is_empty() && !self.reset && !self.closed && !self.statuses.is_empty(),
            // Trailers that are left may say anything, and are not expected.
            text: format!("{body}{:?} {:?} {:?}", self.trailers, self.statuses, self.frames),
            statuses: self.statuses,
            body: body + if self.trailers.is_empty() { "" } else { "(trailers)" },
        }
    }
}

/// Reads the status of a response's head, which comes first (RFC 7541 appendix A, B); none: they are trailers.
fn status(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [first @ 0x88..=0x8e, ..] => Some(INDEXED[usize::from(first - 0x88)]),
        [0x48 | 0x08 | 0x18, 3, text @ ..] => std::str::from_utf8(text.get(..3)?).ok()?.parse().ok(),
        [0x48 | 0x08 | 0x18, len, text @ ..] if len & 0x80 != 0 => {
            digits(text.get(..usize::from(len & 0x7f))?)
        }
        _ => None,
    }
}

/// Three digits in Huffman's code: five bits for 0, 1 and 2, six for the others.
fn digits(bytes: &[u8]) -> Option<u16> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut take = |n: usize| bits.by_ref().take(n).fold(0, |code, bit| code << 1 | bit);
        let digit = match take(5) {
            short @ 0..=2 => short,
            long => (long << 1 | take(1)).checked_sub(0b01_1001)? + 3,
        };
        number = number * 10 + digit;
    }
    Some(number)
}
