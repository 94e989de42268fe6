//! Taking out of texts what is nobody's business but the user's.
//!
//! First the redactor is told or learns which names there are, from everything that goes into the archive; then each
//! text goes through it. What it cannot know it finds by its form ([`scan`]): better too much is taken out than too
//! little. The same thing gets the same placeholder in all texts. Knows nothing of files or of the environment.

mod scan;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value};

/// What a name is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    User,
    /// This machine.
    Host,
    Device,
    Relay,
    Subject,
    Model,
    /// A machine that is named in an address.
    OtherHost,
    /// An IP address of another machine.
    Address,
    /// A run of characters that may be a secret.
    Run,
}

/// Shortest name that is looked for in texts: a single letter is everywhere.
const LEAST_NAME: usize = 2;
/// Shortest secret that is looked for in texts, wherever in a word it stands.
const LEAST_SECRET: usize = 6;
/// Names that say nothing about anybody, but would be missed in a report.
const SAYS_NOTHING: [&str; 10] =
    ["localhost", "root", "user", "linux", "debian", "ubuntu", "fedora", "arch", "tunneld", "desktop"];

/// What is taken out, and what stands for it.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    home: Option<String>,
    secrets: Vec<String>,
    /// Names in lower case, and what they name; numbers are given in the order of learning.
    names: BTreeMap<String, (Kind, usize)>,
    /// The same, the longest first.
    in_order: Vec<(String, Kind, usize)>,
    numbers: BTreeMap<Kind, usize>,
    counts: BTreeMap<&'static str, u64>,
}

impl Redactor {
    /// Notes the home directory, which becomes `~`.
    pub(super) fn home(&mut self, path: &str) {
        let path = path.trim_end_matches('/');
        if path.len() > 1 && path.starts_with('/') {
            self.home = Some(path.to_owned());
        }
    }

    /// Notes a secret, which is found inside of other words too.
    pub(super) fn secret(&mut self, secret: &str) {
        if secret.len() >= LEAST_SECRET && !self.secrets.iter().any(|known| known == secret) {
            self.secrets.push(secret.to_owned());
            self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        }
    }

    /// Notes a name, which is found as a word of its own.
    pub(super) fn name(&mut self, kind: Kind, name: &str) {
        let name = name.to_ascii_lowercase();
        if is_telling(&name) {
            self.number(kind, &name);
        }
    }

    /// Returns the number of a name; the first meaning that it had stays.
    fn number(&mut self, kind: Kind, name: &str) -> (Kind, usize) {
        if let Some(known) = self.names.get(name) {
            return *known;
        }
        let number = self.numbers.entry(kind).or_default();
        *number += 1;
        let known = (kind, *number);
        self.names.insert(name.to_owned(), known);
        // Runs are found by their form alone, and what is everywhere only where it stands for itself.
        if kind != Kind::Run && is_telling(name) {
            self.in_order.push((name.to_owned(), known.0, known.1));
            self.in_order.sort_by_key(|(name, ..)| std::cmp::Reverse(name.len()));
        }
        known
    }

    /// Learns names from a text: of hosts in addresses, and of models in fields such as `model="x"`.
    pub(super) fn learn_text(&mut self, text: &str) {
        for host in scan::hosts(text) {
            self.name(Kind::OtherHost, &host);
        }
        for model in scan::fields(text, "model") {
            self.name(Kind::Model, &model);
        }
    }

