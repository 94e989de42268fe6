//! A table of the settings file while it is read: each key is asked for by its type, and what is wrong is gathered.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::value::{Dict, Num, Value};

/// What is wrong with a file, in the order in which it was found.
#[derive(Debug, Default)]
pub(super) struct Faults(RefCell<Vec<String>>);

impl Faults {
    pub(super) fn add(&self, path: impl AsRef<str>, rule: impl AsRef<str>) {
        self.0.borrow_mut().push(format!("{}: {}", path.as_ref(), rule.as_ref()));
    }

    /// Tells whether one is of this table, or within it.
    pub(super) fn any_of(&self, table: &str) -> bool {
        self.0.borrow().iter().any(|fault| fault.starts_with(table))
    }

    pub(super) fn into_list(self) -> Vec<String> {
        self.0.into_inner()
    }
}

/// One table. Asking for a key says that there is such a key: what is left at the end is unknown.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// Of the table itself, such as `tiers.free`; empty for the file.
    path: String,
    values: &'a Dict,
    asked: Vec<&'static str>,
    faults: &'a Faults,
    /// Where relative paths of files start.
    base: &'a Path,
}

impl<'a> Table<'a> {
    /// Reads a whole file's table.
    pub(super) fn read_root<T>(
        values: &'a Dict,
        base: &'a Path,
        faults: &'a Faults,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let mut root = Self { path: String::new(), values, asked: Vec::new(), faults, base };
        let value = read(&mut root);
        root.end();
        value
    }

