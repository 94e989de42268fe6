//! An incremental reader of HTTP/1.1 messages: as little work as possible, since callers and backend share
//! the machine with what is measured.

use std::ops::Range;

/// Longest head that is taken, in bytes: what a proxy adds to a small answer fits many times.
const HEAD_LIMIT: usize = 16 * 1024;

/// Why a message could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    Head,
    HeadTooLong,
    Chunk,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Head => "malformed head of an HTTP message",
            Self::HeadTooLong => "head of an HTTP message is too long",
            Self::Chunk => "malformed chunk",
        })
    }
}

impl std::error::Error for Malformed {}

/// Reads one message after another from the bytes of a connection.
#[derive(Debug)]
pub(crate) struct Reader {
    head: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// A body of known length: bytes that are still to come.
    Sized(u64),
    ChunkSize {
        size: u64,
        in_extension: bool,
    },
    ChunkData(u64),
    ChunkEnd,
    /// The lines after the last chunk; how many bytes the present line has.
    Trailer(usize),
    /// A response without a length: it ends with the connection.
    UntilClose,
}

/// What [`Reader::read`] did with its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that were used up; the rest belongs to the next message.
    pub(crate) used: usize,
    /// Whether the message is complete.
    pub(crate) complete: bool,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { head: Vec::with_capacity(512), state: State::Head }
    }

    /// Whether no byte of a message has been seen since the last complete one.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.state == State::Head && self.head.is_empty()
    }

    /// Returns the head of the message that is being read or was read last, without its empty line.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Returns the status of a response, once its head is there.
    pub(crate) fn status(&self) -> Option<u16> {
        let digits = self.head.get(9..12)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Forgets the last message; call it after a complete one.
    pub(crate) fn reset(&mut self) {
        self.head.clear();
        self.state = State::Head;
    }

    /// Reads on, and gives the body's bytes to `body` as they come.
    pub(crate) fn read(&mut self, input: &[u8], mut body: impl FnMut(&[u8])) -> Result<Progress, Malformed> {
        let mut at = 0;
        if self.state == State::Head {
            match self.read_head(input)? {
                Some(used) => at = used,
                None => return Ok(Progress { used: input.len(), complete: false }),
            }
            if self.state == State::Sized(0) {
                return Ok(Progress { used: at, complete: true });
            }
        }
        while at < input.len() {
            match self.state {
                State::Head => unreachable!("read_head leaves this state"),
                State::Sized(left) => {
                    let part = take(input, at, left);
                    body(&input[part.clone()]);
                    at = part.end;
                    let left = left - part.len() as u64;
                    self.state = State::Sized(left);
                    if left == 0 {
                        return Ok(Progress { used: at, complete: true });
                    }
                }
                State::UntilClose => {
                    body(&input[at..]);
                    at = input.len();
                }
                State::ChunkSize { size, in_extension } => {
                    let byte = input[at];
                    at += 1;
                    self.state = match byte {
                        b'\n' if size == 0 => State::Trailer(0),
                        b'\n' => State::ChunkData(size),
                        b'\r' => State::ChunkSize { size, in_extension },
                        b';' => State::ChunkSize { size, in_extension: true },
                        _ if in_extension => State::ChunkSize { size, in_extension },
                        _ => {
                            let digit = (byte as char).to_digit(16).ok_or(Malformed::Chunk)?;
                            let size = size
                                .checked_mul(16)
                                .and_then(|size| size.checked_add(digit.into()))
                                .ok_or(Malformed::Chunk)?;
                            State::ChunkSize { size, in_extension }
                        }
                    };
                }
                State::ChunkData(left) => {
                    let part = take(input, at, left);
                    body(&input[part.clone()]);
                    at = part.end;
                    let left = left - part.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                }
                State::ChunkEnd => {
                    if input[at] == b'\n' {
                        self.state = State::ChunkSize { size: 0, in_extension: false };
                    }
                    at += 1;
                }
                State::Trailer(length) => {
                    let byte = input[at];
                    at += 1;
                    match byte {
                        b'\n' if length == 0 => return Ok(Progress { used: at, complete: true }),
                        b'\n' => self.state = State::Trailer(0),
                        b'\r' => {}
                        _ => self.state = State::Trailer(length + 1),
                    }
                }
            }
        }
        Ok(Progress { used: at, complete: false })
    }

    /// Takes the head; returns how much of `input` it used, `None` while it is not complete.
    fn read_head(&mut self, input: &[u8]) -> Result<Option<usize>, Malformed> {
        let before = self.head.len();
        // The empty line may have begun in what was read before.
        let from = before.saturating_sub(3);
        self.head.extend_from_slice(&input[..input.len().min(HEAD_LIMIT + 4)]);
        let Some(end) = self.head[from..].windows(4).position(|four| four == b"\r\n\r\n") else {
            return if self.head.len() > HEAD_LIMIT { Err(Malformed::HeadTooLong) } else { Ok(None) };
        };
        let end = from + end;
        self.head.truncate(end);
        self.state = body_kind(&self.head)?;
        Ok(Some(end + 4 - before))
    }
}

fn take(input: &[u8], at: usize, left: u64) -> Range<usize> {
    let available = (input.len() - at) as u64;
    // Cannot truncate: it is at most the length of a slice.
    at..at + available.min(left) as usize
}

fn body_kind(head: &[u8]) -> Result<State, Malformed> {
    let mut length = None;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let text = std::str::from_utf8(value).map_err(|_| Malformed::Head)?;
            length = Some(text.parse().map_err(|_| Malformed::Head)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            return Ok(State::ChunkSize { size: 0, in_extension: false });
        }
    }
    match length {
        Some(length) => Ok(State::Sized(length)),
        None if head.starts_with(b"HTTP/") => Ok(State::UntilClose),
        None => Ok(State::Sized(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(wire: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut reader = Reader::new();
        let mut bodies = Vec::new();
        let mut body = Vec::new();
        for part in wire.chunks(step) {
            let mut part = part;
            while !part.is_empty() {
                let progress = reader.read(part, |bytes| body.extend_from_slice(bytes)).unwrap();
                part = &part[progress.used..];
                if progress.complete {
                    bodies.push(std::mem::take(&mut body));
                    reader.reset();
                }
            }
        }
        assert!(reader.is_between_messages());
        bodies
    }

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
            HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\na: b\r\n\r\n\
            HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let expected = vec![b"hello".to_vec(), b"abc0123456789abcdef".to_vec(), Vec::new()];
        for step in 1..=wire.len() {
            assert_eq!(bodies(wire, step), expected, "in steps of {step}");
        }
    }

    #[test]
    fn a_request_without_a_length_has_no_body() {
        assert_eq!(bodies(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", 7), vec![Vec::<u8>::new()]);
    }

    #[test]
    fn an_endless_head_is_refused() {
        let mut reader = Reader::new();
        let long = vec![b'a'; HEAD_LIMIT + 1];
        assert_eq!(reader.read(&long, |_| {}), Err(Malformed::HeadTooLong));
    }
}
