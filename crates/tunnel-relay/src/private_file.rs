//! Files that nobody else may read: keys, secrets, the list of revoked tokens.
//!
//! All of them lie in the data directory or where the operator has put them. What is open to others is refused rather
//! than closed: it may have been read or changed already, and only a person can say what that means.
//!
//! What systemd hands over with `LoadCredential=` is an exception: on a file system with access lists the file is root's
//! and the list lets the service's user read it, which shows as the group's permission (0440). The directory is closed to
//! all others.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rand::TryRng as _;
use rand::rngs::SysRng;

use crate::hex::hex;

/// Bytes of a secret that is made here. The file has them in hexadecimal.
const SECRET_BYTES: usize = 32;
/// Longest file of a secret that is read: its digits, and what an editor may have added.
const SECRET_FILE_MAX_BYTES: u64 = 4 * 1024;

/// How the access list of a credential shows in its permissions.
const GROUP_READS: u32 = 0o040;

/// Why such a file, or the directory that it lies in, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// Others can read or write the file.
    #[error(
        "{} is open to other users (mode {mode:04o}), who may have read or changed it; close it with: chmod 600 {}{or}",
        .path.display(), .path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What else can be done, as the end of the sentence. Empty: nothing.
        or: &'static str,
    },
    /// Others can read or write the data directory.
    #[error(
        "the data directory {} is open to other users (mode {mode:04o}); close it with: chmod 700 {}",
        .path.display(), .path.display()
    )]
    OpenDirectory {
        /// The directory.
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
    /// It is longer than such a file can be.
    #[error("{} is longer than {max} bytes", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        max: u64,
    },
    /// What it holds makes no sense.
    #[error("{} {why}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: &'static str,
    },
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

impl PrivateFileError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// The file should be there and is not.
    pub(crate) fn missing(path: &Path) -> Self {
        Self::io("read", path)(io::ErrorKind::NotFound.into())
    }

    /// Says what else can be done about a file that is open to others.
    pub(crate) fn or(mut self, remedy: &'static str) -> Self {
        if let Self::Open { or, .. } = &mut self {
            *or = remedy;
        }
        self
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    changed: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self { changed: meta.modified().ok(), bytes: meta.len(), inode: meta.ino() }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Makes the data directory where it is missing, for the relay's user alone.
pub(crate) fn make_directory(path: &Path) -> Result<(), PrivateFileError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    let meta = match (made, fs::metadata(path)) {
        (_, Ok(meta)) => meta,
        (Err(source), Err(_)) => return Err(PrivateFileError::io("make", path)(source)),
        (Ok(()), Err(source)) => return Err(PrivateFileError::io("open", path)(source)),
    };
    if !meta.is_dir() {
        return Err(PrivateFileError::WrongKind { path: path.to_owned(), expected: "directory" });
    }
    match open_mode(&meta) {
        Some(mode) => Err(PrivateFileError::OpenDirectory { path: path.to_owned(), mode }),
        None => Ok(()),
    }
}

/// Returns a file's stamp; `None` where there is no such file.
pub(crate) fn stamp(path: &Path) -> Result<Option<Stamp>, PrivateFileError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(Stamp::of(&meta))),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PrivateFileError::io("read", path)(source)),
    }
}

/// Reads a file of at most `max` bytes; `None` where there is none.
pub(crate) fn read(path: &Path, max: u64) -> Result<Option<(Vec<u8>, Stamp)>, PrivateFileError> {
    read_where(path, max, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new))
}

/// Reads a file that may lie in the directory of systemd's credentials.
fn read_where(
    path: &Path,
    max: u64,
    credentials: Option<&Path>,
) -> Result<Option<(Vec<u8>, Stamp)>, PrivateFileError> {
    let io = |source| PrivateFileError::io("read", path)(source);
    // Before it is opened, which waits for a writer where it is a pipe.
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => {
            return Err(PrivateFileError::WrongKind { path: path.to_owned(), expected: "regular file" });
        }
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(source)),
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io(source)),
    };
    let meta = file.metadata().map_err(io)?;
    let is_credential = credentials.is_some_and(|dir| dir.is_absolute() && path.parent() == Some(dir));
    if let Some(mode) = open_mode(&meta)
        && !(is_credential && mode & !0o700 == GROUP_READS)
    {
        return Err(PrivateFileError::Open { path: path.to_owned(), mode, or: "" });
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max {
        return Err(PrivateFileError::TooLong { path: path.to_owned(), max });
    }
    Ok(Some((bytes, Stamp::of(&meta))))
}