    /// Returns the full name of a key.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { shown(key) } else { format!("{}.{}", self.path, shown(key)) }
    }

    /// Notes a fault of a key.
    pub(super) fn fault(&self, key: &str, rule: impl AsRef<str>) {
        self.faults.add(self.path(key), rule);
    }

    /// Notes a fault of the table itself.
    pub(super) fn fault_here(&self, rule: impl AsRef<str>) {
        self.faults.add(&self.path, rule);
    }

    /// Tells whether the key is there at all, with whatever value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Notes a fault where the key is not there.
    pub(super) fn require(&self, key: &str, rule: &str) {
        if !self.has(key) {
            self.fault(key, rule);
        }
    }

    fn ask(&mut self, key: &'static str) -> Option<&'a Value> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.values.get(key)
    }

    /// A whole number within bounds.
    pub(super) fn whole(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let value = self.ask(key)?;
        let number = whole_number(value).filter(|n| bounds.contains(n));
        if number.is_none() {
            self.fault(key, format!("must be a whole number from {} to {}", bounds.start(), bounds.end()));
        }
        number
    }

    /// A whole number of seconds within bounds.
    pub(super) fn seconds(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<Duration> {
        self.whole(key, bounds).map(Duration::from_secs)
    }

    /// A count that fits into the machine's words.
    pub(super) fn count(&mut self, key: &'static str, bounds: RangeInclusive<u32>) -> Option<usize> {
        let bounds = u64::from(*bounds.start())..=u64::from(*bounds.end());
        self.whole(key, bounds).map(|n| usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// A limit: 0 stands for none.
    pub(super) fn limit(&mut self, key: &'static str, max: u32) -> Option<Option<NonZeroU32>> {
        let number = self.whole(key, 0..=u64::from(max))?;
        Some(u32::try_from(number).ok().and_then(NonZeroU32::new))
    }

    /// Text that is not empty and has no control characters.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let value = self.ask(key)?;
        let text = text_of(value);
        if text.is_none() {
            self.fault(key, "must be text in quotes, not empty and without control characters");
        }
        text
    }

    /// Text that `take` makes something of, or says what it must be.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        take: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(key)?;
        take(&text).map_err(|rule| self.fault(key, rule)).ok()
    }

    /// The path of a file. A relative one starts at the directory of the settings file.
    pub(super) fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.text(key)?;
        Some(self.base.join(text))
    }

    /// A list of texts, each of which `take` makes something of, or says what it must be.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        mut take: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        const RULE: &str = "must be a list of texts, such as [\"one\", \"two\"]";
        let Value::Array(_, values) = self.ask(key)? else {
            self.fault(key, RULE);
            return None;
        };
        let mut list = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let place = format!("{key}[{index}]");
            match text_of(value)
                .ok_or_else(|| "must be text in quotes, not empty".to_owned())
                .and_then(|text| take(&text))
            {
                Ok(item) => list.push(item),
                Err(rule) => self.faults.add(self.path(key) + &place[key.len()..], rule),
            }
        }
        (list.len() == values.len()).then_some(list)
    }

    /// A table of its own, `[key]`.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let Value::Dict(_, values) = self.ask(key)? else {
            self.fault(
                key,
                format!("must be a table: write [{key}] on a line of its own, and its keys below"),
            );
            return None;
        };
        Some(self.read_inner(self.path(key), values, read))
    }

    /// Tables by name, `[key.name]`.
    pub(super) fn named<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&str, &mut Self) -> T,
    ) -> BTreeMap<String, T> {
        let mut all = BTreeMap::new();
        let Some(values) = self.ask(key) else { return all };
        let Value::Dict(_, tables) = values else {
            self.fault(key, format!("must be tables with names: write [{key}.NAME] on a line of its own"));
            return all;
        };
        for (name, values) in tables {
            let path = format!("{}.{}", self.path(key), shown(name));
            match values {
                Value::Dict(_, values) => {
                    let value = self.read_inner(path, values, |table| read(name, table));
                    all.insert(name.clone(), value);
                }
                _ => {
                    self.faults.add(path, format!("must be a table: write [{key}.NAME] on a line of its own"))
                }
            }
        }
        all
    }

    /// A list of tables, `[[key]]`.
    pub(super) fn tables<T>(&mut self, key: &'static str, mut read: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let Some(value) = self.ask(key) else { return Vec::new() };
        let rule = format!("must be a list of tables: write [[{key}]] on a line of its own");
        let Value::Array(_, values) = value else {
            self.fault(key, rule);
            return Vec::new();
        };
        let mut all = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let path = format!("{}[{index}]", self.path(key));
            match value {
                Value::Dict(_, values) => all.push(self.read_inner(path, values, &mut read)),
                _ => self.faults.add(path, &rule),
            }
        }
        all
    }

    fn read_inner<T>(&self, path: String, values: &'a Dict, read: impl FnOnce(&mut Self) -> T) -> T {
        let mut inner = Table { path, values, asked: Vec::new(), faults: self.faults, base: self.base };
        let value = read(&mut inner);
        inner.end();
        value
    }

    /// Names the keys that nobody asked for.
    fn end(&self) {
        for name in self.values.keys().filter(|name| !self.asked.iter().any(|asked| asked == name)) {
            let rule = match nearest(name, self.asked.iter().copied()) {
                Some(key) => format!("there is no such key; did you mean {}?", self.path(key)),
                None => format!("there is no such key; there are {}", self.asked.join(", ")),
            };
            self.fault(name, rule);
        }
    }
}

fn whole_number(value: &Value) -> Option<u64> {
    let Value::Num(_, number) = value else { return None };
    // A float is no whole number even where it looks like one: `10.5` must not become 10.
    if matches!(number, Num::F32(_) | Num::F64(_)) {
        return None;
    }
    number.to_i128().and_then(|n| u64::try_from(n).ok()).or_else(|| number.to_u128()?.try_into().ok())
}

fn text_of(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(_, text) => text.clone(),
        Value::Char(_, letter) => letter.to_string(),
        _ => return None,
    };
    (!text.trim().is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

/// Shows a name that stands in the file: short, on one line.
fn shown(name: &str) -> String {
    name.chars().take(60).filter(|c| !c.is_control()).collect()
}

/// Returns the word that a mistyped one was probably meant to be.
pub(super) fn nearest<'w>(name: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // What somebody has typed may be of any length; no word of ours is.
    const LONGEST: usize = 60;
    if name.len() > LONGEST {
        return None;
    }
    let (distance, word) = words.map(|word| (distance(name, word), word)).min()?;
    (distance <= 1 + name.len() / 4).then_some(word)
}

/// Levenshtein's distance between two short words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
