//! Which backend served a conversation last, so that what it keeps of it in its KV cache is used.
//!
//! A conversation is known by a header that clients send for this very purpose, or else by how its body begins: each
//! turn repeats the turns before it. Kept are 64-bit hashes under a key that is made anew by each process; no text
//! and no part of one.

use std::cmp::Reverse;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::load::Tick;
use bytes::Bytes;
use http::HeaderMap;

/// Names a model server for as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServerId(pub(crate) NonZeroU32);

impl ServerId {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        // Comes round after four thousand million changes of the configuration.
        Self(NonZeroU32::new(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap_or(NonZeroU32::MIN))
    }
}

/// Remembers who served which conversation: a table of fixed size. Where it is full the entry goes that was not used
/// for longest among the few that share a set.
pub(crate) struct Affinity {
    key: RandomState,
    /// Held for a few comparisons.
    sets: Mutex<Box<[Set]>>,
}

type Set = [Entry; WAYS];

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    /// None: the entry is free.
    server: Option<ServerId>,
    used: Tick,
}

impl Entry {
    const FREE: Self = Self { hash: 0, server: None, used: Tick::ZERO };
}

/// With [`SETS`]: 8192 entries of 16 bytes. A turn of a long conversation needs nine.
const WAYS: usize = 8;
const SETS: usize = 1024;
/// What was not used for longer has left the KV cache: Ollama unloads an idle model after five minutes, servers that
/// keep theirs have seen other prompts.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// The shortest beginning of a body that says something: below it are a role and a greeting.
const SHORTEST: usize = 256;
/// Beginnings are doubled from `SHORTEST` up to 64 KiB; what comes after that is not looked at.
const N_BEGINNINGS: usize = 9;

/// The headers by which clients name a session, most telling first. `docs/routing.md` says who sends which.
const SESSION_HEADERS: [&str; 7] = [
    "x-session-affinity",
    "x-session-id",
    "session-id",
    "session_id",
    "x-claude-code-session-id",
    "x-opencode-session",
    "x-openwebui-chat-id",
];
/// An id is short; a longer one is cut here, so that no caller makes us hash much.
const LONGEST_SESSION: usize = 256;

/// What a request shows of its conversation, and what was found out from that. Nothing is hashed before it is needed.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// None where nobody will ask.
    affinity: Option<Arc<Affinity>>,
    /// The whole body; empty where it is not at hand as a whole.
    body: Bytes,
    /// The place of the model's name in it, which is left out: a name can be written in several ways.
    model: Range<usize>,
    found: OnceLock<Found>,
}

#[derive(Debug)]
struct Found {
    trace: Trace,
    last: Option<ServerId>,
}

/// The hashes by which a conversation is found, most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trace {
    hashes: [u64; N_BEGINNINGS],
    n: usize,
}

/// Asks who served a conversation last; only when it is asked itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recall<'a> {
    pub(crate) trail: &'a Trail,
    pub(crate) headers: &'a HeaderMap,
    /// Servers keep nothing that one model has read for another.
    pub(crate) model: &'a str,
    pub(crate) now: Tick,
}

impl Recall<'_> {
    /// Returns who served the conversation last. What it costs it costs once a request.
    pub(crate) fn last(&self) -> Option<ServerId> {
        let affinity = self.trail.affinity.as_ref()?;
        let found = self.trail.found.get_or_init(|| {
            let trace = match session(self.headers) {
                Some(session) => affinity.session(self.model, session),
                None => affinity.beginnings(self.model, &self.trail.body, &self.trail.model),
            };
            Found { trace, last: affinity.last(&trace, self.now) }
        });
        found.last
    }
}

impl Trail {
    pub(crate) fn new(affinity: Arc<Affinity>, body: Bytes, model: Range<usize>) -> Self {
        Self { affinity: Some(affinity), body, model, found: OnceLock::new() }
    }

    /// Notes who served the conversation; nothing where it did not matter, since there was no choice.
    pub(crate) fn served(&self, server: ServerId, now: Tick) {
        if let (Some(affinity), Some(found)) = (&self.affinity, self.found.get()) {
            affinity.note(&found.trace, server, now);
        }
    }
}

