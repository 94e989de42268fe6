//! WebSocket framing (RFC 6455 §5), as far as a tunnel needs it.
//!
//! The handshake and everything else about WebSocket comes from hyper and tungstenite. Framing is done here
//! because it is the hottest loop of the tunnel: tungstenite copies each message on its way in and out, which
//! cost two fifths of bulk throughput. This reads frames in place and lets the replay buffer hold what goes to
//! the socket. See `docs/decisions/`.

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::MAX_MESSAGE;

/// Which end of a WebSocket this is: a client masks what it sends, a server must be sent masked frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Role {
    /// The most bytes that [`header`] writes for messages of up to 65,535 bytes.
    pub(crate) fn max_header(self) -> usize {
        match self {
            Self::Client => 8,
            Self::Server => 4,
        }
    }

    /// Draws the key for the next frame, where this end masks.
    pub(crate) fn key(self) -> Option<Key> {
        match self {
            Self::Client => Some(Key(rand::random())),
            Self::Server => None,
        }
    }
}

/// A masking key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key([u8; 4]);

impl Key {
    /// Masks or unmasks `bytes`, the first of which is byte `at` of its message.
    pub(crate) fn apply(self, bytes: &mut [u8], at: usize) {
        let mut key = self.0;
        key.rotate_left(at % 4);
        let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
        let mut chunks = bytes.chunks_exact_mut(8);
        for chunk in &mut chunks {
            let word: [u8; 8] = (&*chunk).try_into().expect("chunks are of 8 bytes");
            chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
        }
        for (byte, key) in chunks.into_remainder().iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
    }
}

/// The opcodes that a tunnel uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

/// Writes the header of a final frame with `len` bytes of payload, at most 65,535, to the end of `room`;
/// returns where it begins.
pub(crate) fn header(room: &mut [u8], opcode: Opcode, len: usize, key: Option<Key>) -> usize {
    debug_assert!(len <= usize::from(u16::MAX));
    let mut begin = room.len();
    if let Some(Key(key)) = key {
        begin -= 4;
        room[begin..].copy_from_slice(&key);
    }
    let masked = if key.is_some() { 0x80 } else { 0 };
    if len < 126 {
        begin -= 2;
        room[begin + 1] = masked | len as u8;
    } else {
        begin -= 4;
        room[begin + 1] = masked | 126;
        room[begin + 2..begin + 4].copy_from_slice(&(len as u16).to_be_bytes());
    }
    room[begin] = 0x80 | opcode as u8;
    begin
}

/// Appends a whole frame.
pub(crate) fn encode(role: Role, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let key = role.key();
    let mut room = [0; 8];
    let begin = header(&mut room, opcode, payload.len(), key);
    out.extend_from_slice(&room[begin..]);
    let at = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        key.apply(&mut out[at..], 0);
    }
}

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    Close,
}

/// A frame that breaks RFC 6455 or is not for a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WsError {
    #[error("text message")]
    Text,
    #[error("message of more than {MAX_MESSAGE} bytes")]
    TooLong,
    #[error("frame that breaks RFC 6455: {0}")]
    Broken(&'static str),
}

/// Takes frames from a buffer that a socket fills.
#[derive(Debug)]
pub(crate) struct Reader {
    role: Role,
    /// The message so far, where it comes in fragments (proxies may cut messages).
    partial: Option<BytesMut>,
    /// Fragments that brought next to nothing and ended no message, since somebody asked.
    crumbs: u64,
}

/// The next step of [`Reader::next`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Message(Message),
    /// This many bytes are wanted in the buffer before anything can be told.
    Need(usize),
}

struct Header {
    fin: bool,
    opcode: u8,
    len: usize,
    key: Option<Key>,
    size: usize,
}

impl Reader {
    /// Fragments of fewer bytes are crumbs. Whoever cuts messages does so into large pieces.
    const CRUMB: usize = 16;

    pub(crate) fn new(role: Role) -> Self {
        Self { role, partial: None, crumbs: 0 }
    }

    /// Returns how many fragments came since the last time that brought next to nothing: a message may be cut into
    /// any number, and only its end shows otherwise.
    pub(crate) fn take_crumbs(&mut self) -> u64 {
        std::mem::take(&mut self.crumbs)
    }

    /// Takes the next message from the front of `buf`.
    pub(crate) fn next(&mut self, buf: &mut BytesMut) -> Result<Next, WsError> {
        loop {
            let head = match self.header(buf)? {
                Ok(head) => head,
                Err(need) => return Ok(Next::Need(need)),
            };
            let whole = head.size + head.len;
            if buf.len() < whole {
                return Ok(Next::Need(whole));
            }
            buf.advance(head.size);
            let mut payload = buf.split_to(head.len);
            if let Some(key) = head.key {
                key.apply(&mut payload, 0);
            }
            if let Some(message) = self.message(&head, payload)? {
                return Ok(Next::Message(message));
            }
        }
    }

