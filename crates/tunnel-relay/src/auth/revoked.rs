//! The tokens that are not taken any more although their time is not over.

mod list;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, Semaphore};
use tracing::{info, warn};

use super::{LONGEST_LIFE, Principal, TokenError, claims, unix_now};
use crate::private_file::{self, PrivateFileError, Stamp};
pub(crate) use list::By;
use list::{Cutoff, Entry, List, Order, Parsed, Tag, Whose};

const FILE_NAME: &str = "revoked";
const KEY_FILE_NAME: &str = "revoked.key";

/// What stands at the top of a new file.
const HEADING: &str = "\
# Tokens that are revoked, one a line: the token's id (jti), the keyed hash of its subject or * for every subject, and until
# when in Unix seconds. With * for the id and a fourth word: all tokens of the subject that were issued before that time.
# Lines that are added count within seconds. Lines that are taken out come back while the relay runs, since a file that was
# cut off looks just so, unless the last line of the file is then: # complete
";

/// The last line of a file that says all there is.
const COMPLETE: &[u8] = b"# complete";

/// Longest file that is read: [`List::MAX`] entries with the longest ids, and some comments.
const FILE_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// Least time between two searches of a full list for what is over.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// How many tenants may wait for the disk at once; operators wait for none of them. Each subject always has the same of these places: whoever asks for much waits
/// for itself, and for few others.
const PLACES: usize = 16;

/// The list of revoked tokens, in memory and in the data directory.
///
/// A subject stands in the file as a keyed hash, so that the file alone says nothing about anybody.
pub(crate) struct Revocations {
    /// Written by whoever holds `file` only.
    list: RwLock<List>,
    /// Goes up whenever a token that was good may not be good any more. Starts at 1.
    generation: AtomicU64,
    /// Told with each of these.
    told: Arc<Notify>,
    subject_key: hmac::Key,
    path: PathBuf,
    /// Held while the file is read or written, by threads that may wait.
    file: Mutex<FileState>,
    /// Whether the file says less than is in memory: it is gone, was cut off, or could not be written. It is made good once
    /// nobody changes it any more: an editor may be about to put a new one there. Written by whoever holds `file` only.
    lacks: AtomicBool,
    places: [Arc<Semaphore>; PLACES],
}

