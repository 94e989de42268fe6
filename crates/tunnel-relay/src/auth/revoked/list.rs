//! The entries themselves, and how they are written down.

use std::collections::HashMap;
use std::fmt;

use super::RevokeError;
use crate::auth::claims;
use crate::hex::hex;

/// A subject's keyed hash, cut to what no two subjects share by chance.
pub(super) type Tag = [u8; 16];

/// Whose tokens of an id are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Of(Tag),
    Everybodys,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) whose: Whose,
    /// Until when it counts, in seconds since 1970: the token is over then anyway.
    pub(super) until: u64,
}

impl Entry {
    /// Writes the entry as a line, without its end.
    pub(super) fn line(&self, token_id: &str) -> String {
        match self.whose {
            Whose::Of(tag) => format!("{token_id} {} {}", hex(&tag), self.until),
            Whose::Everybodys => format!("{token_id} * {}", self.until),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct List {
    by_id: HashMap<Box<str>, Vec<Entry>>,
    len: usize,
    of_subject: HashMap<Tag, usize>,
}

/// What a file says.
pub(super) struct Parsed {
    pub(super) list: List,
    /// The numbers of lines that are no entries, or too many.
    pub(super) bad_lines: Vec<usize>,
    pub(super) expired: usize,
}

impl List {
    /// Most entries: about 20 MiB.
    pub(super) const MAX: usize = 100_000;

    /// Most entries of one subject: nobody can use the list up for the others.
    pub(super) const MAX_OF_SUBJECT: usize = 1_000;

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Tells whether a token is on the list. The subject's tag is asked for only where an id is.
    pub(super) fn holds(&self, token_id: &str, tag: impl FnOnce() -> Tag, now: u64) -> bool {
        let Some(entries) = self.by_id.get(token_id) else { return false };
        let own = Whose::Of(tag());
        entries
            .iter()
            .any(|entry| entry.until > now && (entry.whose == own || entry.whose == Whose::Everybodys))
    }

    /// Adds an entry; false where there is nothing to add.
    pub(super) fn insert(&mut self, token_id: &str, entry: Entry) -> Result<bool, RevokeError> {
        let there = self
            .by_id
            .get_mut(token_id)
            .and_then(|entries| entries.iter_mut().find(|there| there.whose == entry.whose));
        if let Some(there) = there {
            let longer = entry.until > there.until;
            there.until = there.until.max(entry.until);
            return Ok(longer);
        }
        if self.len >= Self::MAX {
            return Err(RevokeError::Full);
        }
        if let Whose::Of(tag) = entry.whose {
            let count = self.of_subject.entry(tag).or_default();
            if *count >= Self::MAX_OF_SUBJECT {
                return Err(RevokeError::FullOfSubject);
            }
            *count += 1;
        }
        self.by_id.entry(token_id.into()).or_default().push(entry);
        self.len += 1;
        Ok(true)
    }

    /// Forgets what is over.
    pub(super) fn sweep(&mut self, now: u64) {
        let old = std::mem::take(self);
        for (token_id, entries) in &old.by_id {
            for entry in entries.iter().filter(|entry| entry.until > now) {
                // Cannot fail: there are no more than there were.
                let _added = self.insert(token_id, *entry);
            }
        }
    }

    /// Adds what another list has, as far as there is room.
    pub(super) fn add_all(&mut self, other: &Self) {
        for (token_id, entries) in &other.by_id {
            for entry in entries {
                if self.insert(token_id, *entry).is_err() {
                    return;
                }
            }
        }
    }

    /// Reads a file. A line may leave its last words out: then every subject's token of that id is meant, for ever.
    pub(super) fn parse(text: &[u8], now: u64) -> Parsed {
        let mut parsed = Parsed { list: Self::default(), bad_lines: Vec::new(), expired: 0 };
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let Some((token_id, entry)) = std::str::from_utf8(line).ok().and_then(entry) else {
                parsed.bad_lines.push(number);
                continue;
            };
            if entry.until <= now {
                parsed.expired += 1;
            } else if parsed.list.insert(token_id, entry).is_err() {
                parsed.bad_lines.push(number);
            }
        }
        parsed
    }
}

fn entry(line: &str) -> Option<(&str, Entry)> {
    let mut words = line.split_ascii_whitespace();
    let token_id = words.next().filter(|id| claims::is_token_id(id))?;
    let whose = match words.next() {
        None | Some("*") => Whose::Everybodys,
        Some(tag) => Whose::Of(tag_of(tag)?),
    };
    let until = match words.next() {
        None => u64::MAX,
        Some(until) => until.parse().ok()?,
    };
    words.next().is_none().then_some((token_id, Entry { whose, until }))
}

fn tag_of(text: &str) -> Option<Tag> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut tag = Tag::default();
    for (at, byte) in tag.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(tag)
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (token_id, entries) in &self.by_id {
            for entry in entries {
                writeln!(f, "{}", entry.line(token_id))?;
            }
        }
        Ok(())
    }
}
