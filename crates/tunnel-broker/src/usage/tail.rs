/// Keeps the end of a text that comes in pieces.
///
/// What it shows does not depend on where the pieces were cut: always the last [`Tail::SHOWN`] bytes.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Holds up to twice what is shown, so that a long text in small pieces is not moved with each of them.
    bytes: Vec<u8>,
}

impl Tail {
    /// Where servers report tokens at all, it is within this many bytes of the end of a line or a document.
    pub(super) const SHOWN: usize = 4 << 10;
    const HELD: usize = 2 * Self::SHOWN;

    pub(super) fn push(&mut self, piece: &[u8]) {
        let piece = shown(piece);
        if self.bytes.len() + piece.len() > Self::HELD {
            let gone = self.bytes.len().saturating_sub(Self::SHOWN);
            self.bytes.drain(..gone);
        }
        let needed = self.bytes.len() + piece.len();
        if needed > self.bytes.capacity() {
            // Doubled as a vector grows by itself, but never beyond what may be held.
            let capacity = needed.max(2 * self.bytes.capacity()).min(Self::HELD);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
    }

    pub(super) fn get(&self) -> &[u8] {
        shown(&self.bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// Returns the part of a text that a [`Tail`] would show.
pub(super) fn shown(text: &[u8]) -> &[u8] {
    &text[text.len().saturating_sub(Tail::SHOWN)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_shown_and_memory_is_bounded() {
        let text: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for size in [1, 7, 1000, 4095, 4096, 4097, 8192, 50_000] {
            let mut tail = Tail::default();
            for (n, piece) in text.chunks(size).enumerate() {
                tail.push(piece);
                let end = ((n + 1) * size).min(text.len());
                assert_eq!(tail.get(), shown(&text[..end]));
                assert!(tail.bytes.capacity() <= Tail::HELD, "{size}: {}", tail.bytes.capacity());
            }
        }
    }
}
