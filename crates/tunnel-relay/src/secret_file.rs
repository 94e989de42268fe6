//! Small secrets in the data directory: made at the first start, readable by the relay's user only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rand::TryRng as _;
use rand::rngs::SysRng;

/// Bytes of each secret.
const SECRET_BYTES: usize = 32;
/// Longest file that is read: a secret in hexadecimal, and what an editor may have added.
const MAX_BYTES: u64 = 4_096;

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Others can read or write the file.
    #[error(
        "{} is open to other users (mode {mode:04o}), who may have copied it; remove it, and a new one is made at the \
         next start",
        .path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error(
        "{} holds no secret of 64 hexadecimal digits; restore it, or remove it: a new one is made at the next start",
        .path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The operating system said no.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// A verb: `read`, `write`.
        action: &'static str,
        /// What was touched.
        path: PathBuf,
        #[source]
        /// What the system answered.
        source: io::Error,
    },
}

impl SecretFileError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Reads a secret, making it where it is missing. Returns its 64 hexadecimal digits.
pub(crate) fn open(path: &Path) -> Result<String, SecretFileError> {
    match read(path) {
        Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    create(path).map_err(SecretFileError::io("write", path))?;
    // Whoever won the race, the secret that lies there now is the one.
    read(path)
}

/// Reads a secret that must be there.
pub(crate) fn read(path: &Path) -> Result<String, SecretFileError> {
    let io = |source| SecretFileError::io("read", path)(source);
    let file = File::open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(io)?;
    let secret = text.trim();
    if secret.len() != SECRET_BYTES * 2 || !secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(SecretFileError::Malformed { path: path.to_owned() });
    }
    Ok(secret.to_owned())
}

/// Writes a new secret beside its place and links it there, so that half of one is never seen and the first of two
/// makers wins.
fn create(path: &Path) -> io::Result<()> {
    let mut secret = [0; SECRET_BYTES];
    SysRng.try_fill_bytes(&mut secret).map_err(io::Error::other)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}", rand::random::<u64>()));
    let draft = PathBuf::from(draft);
    let written = write_new(&draft, &hex(&secret)).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    });
    let removed = match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    written.and(removed)
}

fn write_new(draft: &Path, secret: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    // The mode above is cut by the umask, which may be odd.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let directory = draft.parent().map(fs::metadata).transpose()?;
    if let Some(directory) = directory
        && file.metadata()?.uid() == 0
        && directory.uid() != 0
    {
        // Root ran a command before the service has started: the service must be able to read it.
        std::os::unix::fs::fchown(&file, Some(directory.uid()), Some(directory.gid()))?;
    }
    writeln!(file, "{secret}")?;
    file.sync_all()
}

/// Returns the hexadecimal digits of some bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        let made = open(&path).unwrap();
        assert_eq!(open(&path).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
        assert_ne!(open(&dir.path().join("other")).unwrap(), made);
    }

    #[test]
    fn a_secret_that_others_can_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin-token");
        open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(open(&path), Err(SecretFileError::Open { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short\n").unwrap();
        assert!(matches!(open(&path), Err(SecretFileError::Malformed { .. })));
    }
}
