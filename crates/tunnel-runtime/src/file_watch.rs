//! Notices that a file may be another one: watches every directory that decides what its path leads to.
//!
//! A watch on the file itself would miss most saves: editors rename a new file over the old one, and a mounted
//! ConfigMap swaps a link further up. What is watched instead are the directory that holds the file, the
//! directories of all symbolic links on the way, and, where the way ends early, the directory in which it would go
//! on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

/// Symbolic links that are followed before it counts as a loop; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Watches the ways to some paths.
pub struct FileWatch {
    /// None where the system has no watches left; whoever waits looks by itself now and then.
    watcher: Option<RecommendedWatcher>,
    /// Watched directories, each with the inode that it was at that time.
    watched: HashMap<PathBuf, (u64, u64)>,
    names: Names,
    changed: Arc<Notify>,
}

/// Full names whose events matter; everything else that happens in a watched directory does not.
type Names = Arc<Mutex<HashSet<PathBuf>>>;

impl FileWatch {
    /// Begins with nothing to watch. Has a thread of its own, which sleeps until the kernel tells something.
    pub fn start() -> Self {
        let (names, changed) = (Names::default(), Arc::new(Notify::new()));
        let handler = {
            let (names, changed) = (Arc::clone(&names), Arc::clone(&changed));
            move |event: notify::Result<Event>| {
                if event.as_ref().map_or(true, |event| matters(event, &names)) {
                    changed.notify_one();
                }
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| debug!(%error, "files cannot be watched, they are looked at now and then"))
            .ok();
        Self { watcher, watched: HashMap::new(), names, changed }
    }

    /// Returns what is told after each event; several in a row may be one.
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Watches the ways to these paths as they are now, and nothing else. Looks at the file system.
    ///
    /// To be called before the files are read: what changes after that is told.
    pub fn aim(&mut self, paths: &[PathBuf]) {
        let mut way = Way::default();
        paths.iter().for_each(|path| way.follow(path));
        // The directories themselves too: that one is deleted or moved away is told under its own name.
        way.names.extend(way.directories.iter().cloned());
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = way.names;

        let Some(watcher) = &mut self.watcher else { return };
        let wanted: HashMap<PathBuf, (u64, u64)> = way
            .directories
            .into_iter()
            .filter_map(|directory| {
                let identity = identity(&directory).ok()?;
                Some((directory, identity))
            })
            .collect();
        for (gone, _) in self.watched.extract_if(|path, identity| wanted.get(path) != Some(identity)) {
            // The kernel has dropped the watch of a deleted directory already.
            let _unwatched = watcher.unwatch(&gone);
        }
        for (directory, identity) in wanted {
            if self.watched.contains_key(&directory) {
                continue;
            }
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(directory, identity)),
                Err(error) => {
                    debug!(directory = %directory.display(), %error, "cannot be watched, is looked at now and then");
                }
            }
        }
    }
}

/// Silence after which a changed file is read: editors write in several steps.
const SETTLED: Duration = Duration::from_millis(200);
/// Longest wait for that silence; a file that never rests is read all the same.
const AT_LATEST: Duration = Duration::from_secs(2);

/// When a file that changes is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    at: Instant,
    latest: Instant,
}

impl Due {
    /// Returns when that is after a further event: later than before, but not for ever.
    pub fn after(before: Option<Self>, now: Instant) -> Self {
        let latest = before.map_or(now + AT_LATEST, |before| before.latest);
        Self { at: (now + SETTLED).min(latest), latest }
    }

