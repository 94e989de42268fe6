//! The signing key on disk: made once, readable by its owner only.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::EncodingKey;
use rand::TryRng as _;
use rand::rngs::SysRng;

use super::super::private_file::{self, PrivateFileError};

const FILE_NAME: &str = "issuer.key";

/// What comes before the 32 secret bytes in a PKCS#8 document of an Ed25519 key (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// Others can read or write the directory.
    #[error(
        "the data directory {} is open to other users (mode {mode:04o}); close it with: chmod 700 {}",
        .path.display(), .path.display()
    )]
    OpenDirectory {
        /// The data directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others can read or write the key.
    #[error(
        "the signing key {} is open to other users (mode {mode:04o}), who may have copied it; close it with: \
         chmod 600 {} (or remove it: a new one is made, and every token must be made anew)",
        .path.display(), .path.display()
    )]
    OpenKey {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The path exists and is something else.
    #[error("{} is not a {expected}", .path.display())]
    WrongKind {
        /// What was looked at.
        path: PathBuf,
        /// `directory` or `regular file`.
        expected: &'static str,
    },
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
    /// Another file in the directory cannot be made or read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The operating system said no.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// A verb: `read`, `write`, ….
        action: &'static str,
        /// What was touched.
        path: PathBuf,
        #[source]
        /// What the system answered.
        source: io::Error,
    },
}

impl IssuerError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Returns where the key lies.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

/// Reads the key, making directory and key where they are missing.
pub(super) fn open(data_dir: &Path) -> Result<EncodingKey, IssuerError> {
    check_directory(data_dir)?;
    let path = path(data_dir);
    if let Some(key) = read(&path)? {
        return Ok(key);
    }
    let pem = new_pem().map_err(IssuerError::io("make", &path))?;
    private_file::create(&path, pem.as_bytes())?;
    // Whoever won the race, the key that lies there now is the one.
    read(&path)?.ok_or_else(|| IssuerError::io("read", &path)(io::ErrorKind::NotFound.into()))
}

fn check_directory(data_dir: &Path) -> Result<(), IssuerError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    let meta = match (made, fs::metadata(data_dir)) {
        (_, Ok(meta)) => meta,
        (Err(source), Err(_)) => return Err(IssuerError::io("make", data_dir)(source)),
        (Ok(()), Err(source)) => return Err(IssuerError::io("open", data_dir)(source)),
    };
    if !meta.is_dir() {
        return Err(IssuerError::WrongKind { path: data_dir.to_owned(), expected: "directory" });
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IssuerError::OpenDirectory { path: data_dir.to_owned(), mode });
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<EncodingKey>, IssuerError> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IssuerError::io("read", path)(source)),
    };
    if !meta.is_file() {
        return Err(IssuerError::WrongKind { path: path.to_owned(), expected: "regular file" });
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IssuerError::OpenKey { path: path.to_owned(), mode });
    }
    let pem = fs::read(path).map_err(IssuerError::io("read", path))?;
    EncodingKey::from_ed_pem(&pem)
        .map(Some)
        .map_err(|source| IssuerError::BadKey { path: path.to_owned(), source })
}

fn new_pem() -> io::Result<String> {
    let mut secret = [0; 32];
    SysRng.try_fill_bytes(&mut secret).map_err(io::Error::other)?;
    let der = [&PKCS8_PREFIX[..], &secret].concat();
    Ok(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der)))
}
