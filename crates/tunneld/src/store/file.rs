//! The database's files: made for one user only, set aside when damaged.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Name of the database in the state directory.
const NAME: &str = "state.db";
/// What marks a file that was set aside; a time follows.
const ASIDE: &str = ".corrupt-";
/// Damaged databases that are kept. A disk that damages one after the other must not fill up with them.
const ASIDE_KEPT: usize = 3;

/// Returns where the database is.
pub(super) fn path(directory: &Path) -> PathBuf {
    // An absolute path also keeps SQLite from taking a name such as `file:x` for a URI.
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned()).join(NAME)
}

/// Makes the directory (0700) and the file (0600) where they are missing; returns whether there is anything in it.
pub(super) fn prepare(path: &Path) -> io::Result<Content> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // SQLite gives the files beside it the same mode.
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(if meta.len() == 0 { Content::None } else { Content::Some })
}

/// Whether there is anything in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    None,
    Some,
}

/// Renames a damaged database with what belongs to it; returns where it is now.
///
/// Its log goes first: beside a new database, SQLite would play it back into that.
pub(super) fn set_aside(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let stamp = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut aside = with_suffix(path, &format!("{ASIDE}{stamp}"));
    let mut n = 1;
    while aside.try_exists()? {
        n += 1;
        aside = with_suffix(path, &format!("{ASIDE}{stamp}-{n}"));
    }
    for suffix in ["-wal", "-shm"] {
        match fs::rename(with_suffix(path, suffix), with_suffix(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    fs::rename(path, &aside)?;
    forget_oldest(path);
    Ok(aside)
}

/// Removes the oldest of the files that were set aside. One that cannot be removed does no harm.
fn forget_oldest(path: &Path) {
    let Some(entries) = path.parent().and_then(|directory| fs::read_dir(directory).ok()) else { return };
    let prefix = format!("{NAME}{ASIDE}");
    let is_database =
        |name: &str| name.starts_with(&prefix) && !name.ends_with("-wal") && !name.ends_with("-shm");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut asides: Vec<String> = names.filter(|name| is_database(name)).collect();
    // The time is in the name, so this is their order.
    asides.sort_unstable();
    for name in asides.iter().rev().skip(ASIDE_KEPT) {
        for suffix in ["-wal", "-shm", ""] {
            fs::remove_file(path.with_file_name(format!("{name}{suffix}"))).ok();
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_750_000_000 + second).unwrap()
    }

    #[test]
    fn only_this_user_may_look() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(&directory.path().join("new"));
        assert_eq!(prepare(&path).unwrap(), Content::None);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));

        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(prepare(&path).unwrap(), Content::Some);
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn damaged_database_is_set_aside_with_its_log_and_only_the_newest_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path());
        let names = || {
            let entries = fs::read_dir(directory.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort_unstable();
            names
        };
        let damage = |second: i64| {
            for suffix in ["", "-wal"] {
                fs::write(with_suffix(&path, suffix), second.to_string()).unwrap();
            }
            set_aside(&path, at(second)).unwrap()
        };
        let first = damage(0);
        assert_eq!(first, with_suffix(&path, ".corrupt-20250615T150640Z"));
        assert_eq!(names(), ["state.db.corrupt-20250615T150640Z", "state.db.corrupt-20250615T150640Z-wal"]);
        // Twice within a second; and more than are kept.
        for second in [0, 1, 2] {
            damage(second);
        }
        assert_eq!(names().len(), 2 * ASIDE_KEPT);
        assert!(!first.exists());
    }
}
