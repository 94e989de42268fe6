//! Where the device token comes from, and what can be read off it without the issuer's key.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The file that holds the token: read anew for each dial, so that a new one takes effect without a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenSource {
    path: Option<PathBuf>,
}

/// Why there is no usable token, as a sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("there is no token yet")]
    NoSource,
    #[error("there is no token: {} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("there is no token: {} is empty", .0.display())]
    Empty(PathBuf),
    #[error("the token file {} cannot be read", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds something else than one token", .0.display())]
    NotAToken(PathBuf),
}

/// Tells one version of the token file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    bytes: u64,
    modified_ns: (i64, i64),
}

/// The times in a token, seconds since the epoch. Read without a check of the signature: for explanations only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct TokenTimes {
    #[serde(rename = "iat")]
    pub(crate) issued: Option<i64>,
    #[serde(rename = "exp")]
    pub(crate) expires: Option<i64>,
    #[serde(rename = "nbf")]
    pub(crate) not_before: Option<i64>,
}

impl TokenSource {
    /// Larger than any token that fits the relay's limit for headers.
    const MAX_BYTES: u64 = 32 * 1024;

    /// The named file, else systemd's credential `cloud-token`, else none.
    pub(crate) fn new(named: Option<&Path>, credentials_directory: Option<&Path>) -> Self {
        let credential = || credentials_directory.map(|directory| directory.join("cloud-token"));
        Self { path: named.map(Path::to_owned).or_else(credential) }
    }

    /// Returns the version of the file that is there now; `None` without a file.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        let meta = fs::metadata(self.path.as_ref()?).ok()?;
        Some(Stamp { inode: meta.ino(), bytes: meta.len(), modified_ns: (meta.mtime(), meta.mtime_nsec()) })
    }

    /// Reads the token, without white space around it.
    pub(crate) fn read(&self) -> Result<SecretString, TokenError> {
        let path = self.path.as_ref().ok_or(TokenError::NoSource)?;
        let file = fs::File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TokenError::Missing(path.clone()),
            _ => TokenError::Unreadable { path: path.clone(), source },
        })?;
        let mut bytes = Vec::new();
        file.take(Self::MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| TokenError::Unreadable { path: path.clone(), source })?;
        let token = bytes.trim_ascii();
        match std::str::from_utf8(token) {
            Ok("") => Err(TokenError::Empty(path.clone())),
            // What a header can carry; a second line or a quote would end up as a puzzling refusal.
            Ok(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(token.to_owned().into()),
            Ok(_) | Err(_) => Err(TokenError::NotAToken(path.clone())),
        }
    }
}

impl TokenTimes {
    /// Reads the times of a JWT; none of anything else.
    pub(crate) fn of(token: &SecretString) -> Self {
        let payload = token.expose_secret().split('.').nth(1);
        let bytes = payload.and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(content: &str) -> (tempfile::TempDir, TokenSource) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cloud-token"), content).unwrap();
        let source = TokenSource::new(None, Some(directory.path()));
        (directory, source)
    }

    #[test]
    fn token_is_read_without_the_white_space_around_it() {
        let (_directory, source) = source("  a.b.c\n");
        assert_eq!(source.read().unwrap().expose_secret(), "a.b.c");
    }

    #[test]
    fn file_with_something_else_is_no_token_and_its_content_stays_out_of_the_error() {
        for content in ["secret with spaces", "one\ntwo", "sécret"] {
            let (_directory, source) = source(content);
            let error = source.read().unwrap_err();
            assert!(matches!(error, TokenError::NotAToken(_)), "{content}");
            assert!(!format!("{error:?}").contains("cret "), "{error:?}");
        }
        let (_directory, empty) = source("\n");
        assert!(matches!(empty.read(), Err(TokenError::Empty(_))));
    }

    #[test]
    fn named_file_beats_the_credential_and_may_be_missing() {
        let (directory, _) = source("a.b.c");
        let named = directory.path().join("absent");
        let source = TokenSource::new(Some(&named), Some(directory.path()));
        assert!(matches!(source.read(), Err(TokenError::Missing(_))));
        assert_eq!(source.stamp(), None);
        assert!(matches!(TokenSource::new(None, None).read(), Err(TokenError::NoSource)));
    }

    #[test]
    fn new_content_has_a_new_stamp() {
        let (directory, source) = source("a.b.c");
        let before = source.stamp();
        assert_eq!(before, source.stamp());
        let fresh = directory.path().join("fresh");
        fs::write(&fresh, "d.e.f").unwrap();
        fs::rename(&fresh, directory.path().join("cloud-token")).unwrap();
        assert_ne!(before, source.stamp());
    }

    #[test]
    fn times_are_read_off_a_jwt_and_nothing_else() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iat":100,"exp":200,"sub":"x"}"#);
        let times = TokenTimes::of(&format!("e30.{payload}.sig").into());
        assert_eq!(times, TokenTimes { issued: Some(100), expires: Some(200), not_before: None });
        assert_eq!(TokenTimes::of(&"opaque".to_owned().into()), TokenTimes::default());
    }
}
