//! Ids of the relay's own tokens. An id proves whose token it is and when that ends, so that a revocation needs no list
//! of what was ever made, and nobody can fill the list of what is revoked with ids that never were.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What an id begins with: base64 may begin with a dash, which a command line takes for an option.
const PREFIX: char = 't';

/// Bytes of the parts of an id: what tells two of a second apart, the end in seconds since 1970, and a proof. Their sum is
/// a multiple of three, which base64 writes without spare bits.
const RANDOM: usize = 12;
const END: usize = 5;
const PROOF: usize = 16;

/// What the key is derived for: the signing key itself signs nothing but tokens.
const PURPOSE: &[u8] = b"tunnel-relay: ids of tokens";

/// Makes such ids and reads them.
pub(super) struct TokenIds {
    key: hmac::Key,
}

impl TokenIds {
    /// Derives the key from the relay's signing key: ids keep their proof as long as tokens keep their signature.
    pub(super) fn new(signing_key: &[u8]) -> Self {
        let secret = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, signing_key), PURPOSE);
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()) }
    }

    pub(super) fn make(&self, subject: &str, expires_at: u64) -> String {
        let mut id = [0; RANDOM + END + PROOF];
        id[..RANDOM].copy_from_slice(&rand::random::<[u8; RANDOM]>());
        // Beyond, in tens of thousands of years, the largest stands for all.
        let end = expires_at.min((1 << (8 * END)) - 1).to_be_bytes();
        id[RANDOM..RANDOM + END].copy_from_slice(&end[8 - END..]);
        let proof = self.proof(&id[..RANDOM + END], subject);
        id[RANDOM + END..].copy_from_slice(&proof);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(id))
    }

    /// Returns when the token of this id ends, in seconds since 1970; `None` where it is none of this subject's, or none
    /// that was made here.
    pub(super) fn end(&self, id: &str, subject: &str) -> Option<u64> {
        let id = URL_SAFE_NO_PAD.decode(id.strip_prefix(PREFIX)?).ok()?;
        let (said, proof) = id.split_at_checked(RANDOM + END)?;
        verify_slices_are_equal(proof, &self.proof(said, subject)).ok()?;
        let mut end = [0; 8];
        end[8 - END..].copy_from_slice(&said[RANDOM..]);
        Some(u64::from_be_bytes(end))
    }

    fn proof(&self, said: &[u8], subject: &str) -> [u8; PROOF] {
        let mut context = hmac::Context::with_key(&self.key);
        // Of one length always, so that nothing of it can be taken for the subject's beginning.
        context.update(said);
        context.update(subject.as_bytes());
        context.sign().as_ref()[..PROOF].try_into().expect("HMAC-SHA256 has 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_proves_its_subject_and_its_end_and_nothing_else_does() {
        let ids = TokenIds::new(b"one key");
        let id = ids.make("alice", 1_800_000_000);
        assert_eq!(ids.end(&id, "alice"), Some(1_800_000_000));
        assert_ne!(ids.make("alice", 1_800_000_000), id);
        assert_eq!(ids.end(&ids.make("alice", u64::MAX), "alice"), Some((1 << 40) - 1));
        assert_eq!(ids.end(&id, "bob"), None);
        assert_eq!(TokenIds::new(b"another key").end(&id, "alice"), None);
        assert_eq!(ids.end(&ids.make("alice", 1_800_000_000)[1..], "alice"), None);
        for at in 1..id.len() {
            let mut changed = id.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(ids.end(std::str::from_utf8(&changed).unwrap(), "alice"), None, "{at}");
        }
        for none in ["", "t", "made-up", &id[..44], &format!("{id}AAAA"), "0123456789abcdef0123456789abcdef"]
        {
            assert_eq!(ids.end(none, "alice"), None, "{none}");
        }
    }
}
