//! Names that can be compared and not read: keyed hashes of subjects, devices, addresses and token ids.

use std::net::IpAddr;

use aws_lc_rs::hmac;

use crate::hex::hex;

/// What a name is of. The same text of two kinds has two hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// An account
    Subject,
    /// A device's name
    Device,
    /// A caller's address
    Client,
    /// A token's id (`jti`)
    Token,
}

/// The key of the hashes. `Debug` does not show it.
#[derive(Clone, Debug)]
pub(crate) struct Pseudonyms(hmac::Key);

/// Bytes of a hash that are shown: enough that two names never meet, and lines stay short.
const SHOWN_BYTES: usize = 16;

impl Pseudonyms {
    /// Takes the text of the key file.
    pub(crate) fn new(secret: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    /// Returns the first 16 bytes of HMAC-SHA-256 over the kind, a zero byte, and the text; in hexadecimal.
    pub(crate) fn of(&self, kind: Kind, text: &str) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(match kind {
            Kind::Subject => b"subject\0",
            Kind::Device => b"device\0",
            Kind::Client => b"client\0",
            Kind::Token => b"token\0",
        });
        context.update(text.as_bytes());
        hex(&context.sign().as_ref()[..SHOWN_BYTES])
    }

    pub(crate) fn of_address(&self, address: IpAddr) -> String {
        self.of(Kind::Client, &address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_hash_for_each_kind_and_key() {
        let ours = Pseudonyms::new("aa");
        let hash = ours.of(Kind::Subject, "alice");
        assert_eq!(hash.len(), 32);
        assert_eq!(hash, Pseudonyms::new("aa").of(Kind::Subject, "alice"));
        assert_ne!(hash, ours.of(Kind::Device, "alice"));
        assert_ne!(hash, ours.of(Kind::Subject, "alicf"));
        assert_ne!(hash, Pseudonyms::new("ab").of(Kind::Subject, "alice"));
        assert!(!format!("{ours:?}").contains("aa"));
    }

    #[test]
    fn the_hash_is_hmac_sha_256_as_any_other_program_computes_it() {
        // printf 'subject\0alice' | openssl dgst -sha256 -hmac key
        assert_eq!(Pseudonyms::new("key").of(Kind::Subject, "alice"), "5f5f5fd32c7197eb7064a377c93d4ee4");
    }
}
