//! Local keys as text: `tk_<id>_<secret>`.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use secrecy::SecretString;
use tunnel_api::LOCAL_KEY_PREFIX;

/// Random bytes of an id: enough for a few hundred keys never to meet, and short enough to be typed.
const ID_BYTES: usize = 5;
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;

/// What is kept of a local key's secret: its SHA-256.
///
/// The secret has 256 random bits, so there is nothing to guess: a slow hash, which is for passwords that people choose,
/// would only cost each request its time.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretHash([u8; 32]);

impl SecretHash {
    /// Takes over bytes that were stored. None: they are no hash.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn of_secret(secret: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        Self(hash)
    }

    /// Tells whether a secret is the one; takes as long for a wrong one.
    pub(super) fn matches(&self, secret: &str) -> bool {
        verify_slices_are_equal(&self.0, &Self::of_secret(secret).0).is_ok()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// A key that was just made.
pub(super) struct Fresh {
    pub(super) id: String,
    pub(super) hash: SecretHash,
    pub(super) token: SecretString,
}

/// Makes a key. None when the system gives no random bytes, and a key must not be made of anything else.
pub(super) fn fresh() -> Option<Fresh> {
    let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
    aws_lc_rs::rand::fill(&mut id).ok()?;
    aws_lc_rs::rand::fill(&mut secret).ok()?;
    let (id, secret) = (hex(&id), hex(&secret));
    let token = SecretString::from(format!("{LOCAL_KEY_PREFIX}{id}_{secret}"));
    Some(Fresh { hash: SecretHash::of_secret(&secret), id: format!("{LOCAL_KEY_PREFIX}{id}"), token })
}

/// What a caller shows as a local key, taken apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown<'a> {
    /// With its prefix, as lists and the usage call it.
    pub(super) id: &'a str,
    pub(super) secret: &'a str,
}

impl<'a> Shown<'a> {
    /// Returns none for text that does not have the form of a local key.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (digits, secret) = text.strip_prefix(LOCAL_KEY_PREFIX)?.split_once('_')?;
        let is_hex = |text: &str, n: usize| {
            text.len() == 2 * n && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let id = text.get(..LOCAL_KEY_PREFIX.len() + digits.len())?;
        (is_hex(digits, ID_BYTES) && is_hex(secret, SECRET_BYTES)).then_some(Self { id, secret })
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn fresh_key_is_read_back_and_no_other_secret_matches() {
        let (one, other) = (fresh().unwrap(), fresh().unwrap());
        let text = one.token.expose_secret();
        let shown = Shown::parse(text).unwrap_or_else(|| panic!("not read back"));
        assert_eq!(shown.id, one.id);
        assert_eq!(tunnel_api::local_key_id(text), Some(&*one.id));
        assert!(one.hash.matches(shown.secret) && !other.hash.matches(shown.secret));
        assert_eq!(text.len(), 3 + 10 + 1 + 64);
        assert_ne!(one.id, other.id);
    }

    #[test]
    fn only_its_own_form_is_a_key() {
        let secret = "0".repeat(64);
        assert!(Shown::parse(&format!("tk_0123456789_{secret}")).is_some());
        for text in [
            "",
            "tk_",
            "sk-anything",
            "tk_0123456789",
            &format!("tk_012345678_{secret}"),
            &format!("tk_0123456789_{}", &secret[1..]),
            &format!("tk_012345678G_{secret}"),
            &format!("TK_0123456789_{secret}"),
            &format!("tk_0123456789_{secret} "),
            &format!("tk_é123456789_{secret}"),
        ] {
            assert!(Shown::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn hash_shows_nothing_of_itself() {
        let hash = SecretHash::of_secret("secret");
        assert_eq!(format!("{hash:?}"), "SecretHash(..)");
        assert_eq!(SecretHash::of_bytes(hash.as_bytes()), Some(hash));
        assert_eq!(SecretHash::of_bytes(&[0; 31]), None);
    }
}
