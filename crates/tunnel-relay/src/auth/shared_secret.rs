//! A secret that an issuer signs with and the operator has put into a file.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use tracing::{info, warn};

use super::TokenError;
use super::jwt::Jwt;
use super::key::Key;
use crate::private_file::{self, PrivateFileError, Stamp};

/// Longest file.
const FILE_MAX_BYTES: u64 = 4 * 1024;

/// Shortest secret: as long as what HS256 makes of it (RFC 7518 §3.2).
const SECRET_MIN_BYTES: usize = 32;

/// The secret, as the file had it at the last look.
#[derive(Debug)]
pub(super) struct SharedSecret {
    /// The issuer's name in the settings, for the log.
    name: String,
    path: PathBuf,
    key: ArcSwapOption<Key>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    stamp: Option<Stamp>,
    /// What the key was made of, hashed: a file that was only touched changes nothing.
    digest: Option<super::cache::Digest>,
    /// The last trouble that was logged, so that it is logged once.
    trouble: Option<String>,
}

impl SharedSecret {
    /// Reads the file. Trouble with it is logged, and such an issuer is away until the file is mended.
    pub(super) fn open(name: &str, path: &Path) -> Self {
        let secret = Self {
            name: name.to_owned(),
            path: path.to_owned(),
            key: ArcSwapOption::empty(),
            seen: Mutex::default(),
        };
        secret.look();
        secret
    }

    /// Reads the file anew where it has changed; true where the secret is another one since. Waits for the disk.
    ///
    /// A file that is gone or makes no sense changes nothing: somebody may be writing it.
    pub(super) fn look(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read(&mut seen) {
            Ok(changed) => {
                seen.trouble = None;
                changed
            }
            Err(error) => {
                let trouble = error.to_string();
                if seen.trouble.as_ref() != Some(&trouble) {
                    let known = self.key.load().is_some();
                    warn!(issuer = self.name, error = trouble, known, "the issuer's secret cannot be read");
                }
                seen.trouble = Some(trouble);
                false
            }
        }
    }

    fn read(&self, seen: &mut Seen) -> Result<bool, PrivateFileError> {
        if seen.stamp.is_some() && private_file::stamp(&self.path)? == seen.stamp {
            return Ok(false);
        }
        let Some((text, stamp)) = private_file::read(&self.path, FILE_MAX_BYTES)? else {
            return Err(PrivateFileError::missing(&self.path));
        };
        let secret = text.trim_ascii();
        if secret.len() < SECRET_MIN_BYTES {
            let why = "holds no secret of 32 bytes or more; put the whole secret into it, on one line";
            return Err(PrivateFileError::Content { path: self.path.clone(), why });
        }
        seen.stamp = Some(stamp);
        let digest = super::sha256(secret);
        let had_one = seen.digest.is_some();
        if seen.digest.replace(digest) == Some(digest) {
            return Ok(false);
        }
        self.key.store(Some(Key::secret(secret).into()));
        if had_one {
            info!(issuer = self.name, "the issuer's secret has changed");
        }
        Ok(had_one)
    }

    pub(super) fn verify(&self, jwt: &Jwt<'_>) -> Result<(), TokenError> {
        let key = self.key.load();
        let key = key.as_ref().ok_or(TokenError::IssuerAway)?;
        if key.verifies(jwt.algorithm, jwt.signed, &jwt.signature) {
            Ok(())
        } else {
            Err(TokenError::Invalid)
        }
    }
}
