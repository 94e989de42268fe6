//! A verb that was not done for a reason of this program's own, and the exit code that says so.

use std::path::Path;
use std::{fmt, io};

use tunnel_client::exit;

/// Why it was not done. What the daemon refuses is a [`tunnel_client::Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: u8,
    sentence: String,
}

impl Refusal {
    /// `code` is one of [`tunnel_client::exit`]; the sentence says what happened, why, and the next step.
    pub(crate) fn new(code: u8, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }

    /// A file that somebody named could not be read.
    pub(crate) fn unread(path: &Path, error: io::Error) -> anyhow::Error {
        if error.kind() == io::ErrorKind::NotFound {
            return Self::new(exit::NOT_FOUND, format!("there is no file {}", path.display())).into();
        }
        anyhow::Error::new(error).context(format!("could not read {}", path.display()))
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Refusal {}
