//! The configuration file, read and written without a daemon.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::refusal::Refusal;

/// Longest file that is read, in bytes; the daemon has the same limit for its own.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Permissions of a directory that is made: nobody else's business.
const NEW_DIRECTORY_MODE: u32 = 0o700;

pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(text)
}

/// Reads a file that somebody named.
pub(super) fn named(path: &Path) -> anyhow::Result<String> {
    read(path).map_err(|error| Refusal::unread(path, error))
}

/// Reads a file that need not be there.
pub(super) fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a file another text, unless it says something else than `old` by now; tells whether that was so.
///
/// A reader sees the one text or the other, never a part. A symbolic link stays, and so do permissions; a new file
/// is its user's only.
pub(super) fn replace(path: &Path, old: Option<&str>, new: &str) -> io::Result<bool> {
    if old.is_none() {
        return create(path, new);
    }
    let target = fs::canonicalize(path)?;
    let permissions = fs::metadata(&target)?.permissions();
    if permissions.readonly() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is marked read-only"));
    }
    let temporary = written(directory(&target), new)?;
    temporary.as_file().set_permissions(Permissions::from_mode(permissions.mode()))?;
    temporary.as_file().sync_all()?;
    // As late as possible: whoever writes between this and the next line loses, as with any editor.
    if read_if_there(&target)?.as_deref() != old {
        return Ok(false);
    }
    temporary.persist(&target).map_err(|error| error.error)?;
    Ok(true)
}

/// Makes a file that is its user's only; tells whether there was none.
pub(super) fn create(path: &Path, text: &str) -> io::Result<bool> {
    let directory = directory(path);
    DirBuilder::new().recursive(true).mode(NEW_DIRECTORY_MODE).create(directory)?;
    let temporary = written(directory, text)?;
    temporary.as_file().sync_all()?;
    match temporary.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Writes a file of another name in the same directory, so that it can take the place of the one that is meant.
fn written(directory: &Path, text: &str) -> io::Result<NamedTempFile> {
    let mut temporary =
        tempfile::Builder::new().prefix(".tunnel_config.").suffix(".tmp").tempfile_in(directory)?;
    temporary.write_all(text.as_bytes())?;
    Ok(temporary)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a file to type in, beside nothing: its user's only, with a name that editors know the language by.
pub(super) fn draft(text: &str) -> io::Result<PathBuf> {
    let mut draft = tempfile::Builder::new().prefix("tunnel_config.").suffix(".json").tempfile()?;
    draft.write_all(text.as_bytes())?;
    // Kept until it is known that nothing is lost with it.
    draft.into_temp_path().keep().map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn new_file_is_its_users_only_and_never_replaces_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/c.json");
        assert!(create(&path, "{}").unwrap());
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(!create(&path, "other").unwrap());
        assert!(!replace(&path, None, "other").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn link_and_permissions_stay() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("real.json"), home.path().join("link.json"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        symlink("real.json", &link).unwrap();
        assert!(replace(&link, Some("old"), "new").unwrap());
        assert_eq!((fs::read_to_string(&real).unwrap().as_str(), mode(&real)), ("new", 0o640));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_somebody_else_wrote_stays() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("c.json");
        fs::write(&path, "theirs").unwrap();
        assert!(!replace(&path, Some("old"), "mine").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
