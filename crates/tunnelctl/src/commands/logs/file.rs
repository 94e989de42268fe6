//! The log in a file: its last lines, and what is added to it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tunnel_client::exit;

use super::RequestId;
use crate::output::Output;
use crate::output::clean;

/// Time between two looks at a file that is followed.
const PAUSE: Duration = Duration::from_millis(500);
/// Most that is taken in at one look, in bytes; the rest comes with the next.
const MAX_LOOK_BYTES: u64 = 1024 * 1024;

/// Shows the last lines of a file and of the one before it, and those to come when following.
pub(super) async fn show(
    path: &Path,
    follow: bool,
    request: Option<&RequestId>,
    lines: usize,
    output: &Output,
) -> anyhow::Result<u8> {
    let wanted = Wanted::new(request);
    let (last, mut tail) =
        begin(path, &wanted, lines).with_context(|| format!("could not read {}", path.display()))?;
    for line in last {
        write(&line, output)?;
    }
    if !follow {
        return Ok(exit::OK);
    }
    loop {
        tokio::time::sleep(PAUSE).await;
        let news = tail.read().with_context(|| format!("could not read {}", path.display()))?;
        for line in news.iter().filter(|line| wanted.is_met_by(line)) {
            write(line, output)?;
        }
    }
}

fn write(line: &str, output: &Output) -> io::Result<()> {
    if output.wants_json() {
        output.json_line(json!({ "line": line }))
    } else {
        output.answer(&format!("{}\n", clean(line)))
    }
}

/// Returns the last lines of a log file, those of the one before it included, for an archive.
pub(in crate::commands) fn last_lines(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    begin(path, &Wanted::new(None), lines).map(|(last, _)| last)
}

fn begin(path: &Path, wanted: &Wanted, lines: usize) -> io::Result<(Vec<String>, Tail)> {
    let mut last = VecDeque::new();
    let mut older = path.as_os_str().to_owned();
    older.push(".1");
    if let Ok(older) = File::open(older) {
        keep_last(older, wanted, lines, &mut last)?;
    }
    let file = File::open(path)?;
    let meta = file.metadata()?;
    // What is added meanwhile is the follower's.
    let whole = keep_last(file.take(meta.len()), wanted, lines, &mut last)?;
    let tail = Tail { path: path.to_owned(), inode: meta.ino(), read: whole, part: Vec::new() };
    Ok((last.into(), tail))
}

/// Keeps the last lines of a file, and returns how many bytes its whole lines are.
fn keep_last(
    file: impl io::Read,
    wanted: &Wanted,
    lines: usize,
    last: &mut VecDeque<String>,
) -> io::Result<u64> {
    let mut reader = BufReader::new(file);
    let (mut line, mut whole) = (Vec::new(), 0);
    loop {
        line.clear();
        let n_bytes = reader.read_until(b'\n', &mut line)?;
        // One without an end is still being written.
        if n_bytes == 0 || !line.ends_with(b"\n") {
            return Ok(whole);
        }
        whole += n_bytes as u64;
        let text = text(&line);
        if lines > 0 && wanted.is_met_by(&text) {
            if last.len() == lines {
                last.pop_front();
            }
            last.push_back(text);
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned()
}

/// A file that grows, is emptied, and is moved away when it is full.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    inode: u64,
    /// How much of the file has been read.
    read: u64,
    /// The beginning of a line whose end is not there yet.
    part: Vec<u8>,
}

impl Tail {
    /// Returns the whole lines that were added since the last time.
    fn read(&mut self) -> io::Result<Vec<String>> {
        let mut news = Vec::new();
        let meta = match self.path.metadata() {
            Ok(meta) => meta,
            // Between the old file and the new one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(news),
            Err(error) => return Err(error),
        };
        if meta.ino() != self.inode {
            self.finish_older(&mut news)?;
            (self.inode, self.read) = (meta.ino(), 0);
            self.part.clear();
        } else if meta.len() < self.read {
            self.read = 0;
            self.part.clear();
        }
        self.take_in(&self.path.clone(), &mut news)?;
        Ok(news)
    }

    /// Reads what was still written to the file after it was last looked at, if it is the one that was moved away.
    fn finish_older(&mut self, news: &mut Vec<String>) -> io::Result<()> {
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        let older = PathBuf::from(older);
        if older.metadata().is_ok_and(|meta| meta.ino() == self.inode) {
            let mut before = None;
            while before.replace(self.read) != Some(self.read) {
                self.take_in(&older, news)?;
            }
        }
        Ok(())
    }

    fn take_in(&mut self, path: &Path, news: &mut Vec<String>) -> io::Result<()> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.read))?;
        self.read += file.take(MAX_LOOK_BYTES).read_to_end(&mut self.part)? as u64;
        let Some(end) = self.part.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = self.part.split_off(end + 1);
        news.extend(self.part.split(|byte| *byte == b'\n').map(text));
        // What stands behind the last line end is empty.
        news.pop();
        self.part = rest;
        Ok(())
    }
}

/// Which lines are shown.
#[derive(Debug)]
struct Wanted(Option<[String; 2]>);

impl Wanted {
    fn new(request: Option<&RequestId>) -> Self {
        Self(request.map(|request| request.forms().map(|form| format!("request_id={form}"))))
    }

    fn is_met_by(&self, line: &str) -> bool {
        let Some(forms) = &self.0 else { return true };
        forms.iter().any(|form| {
            line.match_indices(form.as_str()).any(|(at, _)| {
                // A longer id begins in the same way.
                let behind = line[at + form.len()..].chars().next();
                behind.is_none_or(|c| c.is_whitespace() || c == '}' || c == ',')
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    fn wanted(id: Option<&str>) -> Wanted {
        Wanted::new(id.map(|id| RequestId::parse(id).unwrap()).as_ref())
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn last_lines_reach_into_the_file_before() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("l");
        append(&home.path().join("l.1"), "1\n2\n3\n");
        append(&path, "4\n5\nunfinished");
        let (last, mut tail) = begin(&path, &wanted(None), 3).unwrap();
        assert_eq!(last, ["3", "4", "5"]);
        append(&path, " no more\n");
        assert_eq!(tail.read().unwrap(), ["unfinished no more"]);
        assert_eq!(begin(&path, &wanted(None), 0).unwrap().0, Vec::<String>::new());
    }

    #[test]
    fn follower_survives_rotation_and_truncation() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("l");
        append(&path, "old\n");
        let (_, mut tail) = begin(&path, &wanted(None), 1).unwrap();
        append(&path, "a\n\nb\n");
        assert_eq!(tail.read().unwrap(), ["a", "", "b"]);
        assert_eq!(tail.read().unwrap(), Vec::<String>::new());
        append(&path, "last of the old\n");
        fs::rename(&path, home.path().join("l.1")).unwrap();
        assert_eq!(tail.read().unwrap(), Vec::<String>::new());
        append(&path, "first of the new\n");
        assert_eq!(tail.read().unwrap(), ["last of the old", "first of the new"]);
        fs::write(&path, "x\n").unwrap();
        assert_eq!(tail.read().unwrap(), ["x"]);
    }

    #[test]
    fn request_is_told_from_one_whose_id_begins_in_the_same_way() {
        let wanted = wanted(Some("ab"));
        assert!(wanted.is_met_by("x request_id=ab ms=1"));
        assert!(wanted.is_met_by("x request_id=\"ab\""));
        assert!(!wanted.is_met_by("x request_id=abc request_id=\"abc\""));
        assert!(!wanted.is_met_by("ab"));
    }
}
