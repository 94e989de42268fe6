//! Deterministic bytes: whoever knows the seed knows each byte, so that a long body needs no copy to be compared with.

use std::sync::OnceLock;

use bytes::Bytes;

// A prime, so that bytes that were lost, doubled or swapped cannot fall into step with the pattern again.
const PERIOD: usize = 1_048_573;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// An endless, seeded sequence of printable bytes that need no escape in JSON.
#[derive(Clone, Debug)]
pub struct Pattern {
    block: Bytes,
    /// Where in the block this seed starts: one block serves all seeds, since making one takes a while.
    shift: u64,
}

impl Pattern {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        static BLOCK: OnceLock<Bytes> = OnceLock::new();
        Self { block: BLOCK.get_or_init(block).clone(), shift: seed.wrapping_mul(7919) % PERIOD as u64 }
    }

    /// Returns at most `len` bytes from `offset` on, without a copy; fewer at the end of a period, never none.
    pub fn slice(&self, offset: u64, len: usize) -> Bytes {
        let start = usize::try_from((offset + self.shift) % PERIOD as u64).unwrap_or_default();
        self.block.slice(start..PERIOD.min(start + len))
    }
}

fn block() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(PERIOD + 8);
    while block.len() < PERIOD {
        // xorshift64*: any generator does that is the same everywhere.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
        block.extend(word.map(|byte| ALPHABET[usize::from(byte & 63)]));
    }
    block.truncate(PERIOD);
    block.into()
}

/// Compares what arrives with a [`Pattern`], byte by byte.
#[derive(Clone, Debug)]
pub struct PatternCheck {
    pattern: Pattern,
    received: u64,
    first_wrong: Option<u64>,
}

impl PatternCheck {
    /// Expects the sequence of this seed from its start.
    pub fn new(seed: u64) -> Self {
        Self { pattern: Pattern::new(seed), received: 0, first_wrong: None }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.pattern.slice(self.received, bytes.len());
            let (head, rest) = bytes.split_at(expected.len());
            if self.first_wrong.is_none() && head != expected {
                let at = head.iter().zip(expected.iter()).position(|(a, b)| a != b).unwrap_or_default();
                self.first_wrong = Some(self.received + at as u64);
            }
            self.received += head.len() as u64;
            bytes = rest;
        }
    }

    /// Bytes taken so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Offset of the first byte that differs.
    pub fn first_wrong(&self) -> Option<u64> {
        self.first_wrong
    }

    /// Fails unless exactly `expected_bytes` came and each was right.
    pub fn finish(&self, expected_bytes: u64) -> anyhow::Result<()> {
        if let Some(at) = self.first_wrong {
            anyhow::bail!("byte {at} is not what was sent");
        }
        anyhow::ensure!(
            self.received == expected_bytes,
            "{} bytes came, {expected_bytes} were sent",
            self.received
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_in_odd_pieces_is_exact_and_a_lost_byte_is_noticed() {
        let pattern = Pattern::new(7);
        let mut whole = Vec::new();
        while whole.len() < 3 * PERIOD {
            whole.extend_from_slice(&pattern.slice(whole.len() as u64, 10_007));
        }
        let mut check = PatternCheck::new(7);
        whole.chunks(4_099).for_each(|piece| check.feed(piece));
        check.finish(whole.len() as u64).unwrap();

        whole.remove(PERIOD + 5);
        let mut check = PatternCheck::new(7);
        check.feed(&whole);
        assert!(check.first_wrong().is_some_and(|at| at >= PERIOD as u64 + 5));
    }
}
