//! The signing key on disk: made once, readable by its owner only.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::EncodingKey;
use rand::TryRng as _;
use rand::rngs::SysRng;

use crate::private_file::{self, PrivateFileError};

const FILE_NAME: &str = "issuer.key";

/// What comes before the 32 secret bytes in a PKCS#8 document of an Ed25519 key (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Longest file that is read: a key, and what an editor may have added.
const FILE_MAX_BYTES: u64 = 16 * 1024;

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The file holds no Ed25519 key.
    #[error(
        "{} holds no Ed25519 key in PKCS#8 form; restore it, or move it away: a new one is made, and every token \
         must be made anew",
        .path.display()
    )]
    BadKey {
        /// The key file.
        path: PathBuf,
        #[source]
        /// What the parser found.
        source: jsonwebtoken::errors::Error,
    },
    /// The file, or the data directory that it lies in, cannot be made or read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
}

/// Returns where the key lies.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

/// Reads the key, making directory and key where they are missing.
pub(super) fn open(data_dir: &Path) -> Result<EncodingKey, IssuerError> {
    private_file::make_directory(data_dir)?;
    let path = path(data_dir);
    let pem = private_file::read_or_make(&path, FILE_MAX_BYTES, new_pem).map_err(|error| {
        error.or(" (or, since whoever has read it can sign with it, remove it: a new one is made, and every token must \
                  be made anew)")
    })?;
    EncodingKey::from_ed_pem(&pem).map_err(|source| IssuerError::BadKey { path, source })
}

fn new_pem() -> io::Result<String> {
    let mut secret = [0; 32];
    SysRng.try_fill_bytes(&mut secret).map_err(io::Error::other)?;
    let der = [&PKCS8_PREFIX[..], &secret].concat();
    Ok(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der)))
}
