//! Walks a log and says where its chain is broken.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::audit::line::{self, Chain, HEAD_DIFFERS, NO_HASH, OPENED, Read, TORN};
use crate::audit::{head, log_file};

/// Longest line that is read; what the relay writes is far shorter.
const LINE_MAX: u64 = 1024 * 1024;
/// Most faults that are listed; of a file that is no log each line is one.
const FAULTS_MAX: usize = 20;

/// What became of one log.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// The newest file of the log.
    pub(crate) log: PathBuf,
    /// How many files it is in.
    pub(crate) files: usize,
    /// Good lines.
    pub(crate) lines: u64,
    /// Time of the first good line.
    pub(crate) first_at: Option<String>,
    /// Time of the last good line.
    pub(crate) last_at: Option<String>,
    /// Number of the last good line.
    pub(crate) last_seq: u64,
    /// Its hash: noted elsewhere, it shows later that all up to here is unchanged.
    pub(crate) last_hash: String,
    /// What is no fault and worth knowing.
    pub(crate) notes: Vec<String>,
    /// Where the chain is broken, the first ones.
    pub(crate) faults: Vec<Fault>,
    /// How many there are.
    pub(crate) n_faults: usize,
}

/// A place where the chain is broken.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// The file.
    pub(crate) file: PathBuf,
    /// The line in it, from 1.
    pub(crate) line: u64,
    /// What is wrong there.
    pub(crate) what: String,
}

impl Report {
    /// Whether nothing is wrong.
    pub(crate) fn is_sound(&self) -> bool {
        self.n_faults == 0
    }
}

/// Returns the logs that there are by this name: relays that ran beside each other have written one each.
pub(crate) fn logs(base: &Path) -> io::Result<Vec<PathBuf>> {
    log_file::beside(base)
}

/// Verifies a log with the files that were rotated away, against its head where there is one.
///
/// # Errors
///
/// It cannot be read, or there is nothing of it: what was not looked at must not be called unbroken.
pub(crate) fn verify(log: &Path) -> io::Result<Report> {
    // Before the lines: a relay that writes meanwhile only ever adds some.
    let head = head::read(log);
    // All opened before the first is read: a rotation meanwhile gives each another name.
    let open = |path: PathBuf| File::open(&path).map(|file| (path, file));
    let files = log_file::files(log)?.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
    if files.is_empty() && matches!(head, Ok(None)) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such log"));
    }
    let n_files = files.len();
    let head_fault =
        head.as_ref().err().map(|error| format!("the head beside the log cannot be read: {error}"));
    let mut walk = Walk::new(head.ok().flatten());
    for (path, file) in files {
        let mut reader = BufReader::new(file);
        walk.begin_file(&path);
        loop {
            let mut line = Vec::new();
            if reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            walk.line(&line);
        }
    }
    if let Some(fault) = head_fault {
        walk.fault(fault);
    }
    Ok(Report { log: log.to_owned(), files: n_files, ..walk.end() })
}

/// One pass over the lines, the oldest first. Pure.
#[derive(Debug, Default)]
struct Walk {
    report: Report,
    head: Option<Chain>,
    /// Whether the head's line was seen, as the head says.
    head_found: bool,
    file: PathBuf,
    line: u64,
    /// Whether the file has had a good line.
    is_begun: bool,
    last: Option<Chain>,
    damaged: Option<Damaged>,
}

/// Bytes that are no good line, until it is known whether a crash explains them.
#[derive(Debug)]
struct Damaged {
    line: u64,
    what: &'static str,
    bytes: Vec<u8>,
}

impl Walk {
    fn new(head: Option<Chain>) -> Self {
        Self { head, ..Self::default() }
    }

    fn begin_file(&mut self, path: &Path) {
        self.settle();
        path.clone_into(&mut self.file);
        self.line = 0;
        self.is_begun = false;
    }

    fn line(&mut self, line: &[u8]) {
        self.line += 1;
        match line::read(line.strip_suffix(b"\n").unwrap_or(line)) {
            Ok(read) => self.good(&read),
            Err(what) => {
                let at = self.line;
                let damaged =
                    self.damaged.get_or_insert_with(|| Damaged { line: at, what, bytes: Vec::new() });
                // No crash leaves more; how much more there is does not matter.
                if damaged.bytes.len() as u64 <= LINE_MAX {
                    damaged.bytes.extend_from_slice(line);
                }
            }
        }
    }

