//! A file that holds just a token: `--token-file`, or systemd's credential.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::TokenError;
use super::credentials::{self, MAX_TOKEN_BYTES};

/// A named file, and which version of it was read last.
#[derive(Debug)]
pub(super) struct TokenFile {
    pub(super) path: PathBuf,
    seen: Option<Stamp>,
}

/// Tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified_ns: (i64, i64),
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// Returns what it holds if that is news; `None` for the version that was read last.
    ///
    /// Loses nothing when dropped.
    pub(super) async fn news(&mut self) -> Option<Result<SecretString, TokenError>> {
        let (path, seen) = (self.path.clone(), self.seen);
        let look = move || {
            // Before the read: a file that changes in between is read once more.
            let stamp = Stamp::of(&path);
            (stamp.is_none() || stamp != seen).then(|| (stamp, read(&path)))
        };
        // The file may lie on a network.
        let (stamp, token) = match tokio::task::spawn_blocking(look).await {
            Ok(news) => news?,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends.
                Err(_cancelled) => return None,
            },
        };
        self.seen = stamp;
        Some(token)
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self { inode: meta.ino(), bytes: meta.len(), modified_ns: (meta.mtime(), meta.mtime_nsec()) })
    }
}

/// Reads a token, without white space around it.
pub(super) fn read(path: &Path) -> Result<SecretString, TokenError> {
    let unreadable =
        |source: io::Error| TokenError::Unreadable { path: path.to_owned(), source: source.into() };
    let file = tunnel_runtime::files::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => TokenError::Missing(path.to_owned()),
        _ => unreadable(source),
    })?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_TOKEN_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let text = std::str::from_utf8(bytes.trim_ascii()).map_err(|_| TokenError::NotAToken(path.to_owned()))?;
    if text.is_empty() {
        return Err(TokenError::Empty(path.to_owned()));
    }
    credentials::token(text).ok_or_else(|| TokenError::NotAToken(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cloud-token");
        fs::write(&path, content).unwrap();
        (directory, path)
    }

    #[test]
    fn token_is_read_without_the_white_space_around_it() {
        let (_directory, path) = file("  a.b.c\n");
        assert_eq!(read(&path).unwrap().expose_secret(), "a.b.c");
    }

    #[test]
    fn file_with_something_else_is_no_token_and_its_content_stays_out_of_the_error() {
        for content in ["secret with spaces", "one\ntwo", "sécret"] {
            let (_directory, path) = file(content);
            let error = read(&path).unwrap_err();
            assert!(matches!(error, TokenError::NotAToken(_)), "{content}");
            assert!(!format!("{error:?}").contains("cret "), "{error:?}");
        }
        let (_directory, empty) = file("\n");
        assert!(matches!(read(&empty), Err(TokenError::Empty(_))));
    }

    #[test]
    fn pipe_is_refused_and_nobody_waits_for_its_other_end() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        assert!(matches!(read(&pipe), Err(TokenError::Unreadable { .. })));
    }

    #[tokio::test]
    async fn new_content_is_news_once() {
        let (directory, path) = file("a.b.c");
        let mut watched = TokenFile::new(path.clone());
        assert!(watched.news().await.unwrap().is_ok());
        assert!(watched.news().await.is_none());
        let fresh = directory.path().join("fresh");
        fs::write(&fresh, "d.e.f").unwrap();
        fs::rename(&fresh, &path).unwrap();
        assert_eq!(watched.news().await.unwrap().unwrap().expose_secret(), "d.e.f");
        fs::remove_file(&path).unwrap();
        assert!(matches!(watched.news().await, Some(Err(TokenError::Missing(_)))));
    }
}
