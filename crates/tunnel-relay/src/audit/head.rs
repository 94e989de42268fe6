//! The head: number and hash of the last line that is surely on the disk, in a file of its own.
//!
//! The chain shows every change but one: lines taken off its end. The head shows that too, unless whoever took them off
//! wrote the head anew. It lies beside the log, so it is a guard against accidents and against those who can write one
//! file only; whoever may write both can make both agree.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::audit::line::Chain;

#[derive(Debug, Serialize, Deserialize)]
struct Members {
    seq: u64,
    hash: String,
}

/// Returns where the head of a log lies: `audit.head` beside `audit.jsonl`.
pub(super) fn path(log: &Path) -> PathBuf {
    log.with_extension("head")
}

/// Reads the head; `None` where there is none. One that is there and makes no sense is an error: a crash leaves no such.
pub(super) fn read(log: &Path) -> io::Result<Option<Chain>> {
    let text = match fs::read(path(log)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let Members { seq, hash } = serde_json::from_slice(&text)?;
    Ok(Some(Chain { seq, hash }))
}

/// Writes it beside its place and renames when it is on the disk, so that a reader sees the old or the new one, also
/// after the power was lost.
pub(super) fn write(log: &Path, chain: &Chain) -> io::Result<()> {
    let path = path(log);
    let draft = path.with_extension("head.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    serde_json::to_writer(&mut file, &Members { seq: chain.seq, hash: chain.hash.clone() })?;
    file.write_all(b"\n")?;
    file.sync_data()?;
    drop(file);
    fs::rename(&draft, &path)
}
