//! The tokens that are not taken any more although their time is not over.

mod list;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aws_lc_rs::hmac;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tracing::{info, warn};

use super::{Principal, TokenError, claims, unix_now};
use crate::private_file::{self, PrivateFileError, Stamp};
use list::{Entry, List, Parsed, Tag, Whose};

const FILE_NAME: &str = "revoked";
const KEY_FILE_NAME: &str = "revoked.key";

/// What stands at the top of a new file.
const HEADING: &str = "# Tokens that are revoked, one a line: the token's id (jti), the keyed hash of its subject or * for \
                       every subject, and until when in Unix seconds. Changes are taken over within seconds.\n";

/// Longest file that is read: [`List::MAX`] entries with the longest ids, and some comments.
const FILE_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// How long a token is kept revoked whose end is not known: as long as a token can be made for.
const UNKNOWN_END: u64 = 3_650 * 24 * 60 * 60;

/// The list of revoked tokens, in memory and in the data directory.
///
/// A subject stands in the file as a keyed hash, so that the file alone says nothing about anybody.
pub(crate) struct Revocations {
    list: RwLock<List>,
    /// Goes up whenever a token that was good may not be good any more. Starts at 1.
    generation: AtomicU64,
    /// Told with each of these.
    told: Arc<Notify>,
    subject_key: hmac::Key,
    path: PathBuf,
    /// Held while the file is read or written, by threads that may wait.
    file: Mutex<FileState>,
}

#[derive(Debug, Default)]
struct FileState {
    /// Of what is in memory.
    stamp: Option<Stamp>,
    /// The file was missing at the last look: an editor may be about to put a new one there.
    missing: bool,
    /// Whether the next entry needs a line break before it.
    open_line: bool,
    /// The last trouble that was logged, so that it is logged once.
    trouble: Option<String>,
}

/// Why a token was not put on the list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevokeError {
    /// The id is none.
    #[error("the id of a token is 1 to {} printable characters without spaces", claims::TOKEN_ID_MAX_BYTES)]
    BadId,
    /// There is no room.
    #[error("the list of revoked tokens is full")]
    Full,
    /// This subject has revoked as many as it may.
    #[error("{} tokens of this account are revoked, the most that are kept", List::MAX_OF_SUBJECT)]
    FullOfSubject,
    /// It is in force until the relay ends, and would be forgotten then.
    #[error("the token is revoked, but the list could not be saved")]
    Unsaved(#[source] PrivateFileError),
}

