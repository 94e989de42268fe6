//! The archive itself, and the page that explains it.

use std::io;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::job::Piece;
use super::redact::Redactor;

/// Packs files into one folder of a `.tar.gz`.
pub(super) fn archive(folder: &str, files: &[(String, String)], now: Timestamp) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or_default());
        archive.append_data(&mut header, format!("{folder}/{name}"), content.as_bytes())?;
    }
    archive.into_inner()?.finish()
}

/// Returns the page that says what is in the archive and what was taken out.
pub(super) fn readme(pieces: &[Piece], redactor: &mut Redactor) -> String {
    let mut text = "What tunnelctl diag collected for a bug report about tunneld.\n\n".to_owned();
    for piece in pieces {
        let reason = piece.reason().map_or_else(String::new, |why| format!(": {}", redactor.text(why)));
        text.push_str(&format!("  {:<4}  {}{reason}\n", piece.outcome(), piece.file));
    }
    text.push_str(
        "
ok: the file is there. skip: there is nothing to collect. err: it should have been there.
result.json has the same for programs, and how often what was taken out.

Taken out of every file:
  tokens, keys, passwords, and all runs of 24 or more characters that look like one
  user names and passwords in addresses, whatever stands behind ? or #, e-mail addresses
  addresses of other machines, names of hosts, of the relay and of this device
  your name, your home and the token's subject
  names of models

Placeholders such as <host-1> and <model-2> stand for the same thing in all files.
What was asked of the models and what they answered is never logged, and not in here.
Look through it all the same before you send it.
",
    );
    text
}
