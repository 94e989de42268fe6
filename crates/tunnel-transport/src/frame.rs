//! The link's frames: one to a WebSocket message, a type byte and a body.

use bytes::{Buf, Bytes};

use crate::closed::Closed;

/// The most bytes of the stream that a frame is taken with.
pub const MAX_DATA: usize = 65_536;

/// The largest message that is taken: a type byte and a full DATA body.
pub const MAX_MESSAGE: usize = 1 + MAX_DATA;

pub(crate) const DATA: u8 = 0x00;
const ACK: u8 = 0x01;
const TOKEN: u8 = 0x02;
const CLOSE: u8 = 0x03;

/// One decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The next bytes of the stream.
    Data(Bytes),
    /// All bytes before this offset have arrived.
    Ack(u64),
    /// A refreshed token for this session.
    Token(Token),
    /// The session ends and is not to be resumed.
    Close(Closed),
}

/// The text of a TOKEN frame. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub(crate) String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Says what is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A message without a type byte.
    #[error("empty message")]
    Empty,
    /// A type that version 1 does not have.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// A body that is too short, too long or not what its type holds.
    #[error("malformed body of a frame of type {0:#04x}")]
    Body(u8),
}

/// The type of a frame, told without decoding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Ack,
    Token,
    Close,
}

impl Frame {
    /// Returns the type of a message; `None` for one that does not decode.
    pub(crate) fn kind(message: &[u8]) -> Option<Kind> {
        match *message.first()? {
            DATA => Some(Kind::Data),
            ACK => Some(Kind::Ack),
            TOKEN => Some(Kind::Token),
            CLOSE => Some(Kind::Close),
            _ => None,
        }
    }

    /// Decodes one message.
    pub fn decode(mut message: Bytes) -> Result<Self, Malformed> {
        if message.is_empty() {
            return Err(Malformed::Empty);
        }
        let kind = message.get_u8();
        let malformed = Malformed::Body(kind);
        match kind {
            DATA if (1..=MAX_DATA).contains(&message.len()) => Ok(Self::Data(message)),
            ACK if message.len() == 8 => Ok(Self::Ack(message.get_u64())),
            TOKEN => match String::from_utf8(message.to_vec()) {
                Ok(token) if !token.is_empty() => Ok(Self::Token(Token(token))),
                _ => Err(malformed),
            },
            CLOSE if message.len() >= 2 => {
                let code = message.get_u16();
                let reason = std::str::from_utf8(&message).map_err(|_| malformed)?;
                Ok(Self::Close(Closed { code: code.into(), reason: reason.to_owned() }))
            }
            DATA | ACK | CLOSE => Err(malformed),
            other => Err(Malformed::UnknownType(other)),
        }
    }

    /// Appends the frame's message: type byte and body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Data(bytes) => {
                out.push(DATA);
                out.extend_from_slice(bytes);
            }
            Self::Ack(offset) => {
                out.push(ACK);
                out.extend_from_slice(&offset.to_be_bytes());
            }
            Self::Token(token) => {
                out.push(TOKEN);
                out.extend_from_slice(token.0.as_bytes());
            }
            Self::Close(closed) => {
                out.push(CLOSE);
                out.extend_from_slice(&u16::from(closed.code).to_be_bytes());
                out.extend_from_slice(closed.reason.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..2000).prop_map(|bytes| Frame::Data(bytes.into())),
            any::<u64>().prop_map(Frame::Ack),
            "[a-zA-Z0-9._-]{1,200}".prop_map(|token| Frame::Token(Token(token))),
            (any::<u16>(), ".{0,40}")
                .prop_map(|(code, reason)| Frame::Close(Closed { code: code.into(), reason })),
        ]
    }

    proptest! {
        #[test]
        fn frames_round_trip(frame in frames()) {
            let mut message = Vec::new();
            frame.encode(&mut message);
            prop_assert_eq!(Frame::decode(message.into()), Ok(frame));
        }

        #[test]
        fn no_message_panics_and_what_decodes_encodes_to_the_same(message in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(frame) = Frame::decode(message.clone().into()) {
                let mut again = Vec::new();
                frame.encode(&mut again);
                prop_assert_eq!(again, message);
            }
        }
    }

    #[test]
    fn bodies_are_bounded() {
        assert_eq!(Frame::decode(Bytes::new()), Err(Malformed::Empty));
        assert_eq!(Frame::decode(vec![DATA].into()), Err(Malformed::Body(DATA)));
        assert!(Frame::decode(vec![DATA; MAX_MESSAGE].into()).is_ok());
        assert_eq!(Frame::decode(vec![DATA; MAX_MESSAGE + 1].into()), Err(Malformed::Body(DATA)));
        assert_eq!(Frame::decode(vec![ACK; 8].into()), Err(Malformed::Body(ACK)));
        assert_eq!(Frame::decode(vec![0x04, 0].into()), Err(Malformed::UnknownType(4)));
    }

    #[test]
    fn tokens_stay_out_of_debug_output() {
        assert_eq!(format!("{:?}", Frame::Token(Token("secret".to_owned()))), "Token(Token(…))");
    }
}
