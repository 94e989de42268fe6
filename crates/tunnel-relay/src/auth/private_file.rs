//! Files that nobody else may read: keys, secrets, the list of revoked tokens.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// Others can read or write it.
    #[error(
        "{} is open to other users (mode {mode:04o}), who may have read or changed it; close it with: chmod 600 {}",
        .path.display(), .path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The path exists and is something else.
    #[error("{} is not a regular file", .path.display())]
    WrongKind {
        /// What was looked at.
        path: PathBuf,
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
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    changed: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self { changed: meta.modified().ok(), bytes: meta.len(), inode: meta.ino() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Returns a file's stamp; `None` where there is no such file.
pub(super) fn stamp(path: &Path) -> Result<Option<Stamp>, PrivateFileError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(Stamp::of(&meta))),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PrivateFileError::io("read", path)(source)),
    }
}

/// Reads a file of at most `max` bytes; `None` where there is none.
pub(super) fn read(path: &Path, max: u64) -> Result<Option<(Vec<u8>, Stamp)>, PrivateFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PrivateFileError::io("read", path)(source)),
    };
    let meta = file.metadata().map_err(PrivateFileError::io("read", path))?;
    if !meta.is_file() {
        return Err(PrivateFileError::WrongKind { path: path.to_owned() });
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Open { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(PrivateFileError::io("read", path))?;
    if bytes.len() as u64 > max {
        return Err(PrivateFileError::TooLong { path: path.to_owned(), max });
    }
    Ok(Some((bytes, Stamp::of(&meta))))
}

/// Writes a new file beside its place and links it there, so that a half-written one is never seen and the first of two
/// makers wins. A file that is there stays.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<(), PrivateFileError> {
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
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), PrivateFileError> {
    let draft = draft_of(path);
    write_new(&draft, content).map_err(PrivateFileError::io("write", &draft))?;
    fs::rename(&draft, path).map_err(PrivateFileError::io("write", path))?;
    sync_directory(path)
}

/// Adds to a file, which is made when missing; returns when it is on the disk.
pub(super) fn append(path: &Path, content: &[u8]) -> Result<(), PrivateFileError> {
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

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(path: &Path) -> Result<(), PrivateFileError> {
    let dir = directory(path);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(PrivateFileError::io("write", dir))
}
