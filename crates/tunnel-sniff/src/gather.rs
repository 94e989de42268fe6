//! The pieces of a body in one.

use bytes::{Bytes, BytesMut};

/// Bytes in one piece; not copied as long as there is one piece only.
#[derive(Debug)]
pub enum Gather {
    /// The first piece as it came, or nothing yet.
    One(Bytes),
    /// Several pieces, copied together.
    Many(BytesMut),
}

impl Default for Gather {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

impl Gather {
    /// Returns all bytes so far.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes,
        }
    }

    /// Returns how many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Tells whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a piece.
    pub fn push(&mut self, data: Bytes) {
        match self {
            Self::One(bytes) if bytes.is_empty() => *self = Self::One(data),
            Self::One(bytes) => {
                let mut many = BytesMut::with_capacity((bytes.len() + data.len()) * 2);
                many.extend_from_slice(bytes);
                many.extend_from_slice(&data);
                *self = Self::Many(many);
            }
            Self::Many(bytes) => bytes.extend_from_slice(&data),
        }
    }

    /// Makes room for `whole` bytes in all, so that what comes up to then is copied once and not again while it grows.
    pub fn reserve(&mut self, whole: usize) {
        let more = whole.saturating_sub(self.len());
        match self {
            Self::One(bytes) => {
                let mut many = BytesMut::with_capacity(bytes.len() + more);
                many.extend_from_slice(bytes);
                *self = Self::Many(many);
            }
            Self::Many(bytes) => bytes.reserve(more),
        }
    }

    /// Returns the whole.
    pub fn freeze(self) -> Bytes {
        match self {
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_is_not_copied_and_several_are_one() {
        let piece = Bytes::from(vec![1, 2]);
        let mut gather = Gather::default();
        assert!(gather.is_empty());
        gather.push(piece.clone());
        assert_eq!(gather.bytes().as_ptr(), piece.as_ptr());
        gather.push(Bytes::from_static(&[3]));
        gather.push(Bytes::from_static(&[4]));
        gather.reserve(100);
        assert_eq!((gather.len(), gather.freeze().as_ref()), (4, &[1, 2, 3, 4][..]));
    }
}
