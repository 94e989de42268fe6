//! Secrets that must turn up nowhere, in any scenario.
//!
//! Every token that a scenario makes is noted; when it ends, they are looked for in what its processes wrote and in
//! what the system shows of the processes.

use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, ensure};

static SECRETS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Files in which a secret belongs: the token that a daemon is given, the keys of a relay, scripts that get one as input.
const HOLDERS: [&str; 7] =
    ["token", "issuer.key", "admin-token", "audit.key", "revoked.key", "account.json", "certificate.json"];
/// Larger files hold test patterns.
const MOST_BYTES: u64 = 64 << 20;

/// Notes a secret that from now on must be found nowhere.
pub fn keep_secret(secret: &str) {
    SECRETS.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_owned());
}

/// Fails if one of the secrets is in these bytes.
pub fn look_for_secrets(bytes: &[u8]) -> Result<()> {
    let found = find(bytes);
    ensure!(found.is_none(), "secret {found:?} is in an answer of {} bytes", bytes.len());
    Ok(())
}

/// Looks at what the system shows of a process that is about to end.
pub(crate) fn check_process(name: &str, pid: u32) {
    for what in ["cmdline", "environ"] {
        if let Ok(bytes) = fs::read(format!("/proc/{pid}/{what}")) {
            note(&bytes, &format!("{what} of {name}"));
        }
    }
}

/// Fails if a secret was found anywhere so far, or is in a file below `dir`.
pub(crate) fn check(dir: &Path) -> Result<()> {
    check_folder(dir);
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(found.is_empty(), "secrets were found: {found:?}");
    Ok(())
}

fn check_folder(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            check_folder(&entry.path());
        } else if kind.is_file()
            && !HOLDERS.iter().any(|holder| entry.file_name() == *holder)
            && entry.metadata().is_ok_and(|meta| meta.len() <= MOST_BYTES)
        {
            note(&fs::read(entry.path()).unwrap_or_default(), &entry.path().display().to_string());
        }
    }
}

/// Notes where a secret is in these bytes; the message does not repeat it.
fn note(bytes: &[u8], place: &str) {
    if let Some(number) = find(bytes) {
        FOUND.lock().unwrap_or_else(PoisonError::into_inner).push(format!("secret {number} in {place}"));
    }
}

fn find(bytes: &[u8]) -> Option<usize> {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    secrets.iter().position(|secret| {
        // The signature of a token would do harm too.
        let signature = secret.rsplit('.').next().filter(|part| part.len() > 20);
        std::iter::once(secret.as_str()).chain(signature).any(|part| contains(bytes, part.as_bytes()))
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needles_are_found_where_they_are() {
        assert!(contains(b"xaabc", b"abc"));
        assert!(!contains(b"xaab", b"abc"));
        assert!(!contains(b"", b"a"));
    }
}