impl Revocations {
    /// Reads the list from the data directory; what has expired is left out, also from the file.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, PrivateFileError> {
        let key = subject_key(&data_dir.join(KEY_FILE_NAME))?;
        let path = data_dir.join(FILE_NAME);
        let mut state = FileState::default();
        let mut list = List::default();
        if let Some((text, stamp)) = private_file::read(&path, FILE_MAX_BYTES)? {
            let Parsed { list: read, bad_lines, expired } = List::parse(&text, unix_now());
            state.stamp = Some(stamp);
            state.open_line = text.last().is_some_and(|last| *last != b'\n');
            if let [first, ..] = bad_lines[..] {
                warn!(file = %path.display(), n_lines = bad_lines.len(), first, "lines of the revoked tokens make no sense");
            } else if expired > 0 {
                private_file::replace(&path, format!("{HEADING}{read}").as_bytes())?;
                state.stamp = private_file::stamp(&path)?;
                state.open_line = false;
            }
            list = read;
        }
        Ok(Self {
            list: RwLock::new(list),
            generation: AtomicU64::new(1),
            told: Arc::default(),
            subject_key: key,
            path,
            file: Mutex::new(state),
        })
    }

    /// Tells whether a principal is still good. Costs two reads of an atomic number where nothing has changed since it
    /// was asked last.
    pub(crate) fn check(&self, principal: &Principal) -> Result<(), TokenError> {
        // Read first: what changes from here on raises it again.
        let generation = self.generation.load(Ordering::Acquire);
        if principal.checked.load(Ordering::Relaxed) == generation {
            return Ok(());
        }
        if principal.origin.is_retired() {
            return Err(TokenError::Invalid);
        }
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        if list.holds(&principal.token_id, || self.tag(&principal.subject), unix_now()) {
            return Err(TokenError::Revoked);
        }
        principal.checked.store(generation, Ordering::Relaxed);
        Ok(())
    }

    /// Returns which change was the last.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns what is ready when something has changed after this call.
    pub(crate) fn told(&self) -> OwnedNotified {
        Arc::clone(&self.told).notified_owned()
    }

    /// Lets everybody look again.
    pub(super) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.told.notify_waiters();
    }

    /// Revokes a token, at once and for good: when this returns it is on the disk. `until`: when the token ends anyway, in
    /// seconds since 1970, where that is known.
    pub(crate) async fn revoke(
        self: &Arc<Self>,
        subject: &str,
        token_id: &str,
        until: Option<u64>,
    ) -> Result<(), RevokeError> {
        if !claims::is_token_id(token_id) || token_id.starts_with('#') {
            return Err(RevokeError::BadId);
        }
        let entry = Entry {
            whose: Whose::Of(self.tag(subject)),
            until: until.unwrap_or_else(|| unix_now().saturating_add(UNKNOWN_END)),
        };
        let (this, token_id) = (Arc::clone(self), token_id.to_owned());
        // To the end even if the caller hangs up.
        let added = tokio::task::spawn_blocking(move || this.add(&token_id, entry));
        added.await.expect("adding to the list does not panic")
    }

    fn add(&self, token_id: &str, entry: Entry) -> Result<(), RevokeError> {
        let mut state = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // What the operator has just written must not be taken for what is written here.
        self.take_over(&mut state);
        {
            let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
            let inserted = match list.insert(token_id, entry) {
                // Only then: it takes long, and whoever verifies a token waits for it.
                Err(RevokeError::Full) => {
                    list.sweep(unix_now());
                    list.insert(token_id, entry)
                }
                inserted => inserted,
            };
            if !inserted? {
                return Ok(());
            }
        }
        self.changed();
        let start = match state.stamp {
            None => HEADING,
            Some(_) if state.open_line => "\n",
            Some(_) => "",
        };
        let text = format!("{start}{}\n", entry.line(token_id));
        let bytes_before = state.stamp.map_or(0, |stamp| stamp.bytes());
        private_file::append(&self.path, text.as_bytes()).map_err(RevokeError::Unsaved)?;
        // A file that is not as long as it should be was changed by somebody else in between: it is read anew.
        let stamp = private_file::stamp(&self.path).map_err(RevokeError::Unsaved)?;
        state.stamp = stamp.filter(|stamp| stamp.bytes() == bytes_before + text.len() as u64);
        state.open_line = false;
        Ok(())
    }

    /// Takes over what somebody else has done to the file. Waits for the disk.
    pub(super) fn look(&self) {
        let mut state = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_over(&mut state);
    }

    fn take_over(&self, state: &mut FileState) {
        match self.read_anew(state) {
            Ok(()) => state.trouble = None,
            Err(error) => {
                let trouble = error.to_string();
                if state.trouble.as_ref() != Some(&trouble) {
                    warn!(error = %trouble, "the revoked tokens are left as they were");
                }
                state.trouble = Some(trouble);
            }
        }
    }

    fn read_anew(&self, state: &mut FileState) -> Result<(), PrivateFileError> {
        let stamp = private_file::stamp(&self.path)?;
        if stamp == state.stamp {
            state.missing = false;
            return Ok(());
        }
        if stamp.is_none() && !state.missing {
            state.missing = true;
            return Ok(());
        }
        let (text, stamp) = match private_file::read(&self.path, FILE_MAX_BYTES)? {
            Some((text, stamp)) => (text, Some(stamp)),
            None => (Vec::new(), None),
        };
        let Parsed { list: mut read, bad_lines, .. } = List::parse(&text, unix_now());
        state.open_line = text.last().is_some_and(|last| *last != b'\n');
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        if let [first, ..] = bad_lines[..] {
            // Perhaps half a file: what was revoked stays so.
            warn!(file = %self.path.display(), n_lines = bad_lines.len(), first, "lines of the revoked tokens make no sense");
            read.add_all(&list);
        }
        info!(n_before = list.len(), n_tokens = read.len(), "revoked tokens read anew");
        *list = read;
        drop(list);
        (state.stamp, state.missing) = (stamp, false);
        self.changed();
        Ok(())
    }

    /// Returns how many tokens are revoked.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.list.read().unwrap().len()
    }

    fn tag(&self, subject: &str) -> Tag {
        let tag = hmac::sign(&self.subject_key, subject.as_bytes());
        tag.as_ref()[..16].try_into().expect("HMAC-SHA256 has 32 bytes")
    }
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads the key that subjects are hashed with, or makes it.
fn subject_key(path: &Path) -> Result<hmac::Key, PrivateFileError> {
    const MAX_BYTES: u64 = 1_024;
    const MIN_BYTES: usize = 32;
    let text = private_file::read_or_make(path, MAX_BYTES, private_file::new_secret)?;
    let key = text.trim_ascii();
    if key.len() < MIN_BYTES {
        let why = "holds no key; restore it, or move it away together with the file revoked";
        return Err(PrivateFileError::Content { path: path.to_owned(), why });
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, key))
}

#[cfg(test)]
mod tests;
