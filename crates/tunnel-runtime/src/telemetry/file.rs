//! A log file of bounded size, written by a thread of its own: whoever logs never waits for the disk.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Size at which the file becomes `<name>.1`, in place of the one before: twice this much is kept.
const MAX_BYTES: u64 = 10 * 1024 * 1024;
/// Lines that wait for the disk. Further ones are dropped and counted; the file then tells how many.
const MAX_WAITING: usize = 512;
/// Longest wait for the disk at the end of the process.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The way to the file, for those who log. Clones lead to the same one.
#[derive(Clone, Debug)]
pub(super) struct FileLog {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// Writes what is still waiting when it is dropped.
#[derive(Debug)]
pub(super) struct FlushAtEnd(FileLog);

#[derive(Debug)]
enum Message {
    Line(Box<[u8]>),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

impl FileLog {
    /// Opens `path` for appending, 0600, and starts the thread. Directories that are missing are made, 0700.
    pub(super) fn open(path: &Path) -> io::Result<(Self, FlushAtEnd)> {
        let file = BoundedFile::open(path, MAX_BYTES)?;
        let (lines, waiting) = sync_channel(MAX_WAITING);
        let log = Self { lines, dropped: Arc::default() };
        let dropped = Arc::clone(&log.dropped);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&waiting, file, &dropped))?;
        Ok((log.clone(), FlushAtEnd(log)))
    }
}

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        let (written, wait) = sync_channel(1);
        if self.0.lines.try_send(Message::Flush(written)).is_ok() {
            // A disk that does not answer keeps nobody from ending.
            let _in_time = wait.recv_timeout(FLUSH_LIMIT);
        }
    }
}

impl<'a> MakeWriter<'a> for FileLog {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for FileLog {
    /// Takes a whole event: that is how `tracing_subscriber` writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.lines.try_send(Message::Line(line.into())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(waiting: &Receiver<Message>, mut file: BoundedFile, dropped: &AtomicU64) {
    while let Ok(message) = waiting.recv() {
        match message {
            Message::Line(line) => {
                let lost = dropped.swap(0, Ordering::Relaxed);
                let told =
                    lost == 0 || file.append(format!("{lost} log lines were dropped\n").as_bytes()).is_ok();
                // A full disk is nothing to log about; what is lost is told once there is room.
                let lost_now = u64::from(file.append(&line).is_err()) + if told { 0 } else { lost };
                dropped.fetch_add(lost_now, Ordering::Relaxed);
            }
            // Nobody may be waiting any more.
            Message::Flush(written) => drop(written.try_send(())),
        }
    }
}

/// A file that is appended to and begun anew when it is full.
struct BoundedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// None for what is no regular file, such as a pipe.
    max_bytes: Option<u64>,
}

impl BoundedFile {
    fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let meta = file.metadata()?;
        let regular = meta.is_file();
        if regular && meta.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        let max_bytes = regular.then_some(max_bytes);
        Ok(Self { path: path.to_owned(), file, bytes: meta.len(), max_bytes })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.max_bytes.is_some_and(|max| self.bytes > 0 && self.bytes + length > max) {
            self.begin_anew()?;
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(())
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        fs::rename(&self.path, older)?;
        let max_bytes = self.max_bytes.unwrap_or(MAX_BYTES);
        *self = Self::open(&self.path, max_bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_file_is_kept_once_and_begun_anew() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("logs/tunneld.log");
        let mut file = BoundedFile::open(&path, 100).unwrap();
        for n in 0..50 {
            file.append(format!("line {n:04}\n").as_bytes()).unwrap();
        }
        let (now, before) = (fs::read_to_string(&path).unwrap(), path.with_file_name("tunneld.log.1"));
        assert!(now.ends_with("line 0049\n") && now.len() <= 100, "{now}");
        assert_eq!(fs::read_to_string(before).unwrap().len(), 100);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
        // Size counts over restarts.
        drop(file);
        let mut file = BoundedFile::open(&path, 100).unwrap();
        file.append(&[b'x'; 90]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 90);
    }

    #[test]
    fn file_and_directory_are_for_the_user_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("logs/tunneld.log");
        drop(BoundedFile::open(&path, 100).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        drop(BoundedFile::open(&path, 100).unwrap());
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn what_was_logged_is_written_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tunneld.log");
        let (mut log, end) = FileLog::open(&path).unwrap();
        for n in 0..100 {
            log.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        drop(end);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 100);
    }

    #[test]
    fn stalled_disk_costs_lines_and_no_time() {
        // Nobody receives: the disk that does not answer.
        let (lines, waiting) = sync_channel(2);
        let mut log = FileLog { lines, dropped: Arc::default() };
        for n in 0..5 {
            log.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        assert_eq!(log.dropped.load(Ordering::Relaxed), 3);

        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tunneld.log");
        let dropped = Arc::clone(&log.dropped);
        drop(log);
        write(&waiting, BoundedFile::open(&path, 1000).unwrap(), &dropped);
        assert_eq!(fs::read_to_string(&path).unwrap(), "3 log lines were dropped\n0\n1\n");
    }
}