/// Reads a file of at most `max` bytes, making it where it is missing.
///
/// Of several that make it at the same time one wins, and all return what that one has written.
pub(crate) fn read_or_make(
    path: &Path,
    max: u64,
    make: impl FnOnce() -> io::Result<String>,
) -> Result<Vec<u8>, PrivateFileError> {
    if let Some((bytes, _)) = read(path, max)? {
        return Ok(bytes);
    }
    create(path, make().map_err(PrivateFileError::io("make", path))?.as_bytes())?;
    let (bytes, _) = read(path, max)?.ok_or_else(|| PrivateFileError::missing(path))?;
    Ok(bytes)
}

/// Reads a secret, making it where it is missing. Returns its 64 hexadecimal digits.
pub(crate) fn secret(path: &Path) -> Result<String, PrivateFileError> {
    digits(path, read_or_make(path, SECRET_FILE_MAX_BYTES, new_secret))
}

/// Reads a secret that [`secret`] has made. Returns its 64 hexadecimal digits.
pub(crate) fn read_secret(path: &Path) -> Result<String, PrivateFileError> {
    let read = read(path, SECRET_FILE_MAX_BYTES);
    digits(path, read.and_then(|read| Ok(read.ok_or_else(|| PrivateFileError::missing(path))?.0)))
}

fn digits(path: &Path, read: Result<Vec<u8>, PrivateFileError>) -> Result<String, PrivateFileError> {
    let text = read.map_err(|error| {
        error
            .or(" (or, since whoever has read it can use it, remove it: a new one is made at the next start)")
    })?;
    let digits = std::str::from_utf8(text.trim_ascii()).ok();
    let digits = digits.filter(|digits| digits.len() == SECRET_BYTES * 2);
    match digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(digits) => Ok(digits.to_owned()),
        None => Err(PrivateFileError::Content {
            path: path.to_owned(),
            why: "holds no secret of 64 hexadecimal digits; restore it, or remove it: a new one is made at the next \
                  start",
        }),
    }
}

/// Makes the content of a secret's file.
pub(crate) fn new_secret() -> io::Result<String> {
    let mut secret = [0; SECRET_BYTES];
    SysRng.try_fill_bytes(&mut secret).map_err(io::Error::other)?;
    Ok(hex(&secret) + "\n")
}

/// Writes a new file beside its place and links it there, so that a half-written one is never seen and the first of two
/// makers wins. A file that is there stays.
fn create(path: &Path, content: &[u8]) -> Result<(), PrivateFileError> {
    let draft = draft_of(path);
    let written = write_new(&draft, content).map_err(PrivateFileError::io("write", &draft));
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Ok(()) => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(PrivateFileError::io("write", path)(source)),
    });
    let removed = match fs::remove_file(&draft) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PrivateFileError::io("remove", &draft)(source))
        }
        Ok(()) | Err(_) => Ok(()),
    };
    linked.and(removed)?;
    sync_directory(path)
}

/// Writes a file beside its place and moves it there: readers see the old one or the new one.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), PrivateFileError> {
    let draft = draft_of(path);
    write_new(&draft, content).map_err(PrivateFileError::io("write", &draft))?;
    fs::rename(&draft, path).map_err(PrivateFileError::io("write", path))?;
    sync_directory(path)
}

/// Adds to a file, which is made when missing; returns when it is on the disk.
pub(crate) fn append(path: &Path, content: &[u8]) -> Result<(), PrivateFileError> {
    let appended = || -> io::Result<bool> {
        let is_new = !path.try_exists()?;
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        if is_new {
            own(&file, path)?;
        }
        file.write_all(content)?;
        file.sync_data()?;
        Ok(is_new)
    };
    if appended().map_err(PrivateFileError::io("write", path))? {
        sync_directory(path)?;
    }
    Ok(())
}

fn draft_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{:016x}", rand::random::<u64>()))
}

fn write_new(draft: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    own(&file, draft)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Gives a file that was just made the mode and the owner that it should have.
fn own(file: &File, path: &Path) -> io::Result<()> {
    // The mode that it was made with is cut by the umask, which may be odd.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let (dir, own) = (fs::metadata(directory(path))?, file.metadata()?);
    if own.uid() == 0 && dir.uid() != 0 {
        // Root makes a token before the service has started: the service must be able to read the key.
        std::os::unix::fs::fchown(file, Some(dir.uid()), Some(dir.gid()))?;
    }
    Ok(())
}

/// Returns the permission bits, where they let others in.
fn open_mode(meta: &fs::Metadata) -> Option<u32> {
    let mode = meta.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(path: &Path) -> Result<(), PrivateFileError> {
    let dir = directory(path);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(PrivateFileError::io("write", dir))
}

#[cfg(test)]
mod tests;