    /// Learns names from an answer: by the names of its fields, and as from a text.
    pub(super) fn learn_json(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.learn_text(text),
            Value::Array(items) => items.iter().for_each(|item| self.learn_json(item)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    self.learn_field(key, value);
                    self.learn_json(value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn learn_field(&mut self, key: &str, value: &Value) {
        match (key, value) {
            ("relay" | "cloudProxyUrl", Value::String(url)) => {
                scan::hosts(url).iter().for_each(|host| self.name(Kind::Relay, host));
            }
            ("device" | "deviceName" | "device_name", Value::String(name)) => self.name(Kind::Device, name),
            ("subject", Value::String(name)) => self.name(Kind::Subject, name),
            ("model", Value::String(name)) => self.name(Kind::Model, name),
            ("ollamaHost", Value::String(host)) if !scan::is_loopback(host) => {
                self.name(Kind::OtherHost, host);
            }
            ("models", Value::Array(models)) => {
                for model in models {
                    let name = model.as_str().or_else(|| model.get("name")?.as_str());
                    name.into_iter().for_each(|name| self.name(Kind::Model, name));
                }
            }
            _ => {}
        }
    }

    /// Returns a text as others may see it.
    pub(super) fn text(&mut self, text: &str) -> String {
        let text = self.without_secrets(text);
        let text = scan::tokens(&text, &mut |kind| self.taken(kind));
        let text = scan::assignments(&text, &mut |kind| self.taken(kind));
        let text = scan::urls(&text, &mut |part| match part {
            scan::UrlPart::Host(host) => match host.trim_matches(['[', ']']) {
                address if address.parse::<IpAddr>().is_ok() => self.placeholder(Kind::Address, address),
                _ => self.placeholder(Kind::OtherHost, host),
            },
            scan::UrlPart::Other(kind) => self.taken(kind),
        });
        let text = scan::emails(&text, &mut |kind| self.taken(kind));
        let text = self.without_home(&text);
        let text = self.without_names(&text);
        let text = scan::addresses(&text, &mut |address| self.placeholder(Kind::Address, address));
        scan::runs(&text, &mut |run| self.placeholder(Kind::Run, run))
    }

    /// Returns an answer as others may see it: each text and each field's name in it.
    ///
    /// Before it is written down, since an escape such as `\n` would stick to the word behind it.
    pub(super) fn json(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.json(item)).collect(),
            Value::Object(fields) => {
                let mut redacted = Map::new();
                for (key, value) in fields {
                    let value = match value {
                        Value::String(text) if !text.is_empty() => self.field(key, text),
                        Value::Array(items) if key == "models" => {
                            items.iter().map(|item| self.model(item)).collect()
                        }
                        other => self.json(other),
                    };
                    redacted.insert(self.text(key), value);
                }
                Value::Object(redacted)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    /// Returns how often what was taken out so far.
    pub(super) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    fn field(&mut self, key: &str, text: &str) -> Value {
        let redacted = match key {
            "subject" => self.placeholder(Kind::Subject, text),
            "model" => self.placeholder(Kind::Model, text),
            _ if scan::names_a_secret(key) => self.taken("secret"),
            _ => self.text(text),
        };
        Value::String(redacted)
    }

    fn model(&mut self, item: &Value) -> Value {
        match item {
            Value::String(name) => Value::String(self.placeholder(Kind::Model, name)),
            Value::Object(fields) => {
                let mut redacted = self.json(item);
                if let (Some(Value::String(name)), Value::Object(redacted)) =
                    (fields.get("name"), &mut redacted)
                {
                    redacted.insert("name".to_owned(), self.placeholder(Kind::Model, name).into());
                }
                redacted
            }
            other => self.json(other),
        }
    }

    /// Returns what stands for a name, which is numbered if it is new.
    fn placeholder(&mut self, kind: Kind, name: &str) -> String {
        let name = name.to_ascii_lowercase();
        // A machine may be known by the name that an address has; a secret looks like no name.
        let (kind, number) = self.number(kind, &name);
        *self.counts.entry(kind.word()).or_default() += 1;
        kind.placeholder(number)
    }

    fn taken(&mut self, kind: &'static str) -> String {
        *self.counts.entry(kind).or_default() += 1;
        format!("<{kind}>")
    }

    fn without_secrets(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            let n = text.matches(secret.as_str()).count();
            if n > 0 {
                text = text.replace(secret.as_str(), "<secret>");
                *self.counts.entry("secret").or_default() += n as u64;
            }
        }
        text
    }

    fn without_home(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(home) = &self.home {
            text = scan::replace_words(&text, home, |_| "~".to_owned());
        }
        scan::homes(&text, &mut |kind| self.taken(kind))
    }

    fn without_names(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, kind, number) in &self.in_order {
            text = scan::replace_words(&text, name, |_| {
                *self.counts.entry(kind.word()).or_default() += 1;
                kind.placeholder(*number)
            });
        }
        text
    }
}

/// Tells whether a name is worth looking for in texts.
fn is_telling(name: &str) -> bool {
    name.chars().count() >= LEAST_NAME && !SAYS_NOTHING.contains(&name)
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Host => "this-host",
            Self::Device => "device",
            Self::Relay => "relay",
            Self::Subject => "subject",
            Self::Model => "model",
            Self::OtherHost => "host",
            Self::Address => "address",
            Self::Run => "redacted",
        }
    }

    fn placeholder(self, number: usize) -> String {
        format!("<{}-{number}>", self.word())
    }
}

#[cfg(test)]
mod tests;