    fn good(&mut self, read: &Read) {
        let explained = self.damaged.as_ref().map(|damaged| read.event == TORN && damaged.is(read));
        match explained {
            Some(true) => {
                let n = read.count;
                self.note(format!("{n} bytes before this line are what a crash left of a line"));
                self.damaged = None;
            }
            // A crash in the first line of a file: that comes once more, and after it what explains the rest.
            Some(false) if read.event == OPENED && !self.is_begun => {}
            Some(false) => self.settle(),
            None if read.event == TORN => {
                self.fault("the torn line that this one tells of is not there".to_owned());
            }
            None => {}
        }
        match (self.is_begun, read.event == OPENED) {
            (false, false) => self.fault("the beginning of the file is missing".to_owned()),
            (true, true) => self.fault("a file begins in the middle of another".to_owned()),
            (false, true) | (true, false) => {}
        }
        self.is_begun = true;
        match &self.last {
            Some(last) => {
                if let Some(what) = last.misses(read) {
                    self.fault(what);
                }
            }
            None if read.seq != 1 || read.prev != NO_HASH => {
                self.note(format!("the log begins with number {}; what was before is not here", read.seq));
            }
            None => {}
        }
        if read.event == HEAD_DIFFERS {
            self.fault(match read.count {
                0 => "when the relay started, the last line was another than it had written, or the head could not be \
                      read"
                    .to_owned(),
                n => format!("when the relay started, {n} lines were missing before this one"),
            });
        }
        if let Some(head) = &self.head
            && head.seq == read.seq
        {
            self.head_found = head.hash == read.hash;
        }
        self.report.lines += 1;
        self.report.first_at.get_or_insert_with(|| read.at.clone());
        self.report.last_at = Some(read.at.clone());
        self.last = Some(Chain { seq: read.seq, hash: read.hash.clone() });
    }

    /// Says what is wrong with bytes that nothing explains.
    fn settle(&mut self) {
        if let Some(damaged) = self.damaged.take() {
            let (at, file) = (damaged.line, self.file.clone());
            self.add(Fault { file, line: at, what: damaged.what.to_owned() });
        }
    }

    fn end(mut self) -> Report {
        match self.damaged.take() {
            Some(damaged) if !damaged.bytes.contains(&b'\n') => {
                self.note(
                    "the last line is not complete: it is being written, or a crash cut it off".to_owned(),
                );
            }
            damaged => {
                self.damaged = damaged;
                self.settle();
            }
        }
        let last = self.last.take().unwrap_or_default();
        match &self.head {
            None => self.note("there is no head: lines missing at the end would not be seen".to_owned()),
            Some(head) if head.seq > last.seq => {
                let missing = head.seq - last.seq;
                self.fault(format!(
                    "{missing} lines are missing after this one: the head has number {}",
                    head.seq
                ));
            }
            Some(head) if !self.head_found => {
                self.fault(format!("line number {} is not the one that the head names", head.seq));
            }
            Some(_) => {}
        }
        self.report.last_seq = last.seq;
        self.report.last_hash = last.hash;
        self.report
    }

    fn note(&mut self, what: String) {
        let place = format!("{}:{}", self.file.display(), self.line);
        if self.report.notes.len() < FAULTS_MAX {
            self.report.notes.push(format!("{place}: {what}"));
        }
    }

    fn fault(&mut self, what: String) {
        self.add(Fault { file: self.file.clone(), line: self.line, what });
    }

    fn add(&mut self, fault: Fault) {
        self.report.n_faults += 1;
        if self.report.faults.len() < FAULTS_MAX {
            self.report.faults.push(fault);
        }
    }
}

impl Damaged {
    /// Whether these are the bytes that a line tells of. The newline after them was added by who found them.
    fn is(&self, torn: &Read) -> bool {
        let without = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        [self.bytes.as_slice(), without]
            .into_iter()
            .any(|bytes| bytes.len() as u64 == torn.count && line::sha256(bytes) == torn.of)
    }
}

impl Chain {
    /// Says why a line cannot come next, if so.
    fn misses(&self, next: &Read) -> Option<String> {
        let (last, seq) = (self.seq, next.seq);
        if seq == last + 1 && next.prev == self.hash {
            None
        } else if seq > last + 1 {
            Some(format!("{} lines are missing before this one (number {seq} after {last})", seq - last - 1))
        } else if seq == last + 1 {
            Some(format!("the line before this one (number {last}) is not the one that was written"))
        } else {
            Some(format!("this line is out of its place (number {seq} after {last})"))
        }
    }
}

#[cfg(test)]
mod tests;