impl Affinity {
    pub(crate) fn new() -> Self {
        let sets = vec![[Entry::FREE; WAYS]; SETS].into_boxed_slice();
        Self { key: RandomState::new(), sets: Mutex::new(sets) }
    }

    fn note(&self, trace: &Trace, server: ServerId, now: Tick) {
        let mut sets = self.sets();
        for &hash in trace.hashes() {
            // The same conversation's, else a free one, else the one that was not used for longest.
            let rank = |entry: &&mut Entry| match entry.server {
                Some(_) if entry.hash == hash => (0, Reverse(Duration::ZERO)),
                None => (1, Reverse(Duration::ZERO)),
                Some(_) => (2, Reverse(now.since(entry.used))),
            };
            if let Some(entry) = sets[place(hash)].iter_mut().min_by_key(rank) {
                *entry = Entry { hash, server: Some(server), used: now };
            }
        }
    }

    fn last(&self, trace: &Trace, now: Tick) -> Option<ServerId> {
        let sets = self.sets();
        let known = |hash: &u64| {
            let fresh = |entry: &&Entry| entry.hash == *hash && now.since(entry.used) <= LIFE;
            sets[place(*hash)].iter().find(fresh)?.server
        };
        trace.hashes().iter().find_map(known)
    }

    fn session(&self, model: &str, session: &[u8]) -> Trace {
        let mut hasher = self.hasher(model);
        hasher.write(session);
        let mut trace = Trace { hashes: [0; N_BEGINNINGS], n: 1 };
        trace.hashes[0] = hasher.finish();
        trace
    }

    /// Hashes the beginnings of a body in one pass.
    fn beginnings(&self, model: &str, body: &[u8], name: &Range<usize>) -> Trace {
        let mut trace = Trace { hashes: [0; N_BEGINNINGS], n: 0 };
        let (Some(before), Some(after)) = (body.get(..name.start), body.get(name.end..)) else {
            return trace;
        };
        let mut hasher = self.hasher(model);
        let mut parts = [before, after];
        let mut done = 0;
        for length in (0..N_BEGINNINGS).map(|n| SHORTEST << n) {
            for part in &mut parts {
                let (taken, rest) = part.split_at(part.len().min(length - done));
                hasher.write(taken);
                done += taken.len();
                *part = rest;
            }
            if done < length {
                break;
            }
            trace.hashes[trace.n] = hasher.clone().finish();
            trace.n += 1;
        }
        // The longest first: it has most in common.
        trace.hashes[..trace.n].reverse();
        trace
    }

    fn hasher(&self, model: &str) -> std::hash::DefaultHasher {
        let mut hasher = self.key.build_hasher();
        hasher.write(model.as_bytes());
        // Ends the name: no text has this byte.
        hasher.write_u8(0xff);
        hasher
    }

    fn sets(&self) -> MutexGuard<'_, Box<[Set]>> {
        // Each entry is replaced as a whole: sound after a panic.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Affinity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Affinity").finish_non_exhaustive()
    }
}

impl Trace {
    fn hashes(&self) -> &[u64] {
        &self.hashes[..self.n]
    }
}

/// Returns the id of the session, as the caller names it.
fn session(headers: &HeaderMap) -> Option<&[u8]> {
    let id = SESSION_HEADERS.iter().find_map(|name| headers.get(*name).filter(|id| !id.is_empty()))?;
    Some(&id.as_bytes()[..id.len().min(LONGEST_SESSION)])
}