#[derive(Debug, Default)]
struct FileState {
    /// Of what is in memory.
    stamp: Option<Stamp>,
    /// Whether there are lines that make no sense. A person has to look at them, so they stay.
    has_bad_lines: bool,
    /// Whether the next entry needs a line break before it.
    open_line: bool,
    /// When the list was last searched for what is over.
    swept: Option<Instant>,
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
            state.has_bad_lines = !bad_lines.is_empty();
            if let [first, ..] = bad_lines[..] {
                warn!(file = %path.display(), n_lines = bad_lines.len(), first, "lines of the revoked tokens make no sense");
            } else if expired > 0 {
                rewrite(&path, &read, &mut state)?;
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
            lacks: AtomicBool::new(false),
            places: std::array::from_fn(|_| Arc::new(Semaphore::new(1))),
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
        let tag = || self.tag(&principal.subject);
        if list.holds(&principal.token_id, principal.issued_at, tag, unix_now()) {
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
    /// seconds since 1970.
    pub(crate) async fn revoke(
        self: &Arc<Self>,
        subject: &str,
        token_id: &str,
        until: u64,
        by: By,
    ) -> Result<(), RevokeError> {
        if !claims::is_token_id(token_id) || token_id.starts_with('#') {
            return Err(RevokeError::BadId);
        }
        let tag = self.tag(subject);
        let entry = Entry { whose: Whose::Of(tag), until };
        self.carry_out(tag, Order::Token { id: token_id.to_owned(), entry, by }).await
    }

    /// Revokes all tokens of a subject that were issued before a time, in seconds since 1970, in the same way. Returns until
    /// when that is kept: as long as such a token could last at most.
    pub(crate) async fn revoke_issued_before(
        self: &Arc<Self>,
        subject: &str,
        before: u64,
    ) -> Result<u64, RevokeError> {
        let tag = self.tag(subject);
        let until = before.max(unix_now()).saturating_add(LONGEST_LIFE.as_secs());
        self.carry_out(tag, Order::IssuedBefore { tag, cutoff: Cutoff { before, until } }).await?;
        Ok(until)
    }

    async fn carry_out(self: &Arc<Self>, tag: Tag, order: Order) -> Result<(), RevokeError> {
        if !self.lacks() && self.list.read().unwrap_or_else(PoisonError::into_inner).has(&order) {
            return Ok(());
        }
        let place = match order.by() {
            By::Tenant => {
                let place = Arc::clone(&self.places[usize::from(tag[0]) % PLACES]);
                Some(place.acquire_owned().await.expect("the places are never closed"))
            }
            By::Operator => None,
        };
        let this = Arc::clone(self);
        // To the end even if the caller hangs up.
        let added = tokio::task::spawn_blocking(move || {
            let added = this.add(&order);
            drop(place);
            added
        });
        added.await.expect("adding to the list does not panic")
    }

    fn add(&self, order: &Order) -> Result<(), RevokeError> {
        let mut state = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // What the operator has just written must not be taken for what is written here.
        self.take_over(&mut state);
        let add = || self.list.write().unwrap_or_else(PoisonError::into_inner).add(order);
        let added = match add() {
            Err(RevokeError::Full) if self.sweep(&mut state) => add(),
            added => added,
        };
        if !added? {
            // Perhaps it could not be saved when it was first asked for.
            return if self.lacks() {
                self.make_good(&mut state).map_err(RevokeError::Unsaved)
            } else {
                Ok(())
            };
        }
        self.changed();
        let appended = self.append(&mut state, &format!("{}\n", order.line()));
        // The next look tries again.
        appended.map_err(RevokeError::Unsaved).inspect_err(|_| self.set_lacks(true))
    }

    /// Adds lines to the file.
    fn append(&self, state: &mut FileState, lines: &str) -> Result<(), PrivateFileError> {
        let start = match state.stamp {
            None => HEADING,
            Some(_) if state.open_line => "\n",
            Some(_) => "",
        };
        let text = format!("{start}{lines}");
        let bytes_before = state.stamp.map_or(0, |stamp| stamp.bytes());
        private_file::append(&self.path, text.as_bytes())?;
        // A file that is not as long as it should be was changed by somebody else in between: it is read anew.
        let stamp = private_file::stamp(&self.path)?;
        state.stamp = stamp.filter(|stamp| stamp.bytes() == bytes_before + text.len() as u64);
        state.open_line = false;
        Ok(())
    }

    /// Forgets what is over, also in the file, which would grow for ever otherwise. Returns whether that was done: it takes
    /// long, and a list that is full of what is not over must not be searched for each who asks.
    fn sweep(&self, state: &mut FileState) -> bool {
        if state.swept.is_some_and(|at| at.elapsed() < SWEEP_PAUSE) {
            return false;
        }
        // Beside those who verify tokens; nobody else writes meanwhile.
        let swept = self.list.read().unwrap_or_else(PoisonError::into_inner).swept(unix_now());
        if !state.has_bad_lines
            && !self.lacks()
            && let Err(error) = rewrite(&self.path, &swept, state)
        {
            warn!(%error, "the file of revoked tokens keeps what is over");
        }
        let before = self.replace(swept);
        // Of 100,000 entries that takes a while, too.
        drop(before);
        state.swept = Some(Instant::now());
        true
    }

    fn replace(&self, list: List) -> List {
        std::mem::replace(&mut *self.list.write().unwrap_or_else(PoisonError::into_inner), list)
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
        if private_file::stamp(&self.path)? == state.stamp {
            return if self.lacks() { self.make_good(state) } else { Ok(()) };
        }
        let (text, stamp) = match private_file::read(&self.path, FILE_MAX_BYTES)? {
            Some((text, stamp)) => (text, Some(stamp)),
            None => (Vec::new(), None),
        };
        let now = unix_now();
        let Parsed { list: mut read, bad_lines, .. } = List::parse(&text, now);
        if let [first, ..] = bad_lines[..] {
            warn!(file = %self.path.display(), n_lines = bad_lines.len(), first, "lines of the revoked tokens make no sense");
        }
        let n_said = read.len();
        if !bad_lines.is_empty() || !says_all(&text) {
            // Perhaps half a file, or none for a moment: what was revoked stays so.
            read.add_all(&self.list.read().unwrap_or_else(PoisonError::into_inner), now);
        }
        self.set_lacks(read.len() > n_said);
        let n_tokens = read.len();
        let before = self.replace(read);
        info!(n_before = before.len(), n_tokens, "revoked tokens read anew");
        state.stamp = stamp;
        state.open_line = text.last().is_some_and(|last| *last != b'\n');
        state.has_bad_lines = !bad_lines.is_empty();
        self.changed();
        Ok(())
    }

    /// Writes what the file lacks into it: it would be forgotten at the next start.
    fn make_good(&self, state: &mut FileState) -> Result<(), PrivateFileError> {
        let now = unix_now();
        let text = private_file::read(&self.path, FILE_MAX_BYTES)?.map(|(text, _)| text).unwrap_or_default();
        let there = List::parse(&text, now).list;
        let lines = self.list.read().unwrap_or_else(PoisonError::into_inner).lines_beyond(&there, now);
        if !lines.is_empty() {
            self.append(state, &lines)?;
            let n_lines = lines.lines().count();
            warn!(
                file = %self.path.display(),
                n_lines,
                "revoked tokens were missing in the file and are in it again; to take them back, end the file with the line \
                 # complete"
            );
        }
        self.set_lacks(false);
        Ok(())
    }

    fn lacks(&self) -> bool {
        self.lacks.load(Ordering::Acquire)
    }

    fn set_lacks(&self, lacks: bool) {
        self.lacks.store(lacks, Ordering::Release);
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

/// Tells whether somebody vouches that the file is all there is.
fn says_all(text: &[u8]) -> bool {
    text.trim_ascii_end()
        .rsplit(|byte| *byte == b'\n')
        .next()
        .is_some_and(|last| last.trim_ascii() == COMPLETE)
}

/// Writes a list in place of the file.
fn rewrite(path: &Path, list: &List, state: &mut FileState) -> Result<(), PrivateFileError> {
    private_file::replace(path, format!("{HEADING}{list}").as_bytes())?;
    state.stamp = private_file::stamp(path)?;
    state.open_line = false;
    Ok(())
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
