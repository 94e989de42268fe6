//! `tunnelctl diag`: an archive for a bug report, with everything that helps and nothing that is private.
//!
//! What is collected goes through [`redact`] without exception, also what is thought to be harmless.

mod api;
mod archive;
mod config_file;
mod job;
mod known;
mod redact;
mod system;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::json;
use tempfile::NamedTempFile;
use tunnel_client::{Client, exit};

use self::job::Piece;
use self::redact::Redactor;
use crate::output::Output;

pub(super) async fn write(client: &Client, file: Option<&Path>, output: &Output) -> anyhow::Result<u8> {
    let now = Timestamp::now();
    let folder = format!("tunneld-diag-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let path = file.map_or_else(|| PathBuf::from(format!("{folder}.tar.gz")), Path::to_owned);
    if path.symlink_metadata().is_ok() {
        return Ok(taken(&path, output));
    }
    // Before the jobs, which take their time: it may be a place that cannot be written.
    let draft = draft(&path).with_context(|| format!("could not write {}", path.display()))?;
    let jobs = api::jobs(client).await.into_iter().chain(system::jobs(client)).collect();
    let pieces = job::run(jobs, |piece| {
        output.talk(&format!("{:<4}  {}{}", piece.outcome(), piece.file, colon(piece.reason())));
    })
    .await;
    let redacted = redacted(&pieces);
    let bytes = archive::archive(&folder, &redacted, now).context("could not pack the archive")?;
    match store(draft, &path, &bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(taken(&path, output)),
        Err(error) => return Err(error).with_context(|| format!("could not write {}", path.display())),
    }
    output.talk(&format!("look inside before you send it: tar tzf {}", path.display()));
    if output.wants_json() {
        let jobs: Vec<_> = pieces.iter().map(Piece::json).collect();
        output.json(json!({ "file": path, "jobs": jobs }))?;
    } else {
        output.answer(&format!("{}\n", path.display()))?;
    }
    Ok(exit::OK)
}

fn colon(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

fn taken(path: &Path, output: &Output) -> u8 {
    output.error(&format!("{} is there already; name another file with -o", path.display()));
    exit::CONFLICT
}

/// Returns all files of the archive as they may be seen by others.
fn redacted(pieces: &[Piece]) -> Vec<(String, String)> {
    let mut redactor = Redactor::default();
    known::teach(&mut redactor);
    for piece in pieces {
        piece.teach(&mut redactor);
    }
    let mut files: Vec<(String, String)> = pieces
        .iter()
        .filter_map(|piece| Some((piece.file.to_owned(), piece.redacted(&mut redactor)?)))
        .collect();
    let jobs: Vec<_> = pieces.iter().map(|piece| redactor.json(&piece.json())).collect();
    let result = json!({
        "tunnelctl": Client::version_of_client(), "jobs": jobs, "taken_out": redactor.counts(),
    });
    files.push(("result.json".to_owned(), format!("{result:#}\n")));
    files.push(("README.txt".to_owned(), archive::readme(pieces, &mut redactor)));
    files
}

/// Makes a file beside the archive's place, for this user alone. Nothing half-written stays behind.
fn draft(path: &Path) -> io::Result<NamedTempFile> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    // 0600 from the beginning.
    NamedTempFile::new_in(directory.unwrap_or(Path::new(".")))
}

/// Writes the archive; never over a file that is there.
fn store(mut file: NamedTempFile, path: &Path, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}
