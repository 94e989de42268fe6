//! The last lines of a log, for somebody who looks.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::Value;

/// Most bytes that are read for it.
const TAIL_BYTES: u64 = 1024 * 1024;

/// Returns the last lines of a file, at most `n`. Reads no file before it: right after a rotation there are few.
pub(super) fn last_lines(path: &Path, n: usize) -> io::Result<Vec<Value>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    // The first piece may begin in the middle of a line, and is then no JSON.
    let mut lines: Vec<Value> =
        tail.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    Ok(lines.split_off(lines.len().saturating_sub(n)))
}
