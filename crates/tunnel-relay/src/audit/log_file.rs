//! The log on the disk: opened where it ended, appended to, rotated. Everything here may wait for the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::audit::head;
use crate::audit::line::{self, Chain, Record};
use crate::audit::pseudonym::Pseudonyms;

/// When a file is full, and how many full ones are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    pub(super) max_bytes: u64,
    pub(super) keep: usize,
}

impl Default for Rotation {
    /// Half a GiB in all, which is some two million lines.
    fn default() -> Self {
        Self { max_bytes: 64 * 1024 * 1024, keep: 8 }
    }
}

/// Most relays that write beside each other into one directory, each its own log: two while one is replaced.
const WRITERS_MAX: usize = 9;

/// How much of a log's end is searched for its last good line. Lines are far shorter, and so is what a crash leaves.
const TAIL_BYTES: u64 = 1024 * 1024;

/// The longest file without a good line that is taken for the rest of its first one. A longer one is another's.
const FIRST_LINE_MAX: u64 = 4 * 1024;

/// A log that this process alone writes.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    chain: Chain,
    rotation: Rotation,
    /// Held as long as the log is written: two writers would break the chain.
    _lock: File,
}

impl LogFile {
    /// Opens the log, or, where another process writes it, the next one: `audit-2.jsonl` beside `audit.jsonl`.
    pub(super) fn open(base: &Path, rotation: Rotation, names: &Pseudonyms) -> io::Result<Self> {
        for n in 1..=WRITERS_MAX {
            let path = nth(base, n);
            let lock = private().create(true).truncate(false).open(path.with_extension("lock"))?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self::open_locked(path, lock, rotation, names),
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "too many processes write audit logs here"))
    }

    fn open_locked(path: PathBuf, lock: File, rotation: Rotation, names: &Pseudonyms) -> io::Result<Self> {
        let file = append_to(&path)?;
        let len = file.metadata()?.len();
        let mut end = read_end(&path)?;
        let mut chain = end.chain.take();
        let is_begun = chain.is_some();
        let foreign = !is_begun && len > FIRST_LINE_MAX;
        if !is_begun && !foreign {
            // A crash in the middle of a rotation leaves the file before, and of the next nothing, or some of a line.
            chain = read_end(&rotated(&path, 1))?.chain;
        }
        let mut log = Self { path, file, len, chain: chain.unwrap_or_default(), rotation, _lock: lock };
        let mut first = Vec::new();
        if foreign {
            // Nothing in it that could be gone on from: it is kept, and verified as what it is.
            log.begin_next(names)?;
        } else {
            if !is_begun {
                first.push(Record::opened(Timestamp::now()));
            }
            if end.unfinished {
                // On a line of its own, so that every line is an event or the rest of one.
                log.file.write_all(b"\n")?;
                log.len += 1;
            }
            if !end.torn.is_empty() {
                first.push(Record::torn(&end.torn, Timestamp::now()));
            }
        }
        match head::read(&log.path) {
            Ok(Some(head)) if head.seq > log.chain.seq => {
                first.push(Record::head_differs(head.seq - log.chain.seq, Timestamp::now()));
            }
            Ok(Some(head)) if head.seq == log.chain.seq && head != log.chain => {
                first.push(Record::head_differs(0, Timestamp::now()));
            }
            Err(_) => first.push(Record::head_differs(0, Timestamp::now())),
            Ok(Some(_) | None) => {}
        }
        log.append(&first, names)?;
        Ok(log)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes lines, all of them or, when it fails, none.
    pub(super) fn append(&mut self, records: &[Record], names: &Pseudonyms) -> io::Result<()> {
        if self.len >= self.rotation.max_bytes {
            self.sync()?;
            self.begin_next(names)?;
        }
        let mut chain = self.chain.clone();
        let mut bytes = Vec::new();
        for record in records {
            chain.push(record, names, &mut bytes);
        }
        if let Err(error) = self.file.write_all(&bytes) {
            // What went out of it would be a torn line; if this fails, too, it is one.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += bytes.len() as u64;
        self.chain = chain;
        Ok(())
    }

    /// Waits until everything is on the disk, and writes the head.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        head::write(&self.path, &self.chain)
    }

    /// Puts the file away and begins the next, which names the last hash of this one.
    fn begin_next(&mut self, names: &Pseudonyms) -> io::Result<()> {
        for n in (1..self.rotation.keep).rev() {
            rename(&rotated(&self.path, n), &rotated(&self.path, n + 1))?;
        }
        rename(&self.path, &rotated(&self.path, 1))?;
        self.file = append_to(&self.path)?;
        self.len = 0;
        self.append(&[Record::opened(Timestamp::now())], names)?;
        if let Some(directory) = self.path.parent().filter(|path| !path.as_os_str().is_empty()) {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

/// Returns the files of a log that are there, the oldest first.
pub(super) fn files(log: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    // More than are kept: an operator may have raised the number by hand.
    for path in (1..=99).rev().map(|n| rotated(log, n)).chain([log.to_owned()]) {
        if path.try_exists()? {
            files.push(path);
        }
    }
    Ok(files)
}

/// Returns the logs that relays have written beside each other, by the name of the first.
pub(super) fn beside(base: &Path) -> io::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for log in (1..=WRITERS_MAX).map(|n| nth(base, n)) {
        if !files(&log)?.is_empty() {
            logs.push(log);
        }
    }
    Ok(logs)
}

fn nth(base: &Path, n: usize) -> PathBuf {
    if n == 1 {
        return base.to_owned();
    }
    let stem = base.file_stem().unwrap_or_default().to_string_lossy();
    base.with_file_name(format!("{stem}-{n}.jsonl"))
}

fn rotated(path: &Path, n: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// How a file ends.
#[derive(Debug, Default)]
struct End {
    /// Its last good line; `None` where there is none.
    chain: Option<Chain>,
    /// What comes after that: what a crash left of a line.
    torn: Vec<u8>,
    /// Whether the last newline is missing.
    unfinished: bool,
}

/// Says how a file ends. One that is not there ends as an empty one does.
fn read_end(path: &Path) -> io::Result<End> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(End::default()),
        opened => opened?,
    };
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(end_of(&tail))
}

fn end_of(tail: &[u8]) -> End {
    let unfinished = tail.last().is_some_and(|byte| *byte != b'\n');
    let mut end = tail.len();
    while end > 0 {
        let begin = tail[..end - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = &tail[begin..end];
        if let Ok(read) = line::read(line.strip_suffix(b"\n").unwrap_or(line)) {
            let chain = Chain { seq: read.seq, hash: read.hash };
            return End { chain: Some(chain), torn: tail[end..].to_vec(), unfinished };
        }
        end = begin;
    }
    End { chain: None, torn: tail.to_vec(), unfinished }
}