fn place(hash: u64) -> usize {
    // Cannot truncate: below `SETS`.
    (hash % SETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ServerId = ServerId(NonZeroU32::MIN);
    const B: ServerId = ServerId(NonZeroU32::MAX);

    struct Desk {
        affinity: Arc<Affinity>,
        now: Tick,
    }

    impl Desk {
        fn new() -> Self {
            Self { affinity: Arc::new(Affinity::new()), now: Tick::ZERO }
        }

        fn ask(&self, trail: &Trail, headers: &HeaderMap) -> Option<ServerId> {
            Recall { trail, headers, model: "m", now: self.now }.last()
        }

        /// Asks by the body alone, and lets `server` answer.
        fn turn(&self, body: &str, server: ServerId) -> Option<ServerId> {
            let trail = self.trail(body);
            let last = self.ask(&trail, &HeaderMap::new());
            trail.served(server, self.now);
            last
        }

        fn trail(&self, body: &str) -> Trail {
            let at = body.find("\"m\"").unwrap();
            Trail::new(Arc::clone(&self.affinity), Bytes::copy_from_slice(body.as_bytes()), at..at + 3)
        }

        /// Asks by a header.
        fn session(&self, headers: &HeaderMap) -> Option<ServerId> {
            self.ask(&self.trail(r#"{"model":"m"}"#), headers)
        }

        fn note(&self, headers: &HeaderMap, server: ServerId) {
            let trail = self.trail(r#"{"model":"m"}"#);
            self.ask(&trail, headers);
            trail.served(server, self.now);
        }
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn a_conversation_that_grows_is_known_by_its_beginning() {
        let desk = Desk::new();
        let said = |n: usize| format!(r#"{{"messages":[{}], "model":"m"}}"#, "x".repeat(n));
        assert_eq!(desk.turn(&said(700), A), None);
        assert_eq!(desk.turn(&said(900), A), Some(A));
        assert_eq!(desk.turn(&said(100_000), A), Some(A));
        assert_eq!(desk.turn(&said(100), A), None, "too short to say something");
        // The model's name may stand first, and then the rest counts all the same.
        let first = |n: usize| format!(r#"{{"model":"m","messages":[{}]}}"#, "y".repeat(n));
        assert_eq!((desk.turn(&first(300), B), desk.turn(&first(400), B)), (None, Some(B)));
    }

    #[test]
    fn the_longest_beginning_wins() {
        let desk = Desk::new();
        let system = "s".repeat(600);
        let turn = |who: &str, n: usize| format!(r#"{{"model":"m","x":"{system}{}"}}"#, who.repeat(n));
        desk.turn(&turn("a", 1000), A);
        desk.turn(&turn("b", 1000), B);
        assert_eq!(desk.turn(&turn("a", 2000), A), Some(A));
        assert_eq!(desk.turn(&turn("c", 1000), A), Some(A), "whoever read the shared part last");
    }

    #[test]
    fn a_session_is_known_by_its_header_whatever_is_said() {
        let desk = Desk::new();
        for name in SESSION_HEADERS {
            let ours = headers(name, name);
            assert_eq!(desk.session(&ours), None);
            desk.note(&ours, A);
            assert_eq!(desk.session(&ours), Some(A));
            assert_eq!(desk.session(&headers(name, "other")), None);
            let trail = desk.trail(r#"{"model":"m"}"#);
            let other = Recall { trail: &trail, headers: &ours, model: "n", now: desk.now };
            assert_eq!(other.last(), None, "another model knows nothing of it");
        }
        let long = headers("x-session-id", &"x".repeat(1000));
        assert_eq!(session(&long).map(<[u8]>::len), Some(LONGEST_SESSION));
    }

    #[test]
    fn what_was_not_asked_is_not_noted_and_what_is_old_is_forgotten() {
        let mut desk = Desk::new();
        let ours = headers("x-session-id", "s");
        desk.trail(r#"{"model":"m"}"#).served(A, desk.now);
        assert_eq!(desk.session(&ours), None);
        desk.note(&ours, A);
        desk.now = desk.now.after(LIFE);
        assert_eq!(desk.session(&ours), Some(A));
        desk.now = desk.now.after(Duration::from_secs(1));
        assert_eq!(desk.session(&ours), None);
    }

    #[test]
    fn any_number_of_conversations_takes_the_same_room() {
        const N: usize = 3 * SETS * WAYS;
        let mut desk = Desk::new();
        let session = |n: usize| headers("x-session-id", &n.to_string());
        for n in 0..N {
            desk.note(&session(n), A);
            desk.now = desk.now.after(Duration::from_millis(50));
        }
        let known = (0..N).filter(|n| desk.session(&session(*n)).is_some()).count();
        assert!(known <= SETS * WAYS && known > SETS * WAYS * 9 / 10, "{known}");
        assert!(desk.session(&session(N - 1)).is_some(), "the newest stays");
    }

    #[test]
    fn each_process_has_a_key_of_its_own() {
        let (a, b) = (Affinity::new(), Affinity::new());
        assert_ne!(a.session("m", b"s"), b.session("m", b"s"));
    }
}