    /// Reads a header; the inner error tells how many bytes are needed for more.
    fn header(&self, buf: &[u8]) -> Result<Result<Header, usize>, WsError> {
        let &[first, second, ..] = buf else { return Ok(Err(2)) };
        if first & 0x70 != 0 {
            return Err(WsError::Broken("reserved bits"));
        }
        if (second & 0x80 != 0) != (self.role == Role::Server) {
            return Err(WsError::Broken("masking"));
        }
        let (len, len_size) = match second & 0x7f {
            126 => match buf.get(2..4) {
                Some(len) => (usize::from(u16::from_be_bytes([len[0], len[1]])), 2),
                None => return Ok(Err(4)),
            },
            127 => match buf.get(2..10) {
                Some(len) => {
                    let len = u64::from_be_bytes(len.try_into().expect("8 bytes"));
                    (usize::try_from(len).map_err(|_| WsError::TooLong)?, 8)
                }
                None => return Ok(Err(10)),
            },
            len => (usize::from(len), 0),
        };
        if len > MAX_MESSAGE {
            return Err(WsError::TooLong);
        }
        let mut size = 2 + len_size;
        let key = if second & 0x80 == 0 {
            None
        } else {
            match buf.get(size..size + 4) {
                Some(key) => {
                    size += 4;
                    Some(Key(key.try_into().expect("4 bytes")))
                }
                None => return Ok(Err(size + 4)),
            }
        };
        Ok(Ok(Header { fin: first & 0x80 != 0, opcode: first & 0x0f, len, key, size }))
    }

    fn message(&mut self, head: &Header, payload: BytesMut) -> Result<Option<Message>, WsError> {
        if head.opcode >= 8 && (!head.fin || payload.len() > 125) {
            return Err(WsError::Broken("control frame"));
        }
        self.crumbs += u64::from(!head.fin && payload.len() < Self::CRUMB);
        let message = match (head.opcode, self.partial.take()) {
            (0x2, None) if head.fin => Message::Binary(payload.freeze()),
            (0x2, None) => {
                self.partial = Some(payload);
                return Ok(None);
            }
            (0x0, Some(mut message)) => {
                if message.len() + payload.len() > MAX_MESSAGE {
                    return Err(WsError::TooLong);
                }
                message.extend_from_slice(&payload);
                if !head.fin {
                    self.partial = Some(message);
                    return Ok(None);
                }
                Message::Binary(message.freeze())
            }
            (0x1, None) => return Err(WsError::Text),
            (opcode @ 0x8..=0xA, partial) => {
                self.partial = partial;
                match opcode {
                    0x8 => Message::Close,
                    0x9 => Message::Ping(payload.freeze()),
                    _ => Message::Pong(payload.freeze()),
                }
            }
            _ => return Err(WsError::Broken("opcode")),
        };
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(role: Role, wire: &[u8], step: usize) -> Result<Vec<Message>, WsError> {
        let (mut reader, mut buf, mut messages) = (Reader::new(role), BytesMut::new(), Vec::new());
        for chunk in wire.chunks(step.max(1)) {
            buf.extend_from_slice(chunk);
            while let Next::Message(message) = reader.next(&mut buf)? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    proptest! {
        #[test]
        fn messages_round_trip_however_they_are_cut(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 1..6),
            big in 60_000usize..65_535,
            step in 1usize..5000,
            client in any::<bool>(),
        ) {
            let (sender, receiver) = if client { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
            let mut payloads = payloads;
            payloads.push(vec![7; big]);
            let mut wire = Vec::new();
            for payload in &payloads {
                encode(sender, Opcode::Binary, payload, &mut wire);
            }
            let read = read_all(receiver, &wire, step).unwrap();
            let wanted: Vec<_> = payloads.into_iter().map(|p| Message::Binary(p.into())).collect();
            prop_assert_eq!(read, wanted);
        }

        #[test]
        fn no_bytes_panic(wire in proptest::collection::vec(any::<u8>(), 0..200), step in 1usize..50) {
            let _outcome = read_all(Role::Server, &wire, step);
            let _outcome = read_all(Role::Client, &wire, step);
        }

        #[test]
        fn masking_in_parts_equals_masking_at_once(bytes in proptest::collection::vec(any::<u8>(), 0..100), cut in 0usize..100, key: [u8; 4]) {
            let cut = cut.min(bytes.len());
            let (mut whole, mut parts) = (bytes.clone(), bytes);
            Key(key).apply(&mut whole, 1);
            Key(key).apply(&mut parts[..cut], 1);
            Key(key).apply(&mut parts[cut..], 1 + cut);
            prop_assert_eq!(whole, parts);
        }
    }

    #[test]
    fn fragments_are_joined_around_a_ping() {
        let wire = [0x02, 1, b'a', 0x89, 1, b'p', 0x80, 1, b'b'];
        assert_eq!(
            read_all(Role::Client, &wire, 1).unwrap(),
            [Message::Ping(Bytes::from_static(b"p")), Message::Binary(Bytes::from_static(b"ab"))]
        );
    }

    #[test]
    fn what_has_no_place_in_a_tunnel_is_refused() {
        assert_eq!(read_all(Role::Client, &[0x81, 1, b'x'], 3), Err(WsError::Text));
        assert_eq!(read_all(Role::Server, &[0x82, 1, b'x'], 3), Err(WsError::Broken("masking")));
        assert_eq!(read_all(Role::Client, &[0xC2, 1, b'x'], 3), Err(WsError::Broken("reserved bits")));
        assert_eq!(read_all(Role::Client, &[0x80, 0], 2), Err(WsError::Broken("opcode")));
        assert_eq!(read_all(Role::Client, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 2], 10), Err(WsError::TooLong));
    }
}
