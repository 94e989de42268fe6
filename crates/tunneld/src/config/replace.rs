//! Writing a file of the user's so that a reader sees the old text or the new one, never a part.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Symbolic links that are followed before it counts as a loop; the kernel's own limit.
const MAX_LINKS: usize = 40;
/// Permissions of a file that we make: it may name machines of the user's.
const NEW_FILE_MODE: u32 = 0o600;
/// Permissions of a directory that we make.
const NEW_DIRECTORY_MODE: u32 = 0o700;

/// Gives the file at `path` this text, once `still_wanted` agrees.
///
/// A symbolic link stays and what it points to is replaced. Permissions stay; a new file is its user's only. The
/// text is on the disk when this returns. `still_wanted` is asked as late as possible, right before the new text
/// takes the place of the old one.
pub(super) fn replace(path: &Path, text: &str, still_wanted: impl FnOnce() -> bool) -> io::Result<Replaced> {
    let target = follow(path)?;
    let permissions = match fs::metadata(&target) {
        // Whoever took the right to write away meant it, also where root may all the same.
        Ok(old) if old.permissions().readonly() => {
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the file is marked read-only"));
        }
        Ok(old) => old.permissions(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Permissions::from_mode(NEW_FILE_MODE),
        Err(error) => return Err(error),
    };
    let directory = target.parent().unwrap_or(Path::new("/"));
    make_directory(directory)?;
    let temporary = Temporary::new(directory)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(NEW_FILE_MODE).open(&temporary.0)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(permissions)?;
    file.sync_all()?;
    if !still_wanted() {
        return Ok(Replaced::NotWanted);
    }
    fs::rename(&temporary.0, &target)?;
    // The new name must survive a loss of power too. Some file systems cannot sync a directory; the file is there.
    let _synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
    Ok(Replaced::Done)
}

/// What became of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaced {
    Done,
    /// Whoever was asked said no; nothing has changed.
    NotWanted,
}

/// Makes a directory and those above it, for the user only, if they are not there.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(NEW_DIRECTORY_MODE).create(path)
}

/// Writes a new file that is its user's only. Fails when there is one of that name.
pub(super) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(NEW_FILE_MODE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Returns what a path leads to through symbolic links, whether that exists or not.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            // What is there is no link, or nothing is there.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the symbolic links lead in a circle"))
}

/// A name for a file beside the one that is replaced; gone again unless it was renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self(directory.join(format!(".tunnel_config.{:016x}.tmp", rand::random::<u64>()))))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn new_file_and_its_directories_are_the_users_only() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b/c.json");
        assert_eq!(replace(&path, "{}", || true).unwrap(), Replaced::Done);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn links_are_followed_and_permissions_stay() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("real")).unwrap();
        let real = home.path().join("real/file.json");
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        symlink("real/file.json", home.path().join("middle")).unwrap();
        let link = home.path().join("link");
        symlink(home.path().join("middle"), &link).unwrap();
        replace(&link, "new", || true).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(mode(&real), 0o640);
    }

    #[test]
    fn link_to_nowhere_gets_its_target_and_a_circle_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("link");
        symlink("later/file.json", &link).unwrap();
        replace(&link, "new", || true).unwrap();
        assert_eq!(fs::read_to_string(home.path().join("later/file.json")).unwrap(), "new");
        let circle = home.path().join("circle");
        symlink("circle", &circle).unwrap();
        assert!(replace(&circle, "new", || true).is_err());
    }

    #[test]
    fn read_only_file_stays_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("c.json");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        let error = replace(&path, "new", || true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn what_is_not_wanted_any_more_leaves_no_trace() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("c.json");
        fs::write(&path, "old").unwrap();
        assert_eq!(replace(&path, "new", || false).unwrap(), Replaced::NotWanted);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
