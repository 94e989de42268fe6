//! Copies of the configuration file, one before each change that we make.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tunnel_api::config_api::ConfigBackup;

use super::replace::{make_directory, write_new};

/// Copies that are kept; older ones of ours are deleted, other files are not touched.
const KEPT: usize = 20;
const PREFIX: &str = "tunnel_config_backup_";
const SUFFIX: &str = ".json";

/// The directory `backups` beside the configuration file.
#[derive(Debug, Clone)]
pub(crate) struct Backups {
    directory: PathBuf,
}

impl Backups {
    /// The copies of the file at this path.
    pub(crate) fn of(file: &Path) -> Self {
        Self { directory: file.parent().unwrap_or(Path::new("")).join("backups") }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Keeps a copy and returns its name. Copies that are too many go, the oldest first.
    pub(crate) fn keep(&self, text: &str, now: Timestamp) -> io::Result<String> {
        make_directory(&self.directory)?;
        // Names sort by time also after a clock was set back, and of two in one millisecond.
        let newest = self.names()?.last().and_then(|name| time_of(name));
        let behind = newest.and_then(|newest| newest.checked_add(SignedDuration::from_millis(1)).ok());
        let name = name(behind.map_or(now, |behind| behind.max(now)));
        write_new(&self.directory.join(&name), text)?;
        let listed = self.names()?;
        for old in listed.iter().rev().skip(KEPT) {
            // One that cannot be deleted is no reason to refuse a change.
            let _gone = fs::remove_file(self.directory.join(old));
        }
        Ok(name)
    }

    /// Returns all copies, the newest first.
    pub(crate) fn list(&self) -> io::Result<Vec<ConfigBackup>> {
        let described = |name: String| {
            let metadata = fs::metadata(self.directory.join(&name)).ok()?;
            let created_at = Timestamp::try_from(metadata.modified().ok()?).ok()?;
            Some(ConfigBackup { name, created_at, size_bytes: metadata.len() })
        };
        Ok(self.names()?.into_iter().rev().filter_map(described).collect())
    }

    /// Returns the file of a copy. None when the name is not one of ours, whatever it points at.
    pub(crate) fn find(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let known = self.names()?.iter().any(|known| known == name);
        Ok(known.then(|| self.directory.join(name)))
    }

    /// Names of our copies, the oldest first: they sort by time.
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| is_ours(name)).collect();
        names.sort();
        Ok(names)
    }
}

/// No colons: such copies are carried to other systems too.
const TIME: &str = "%Y-%m-%dT%H-%M-%S.%3fZ";

fn name(time: Timestamp) -> String {
    format!("{PREFIX}{}{SUFFIX}", time.strftime(TIME))
}

/// Returns the time in the name of a copy. None: it is no copy of ours.
fn time_of(name: &str) -> Option<Timestamp> {
    let time = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let time = DateTime::strptime(TIME, time).ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp())
}

fn is_ours(known: &str) -> bool {
    // Written again it must be the same: a reader of times takes other spellings too.
    time_of(known).is_some_and(|time| name(time) == known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_twenty_are_kept_and_other_files_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let backups = Backups::of(&home.path().join("tunnel_config.json"));
        assert!(backups.list().unwrap().is_empty());
        for number in 0..25 {
            if number == 1 {
                fs::write(backups.directory().join("mine.json"), "").unwrap();
            }
            // All in the same millisecond: names must differ and sort all the same.
            backups.keep(&number.to_string(), Timestamp::UNIX_EPOCH).unwrap();
        }
        let list = backups.list().unwrap();
        assert_eq!(list.len(), KEPT);
        let text =
            |backup: &ConfigBackup| fs::read_to_string(backups.directory().join(&backup.name)).unwrap();
        assert_eq!((text(&list[0]), text(&list[19])), ("24".to_owned(), "5".to_owned()));
        assert!(backups.directory().join("mine.json").exists());
    }

    #[test]
    fn only_names_of_ours_are_found() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("tunnel_config.json");
        fs::write(&file, "{}").unwrap();
        let backups = Backups::of(&file);
        let name = backups.keep("{}", Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(name, "tunnel_config_backup_1970-01-01T00-00-00.000Z.json");
        assert!(backups.find(&name).unwrap().is_some());
        fs::write(backups.directory().join("other.json"), "{}").unwrap();
        for bad in ["", ".", "..", "../tunnel_config.json", "/etc/passwd", "other.json", &format!("./{name}")]
        {
            assert!(backups.find(bad).unwrap().is_none(), "{bad}");
        }
    }
}
