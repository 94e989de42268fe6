//! The entries themselves, and how they are written down.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

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
    fn line(&self, token_id: &str) -> String {
        match self.whose {
            Whose::Of(tag) => format!("{token_id} {} {}", hex(&tag), self.until),
            Whose::Everybodys => format!("{token_id} * {}", self.until),
        }
    }
}

/// All tokens of a subject up to a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cutoff {
    /// Those that were issued earlier are revoked, in seconds since 1970.
    pub(super) before: u64,
    /// Until when it counts: all of them are over then anyway.
    pub(super) until: u64,
}

impl Cutoff {
    fn line(&self, tag: &Tag) -> String {
        format!("* {} {} {}", hex(tag), self.until, self.before)
    }
}

/// Who revokes: a tenant may not use up what operators need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The holder of a token, its own.
    Tenant,
    Operator,
}

/// What is to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Token { id: String, entry: Entry, by: By },
    IssuedBefore { tag: Tag, cutoff: Cutoff },
}

impl Order {
    /// Returns who revokes.
    pub(super) fn by(&self) -> By {
        match self {
            Self::Token { by, .. } => *by,
            Self::IssuedBefore { .. } => By::Operator,
        }
    }

    /// Writes the order as a line, without its end.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Token { id, entry, .. } => entry.line(id),
            Self::IssuedBefore { tag, cutoff } => cutoff.line(tag),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct List {
    by_id: HashMap<Box<str>, Vec<Entry>>,
    cutoffs: HashMap<Tag, Cutoff>,
    /// Of both.
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

    /// Room that tenants leave to operators.
    pub(super) const OF_OPERATORS: usize = 10_000;

    /// Most entries of one subject that are not an operator's: nobody can use the list up for the others.
    pub(super) const MAX_OF_SUBJECT: usize = 1_000;

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Tells whether a token is revoked. The subject's tag is asked for only where it matters.
    pub(super) fn holds(&self, token_id: &str, issued_at: u64, tag: impl FnOnce() -> Tag, now: u64) -> bool {
        let named = self.by_id.get(token_id);
        if named.is_none() && self.cutoffs.is_empty() {
            return false;
        }
        let tag = tag();
        let is_meant = |whose| whose == Whose::Of(tag) || whose == Whose::Everybodys;
        named.is_some_and(|entries| entries.iter().any(|entry| entry.until > now && is_meant(entry.whose)))
            || self.cutoffs.get(&tag).is_some_and(|cutoff| cutoff.until > now && issued_at < cutoff.before)
    }

    /// Tells whether there is nothing to add.
    pub(super) fn has(&self, order: &Order) -> bool {
        match order {
            Order::Token { id, entry, .. } => self.has_entry(id, entry),
            Order::IssuedBefore { tag, cutoff } => self.has_cutoff(tag, cutoff),
        }
    }

    fn has_entry(&self, token_id: &str, entry: &Entry) -> bool {
        let there = self.by_id.get(token_id).map_or(&[][..], Vec::as_slice);
        there.iter().any(|there| there.whose == entry.whose && there.until >= entry.until)
    }

    fn has_cutoff(&self, tag: &Tag, cutoff: &Cutoff) -> bool {
        let there = self.cutoffs.get(tag);
        there.is_some_and(|there| there.before >= cutoff.before && there.until >= cutoff.until)
    }

    /// Adds what is revoked; false where there is nothing to add.
    pub(super) fn add(&mut self, order: &Order) -> Result<bool, RevokeError> {
        match order {
            Order::Token { id, entry, by } => self.insert(id, *entry, *by),
            Order::IssuedBefore { tag, cutoff } => self.cut(*tag, *cutoff),
        }
    }

    fn insert(&mut self, token_id: &str, entry: Entry, by: By) -> Result<bool, RevokeError> {
        let there = self
            .by_id
            .get_mut(token_id)
            .and_then(|entries| entries.iter_mut().find(|there| there.whose == entry.whose));
        if let Some(there) = there {
            let longer = entry.until > there.until;
            there.until = there.until.max(entry.until);
            return Ok(longer);
        }
        let room = match by {
            By::Tenant => Self::MAX - Self::OF_OPERATORS,
            By::Operator => Self::MAX,
        };
        if self.len >= room {
            return Err(RevokeError::Full);
        }
        if let Whose::Of(tag) = entry.whose {
            let count = self.of_subject.entry(tag).or_default();
            if by == By::Tenant && *count >= Self::MAX_OF_SUBJECT {
                return Err(RevokeError::FullOfSubject);
            }
            *count += 1;
        }
        self.by_id.entry(token_id.into()).or_default().push(entry);
        self.len += 1;
        Ok(true)
    }

    fn cut(&mut self, tag: Tag, cutoff: Cutoff) -> Result<bool, RevokeError> {
        if let Some(there) = self.cutoffs.get_mut(&tag) {
            let before = *there;
            there.before = there.before.max(cutoff.before);
            there.until = there.until.max(cutoff.until);
            return Ok(*there != before);
        }
        if self.len >= Self::MAX {
            return Err(RevokeError::Full);
        }
        self.cutoffs.insert(tag, cutoff);
        self.len += 1;
        Ok(true)
    }

    /// Returns all that is not over.
    pub(super) fn swept(&self, now: u64) -> Self {
        let mut swept = Self::default();
        swept.add_all(self, now);
        swept
    }

    /// Adds what another list has and is not over, as far as there is room.
    pub(super) fn add_all(&mut self, other: &Self, now: u64) {
        for (tag, cutoff) in other.cutoffs.iter().filter(|(_, cutoff)| cutoff.until > now) {
            if self.cut(*tag, *cutoff).is_err() {
                return;
            }
        }
        for (token_id, entry) in other.entries().filter(|(_, entry)| entry.until > now) {
            if self.insert(token_id, *entry, By::Operator).is_err() {
                return;
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.by_id
            .iter()
            .flat_map(|(token_id, entries)| entries.iter().map(move |entry| (&**token_id, entry)))
    }

    /// Writes the lines of what another list lacks and is not over.
    pub(super) fn lines_beyond(&self, other: &Self, now: u64) -> String {
        let mut lines = String::new();
        // Writing to a String cannot fail.
        for (tag, cutoff) in self.cutoffs.iter().filter(|(_, cutoff)| cutoff.until > now) {
            if !other.has_cutoff(tag, cutoff) {
                let _ = writeln!(lines, "{}", cutoff.line(tag));
            }
        }
        for (token_id, entry) in self.entries().filter(|(_, entry)| entry.until > now) {
            if !other.has_entry(token_id, entry) {
                let _ = writeln!(lines, "{}", entry.line(token_id));
            }
        }
        lines
    }

    /// Reads a file. A line may leave its last words out: then every subject's token of that id is meant, for ever.
    pub(super) fn parse(text: &[u8], now: u64) -> Parsed {
        let mut parsed = Parsed { list: Self::default(), bad_lines: Vec::new(), expired: 0 };
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let Some((order, until)) = std::str::from_utf8(line).ok().and_then(order) else {
                parsed.bad_lines.push(number);
                continue;
            };
            if until <= now {
                parsed.expired += 1;
            } else if parsed.list.add(&order).is_err() {
                parsed.bad_lines.push(number);
            }
        }
        parsed
    }
}

/// Reads a line, and until when it counts.
fn order(line: &str) -> Option<(Order, u64)> {
    let mut words = line.split_ascii_whitespace();
    let id = words.next().filter(|id| claims::is_token_id(id))?;
    let whose = match words.next() {
        None | Some("*") => Whose::Everybodys,
        Some(tag) => Whose::Of(tag_of(tag)?),
    };
    let until = match words.next() {
        None => u64::MAX,
        Some(until) => until.parse().ok()?,
    };
    let order = match (words.next(), whose) {
        (None, whose) => Order::Token { id: id.to_owned(), entry: Entry { whose, until }, by: By::Operator },
        // A token may be called `*`, too. A line of one has no fourth word.
        (Some(before), Whose::Of(tag)) if id == "*" => {
            Order::IssuedBefore { tag, cutoff: Cutoff { before: before.parse().ok()?, until } }
        }
        (Some(_), _) => return None,
    };
    words.next().is_none().then_some((order, until))
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
        for (tag, cutoff) in &self.cutoffs {
            writeln!(f, "{}", cutoff.line(tag))?;
        }
        for (token_id, entry) in self.entries() {
            writeln!(f, "{}", entry.line(token_id))?;
        }
        Ok(())
    }
}