    /// Waits until a file is to be read; for ever where none is.
    pub async fn reached(due: Option<Self>) {
        match due {
            Some(due) => tokio::time::sleep_until(due.at).await,
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWatch").field("watched", &self.watched.keys()).finish_non_exhaustive()
    }
}

/// Tells whether an event may change what a path leads to or what is there.
fn matters(event: &Event, names: &Names) -> bool {
    // Reading a file is an event too; reacting to it would read it again.
    let reads = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    // After an overflow of the kernel's queue nobody knows what was lost.
    event.need_rescan() || (!reads && event.paths.iter().any(|path| names.contains(path)))
}

fn identity(directory: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(directory)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// What decides where paths lead to.
#[derive(Default)]
struct Way {
    /// Directories to watch, without symbolic links in their names.
    directories: HashSet<PathBuf>,
    /// The entries in them that matter.
    names: HashSet<PathBuf>,
}

impl Way {
    /// Follows a path as the kernel does, as far as it goes.
    fn follow(&mut self, path: &Path) {
        // Cannot fail unless the working directory is gone; then a relative path leads nowhere.
        let Ok(path) = std::path::absolute(path) else { return };
        let mut rest = parts(&path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            let entry = match part {
                Part::Up => {
                    here.pop();
                    continue;
                }
                Part::Root => {
                    here = PathBuf::from("/");
                    continue;
                }
                Part::Name(name) => here.join(name),
            };
            match fs::symlink_metadata(&entry) {
                Ok(metadata) if metadata.is_symlink() => {
                    self.note(&here, entry.clone());
                    links += 1;
                    let Ok(target) = fs::read_link(&entry) else { return };
                    if links > MAX_LINKS {
                        return;
                    }
                    for part in parts(&target).into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                Ok(metadata) if metadata.is_dir() && !rest.is_empty() => here = entry,
                // The file, or the place where the way would go on.
                Ok(_) | Err(_) => return self.note(&here, entry),
            }
        }
    }

    fn note(&mut self, directory: &Path, entry: PathBuf) {
        self.directories.insert(directory.to_owned());
        self.names.insert(entry);
    }
}

/// One step of a path.
enum Part {
    Root,
    Up,
    Name(OsString),
}

fn parts(path: &Path) -> VecDeque<Part> {
    let part = |component| match component {
        Component::RootDir => Some(Part::Root),
        Component::ParentDir => Some(Part::Up),
        Component::Normal(name) => Some(Part::Name(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn way(path: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let mut way = Way::default();
        way.follow(path);
        let sorted = |set: HashSet<PathBuf>| {
            let mut paths: Vec<PathBuf> = set.into_iter().collect();
            paths.sort();
            paths
        };
        (sorted(way.directories), sorted(way.names))
    }

    fn home() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap();
        (home, path)
    }

    #[test]
    fn plain_file_is_watched_through_its_directory() {
        let (_guard, home) = home();
        fs::write(home.join("c.json"), "").unwrap();
        assert_eq!(way(&home.join("c.json")), (vec![home.clone()], vec![home.join("c.json")]));
        assert_eq!(way(&home.join("./c.json")).0, std::slice::from_ref(&home));
    }

    #[test]
    fn way_that_ends_early_is_watched_where_it_would_go_on() {
        let (_guard, home) = home();
        assert_eq!(way(&home.join("a/b/c.json")), (vec![home.clone()], vec![home.join("a")]));
    }

    #[test]
    fn every_link_on_the_way_counts() {
        let (_guard, home) = home();
        fs::create_dir_all(home.join("mount/..v1")).unwrap();
        fs::write(home.join("mount/..v1/c.json"), "").unwrap();
        symlink("..v1", home.join("mount/..data")).unwrap();
        symlink("..data/c.json", home.join("mount/c.json")).unwrap();
        symlink(home.join("mount"), home.join("link")).unwrap();
        let (directories, names) = way(&home.join("link/c.json"));
        assert_eq!(directories, [home.clone(), home.join("mount"), home.join("mount/..v1")]);
        let mount = home.join("mount");
        assert_eq!(
            names,
            [home.join("link"), mount.join("..data"), mount.join("..v1/c.json"), mount.join("c.json")]
        );
    }

    #[test]
    fn circle_of_links_ends() {
        let (_guard, home) = home();
        symlink("b", home.join("a")).unwrap();
        symlink("a", home.join("b")).unwrap();
        assert_eq!(way(&home.join("a")).1, [home.join("a"), home.join("b")]);
    }

    #[test]
    fn file_that_never_rests_is_read_all_the_same() {
        let start = Instant::now();
        let mut due = Due::after(None, start);
        assert_eq!(due.at, start + SETTLED);
        for step in 1..100 {
            due = Due::after(Some(due), start + SETTLED / 2 * step);
        }
        assert_eq!(due.at, start + AT_LATEST);
    }
}
