//! Reading the keys of one JSON object, each on its own, collecting all faults.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fault::Fault;
use super::rule::Rejection;

/// Greatest distance at which an unknown key counts as a misspelled known one, as a share of its length.
const MISSPELLED_SHARE: usize = 3;

/// One JSON object that is being read.
pub(super) struct Section<'a> {
    keys: &'a Map<String, Value>,
    /// Path of the object, empty for the whole file.
    path: String,
    known: Vec<&'static str>,
    faults: &'a mut Vec<Fault>,
}

impl<'a> Section<'a> {
    pub(super) fn new(keys: &'a Map<String, Value>, path: String, faults: &'a mut Vec<Fault>) -> Self {
        Self { keys, path, known: Vec::new(), faults }
    }

    /// Reads a key by its rule; a missing key or a fault gives the default.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        rule: impl FnOnce(&Value) -> Result<T, Rejection>,
    ) -> T {
        match self.value(key) {
            Some(value) => self.judge(&self.path_of(key), value, rule).unwrap_or(default),
            None => default,
        }
    }

    /// Reads a key that must be there.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        missing: &str,
        rule: impl FnOnce(&Value) -> Result<T, Rejection>,
    ) -> Option<T> {
        let path = self.path_of(key);
        match self.value(key) {
            Some(value) => self.judge(&path, value, rule),
            None => {
                self.faults.push(Fault::hidden(&path, missing));
                None
            }
        }
    }

    /// Reads a list, each entry by the rule; faults name the entry, such as `allowedOrigins[2]`.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        rule: impl Fn(&Value) -> Result<T, Rejection>,
    ) -> Vec<T> {
        let path = self.path_of(key);
        match self.value(key) {
            None => default,
            Some(Value::Array(entries)) => entries
                .iter()
                .enumerate()
                .filter_map(|(index, entry)| self.judge(&format!("{path}[{index}]"), entry, &rule))
                .collect(),
            Some(other) => {
                self.faults.push(Fault::of(&path, other, "must be a list"));
                default
            }
        }
    }

    /// Reads an object whose keys are names, each with its value by the rule; faults name the entry, such as
    /// `aliases.fast`.
    pub(super) fn map<T>(
        &mut self,
        key: &'static str,
        rule: impl Fn(&str, &Value) -> Result<T, Rejection>,
    ) -> BTreeMap<String, T> {
        let path = self.path_of(key);
        match self.value(key) {
            None => BTreeMap::new(),
            Some(Value::Object(entries)) => {
                let mut read = BTreeMap::new();
                for (name, value) in entries {
                    let value = self.judge(&format!("{path}.{name}"), value, |value| rule(name, value));
                    read.extend(value.map(|value| (name.clone(), value)));
                }
                read
            }
            Some(other) => {
                self.faults.push(Fault::of(&path, other, "must be an object"));
                BTreeMap::new()
            }
        }
    }

    /// Reads an object whose keys have rules of their own.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&mut Section<'_>, T) -> T,
    ) -> T {
        let path = self.path_of(key);
        match self.value(key) {
            None => default,
            Some(Value::Object(keys)) => {
                let mut section = Section::new(keys, path, self.faults);
                let value = read(&mut section, default);
                section.finish();
                value
            }
            Some(other) => {
                self.faults.push(Fault::of(&path, other, "must be an object"));
                default
            }
        }
    }

    /// Reads a list of objects; an entry that `read` refuses has told its fault.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Section<'_>) -> Option<T>,
    ) -> Vec<T> {
        let path = self.path_of(key);
        let entries = match self.value(key) {
            None => return Vec::new(),
            Some(Value::Array(entries)) => entries,
            Some(other) => {
                self.faults.push(Fault::of(&path, other, "must be a list of objects"));
                return Vec::new();
            }
        };
        let mut values = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Value::Object(keys) = entry else {
                self.faults.push(Fault::of(&path, entry, "must be an object"));
                continue;
            };
            let mut section = Section::new(keys, path, self.faults);
            values.extend(read(&mut section));
            section.finish();
        }
        values
    }

    /// Reports a fault that no single value can tell.
    pub(super) fn fault(&mut self, path: &str, rule: &str) {
        self.faults.push(Fault::hidden(path, rule));
    }

    /// Returns the value of a key, which is from then on known.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.keys.get(key)
    }

    /// Reports each key that was never asked for.
    ///
    /// Its value is not shown: it may be a secret that somebody put into the file.
    pub(super) fn finish(self) {
        for key in self.keys.keys().filter(|key| !self.known.contains(&key.as_str())) {
            let rule = if looks_secret(key) {
                "unknown key; secrets are never in this file: pass the token with --token-file"
            } else {
                "unknown key"
            };
            let did_you_mean = nearest(key, &self.known).map(|known| self.path_of(known));
            self.faults.push(Fault { did_you_mean, ..Fault::hidden(&self.path_of(key), rule) });
        }
    }

    fn judge<T>(
        &mut self,
        path: &str,
        value: &Value,
        rule: impl FnOnce(&Value) -> Result<T, Rejection>,
    ) -> Option<T> {
        match rule(value) {
            Ok(value) => Some(value),
            Err(Rejection::Shown(rule)) => {
                self.faults.push(Fault::of(path, value, rule));
                None
            }
            Err(Rejection::Hidden(rule)) => {
                self.faults.push(Fault::hidden(path, rule));
                None
            }
        }
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn looks_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["token", "secret", "password", "apikey", "api_key"].iter().any(|word| key.contains(word))
}

/// Returns the known key that is spelled most like this one, if one is near enough.
pub fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |key: &str| key.replace(['_', '-'], "").to_ascii_lowercase();
    let wanted = plain(key);
    known
        .iter()
        .map(|known| (distance(&wanted, &plain(known)), *known))
        .filter(|(distance, known)| *distance <= known.len().max(wanted.len()) / MISSPELLED_SHARE)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Returns how many single-character edits lead from one text to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("port", "port"), 0);
        assert_eq!(distance("port", "prt"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn nearest_key_is_found_in_any_spelling_style() {
        let known = ["ollamaPort", "ollamaHost", "logLevel"];
        assert_eq!(nearest("olamaPort", &known), Some("ollamaPort"));
        assert_eq!(nearest("ollama_port", &known), Some("ollamaPort"));
        assert_eq!(nearest("LOG-LEVEL", &known), Some("logLevel"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("", &known), None);
    }

    /// A long key costs time with its length squared only against short known ones.
    #[test]
    fn huge_unknown_key_has_no_suggestion() {
        assert_eq!(nearest(&"x".repeat(10_000), &["ollamaPort"]), None);
    }
}
