//! Changing the text of a configuration file without rewriting what is not meant.
//!
//! A file belongs to a person: the order of its keys, its blanks and how its numbers are written stay. Only the
//! members that a patch names are touched.

use std::fmt::Write as _;
use std::ops::Range;

use serde_json::{Map, Value};

use super::json::{NotJson, parse};

/// Blanks before a member when the object shows none to copy, per level.
const INDENT: &str = "  ";

/// Returns `text` with `patch` merged into it, as RFC 7396 says: null removes a key, objects merge key by key,
/// everything else is replaced whole.
///
/// A key that the patch sets to what it is already keeps its text. An empty text counts as `{}`.
pub fn merge_patch(text: &str, patch: &Map<String, Value>) -> Result<String, NotJson> {
    parse(text)?;
    if text.trim_matches(['\u{feff}', ' ', '\t', '\r', '\n']).is_empty() {
        return Ok(merged("{}\n".to_owned(), patch, Level::Top));
    }
    Ok(merged(text.to_owned(), patch, Level::Top))
}

/// Returns the text of one JSON object with one member a line, in its own order; what is inside texts stays.
///
/// The input must be JSON; anything else comes out as it happens to.
pub fn pretty(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut rest = text.trim_start_matches('\u{feff}').char_indices().peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        (0..depth).for_each(|_| out.push_str(INDENT));
    };
    while let Some((_, c)) = rest.next() {
        match c {
            '"' => {
                out.push(c);
                let mut escaped = false;
                for (_, c) in rest.by_ref() {
                    out.push(c);
                    match c {
                        '"' if !escaped => break,
                        _ => escaped = c == '\\' && !escaped,
                    }
                }
            }
            '{' | '[' => {
                out.push(c);
                while rest.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
                if let Some((_, end)) = rest.next_if(|(_, c)| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out.push('\n');
    out
}

/// Which object is changed: tells how the first member of an empty one is written.
#[derive(Clone, Copy)]
enum Level {
    Top,
    Inner,
}

/// Merges into a text that is one JSON object.
fn merged(mut text: String, patch: &Map<String, Value>, level: Level) -> String {
    // Removals last: what is there shows the style for what is added.
    let (removed, set): (Vec<_>, Vec<_>) = patch.iter().partition(|(_, value)| value.is_null());
    for (key, value) in set.into_iter().chain(removed) {
        // Found anew for each key, since each change moves what is behind it; files have some forty keys.
        let object = Object::of(&text);
        let found: Vec<&Member> = object.members.iter().filter(|member| member.key == *key).collect();
        match (value, found.last()) {
            (Value::Null, None) => {}
            (Value::Null, Some(_)) => text = object.without(&text, key),
            (Value::Object(patch), Some(last)) if text[last.value.clone()].starts_with('{') => {
                let inner = merged(text[last.value.clone()].to_owned(), patch, Level::Inner);
                text.replace_range(last.value.clone(), &inner);
            }
            (value, Some(last)) => {
                let old = serde_json::from_str::<Value>(&text[last.value.clone()]).ok();
                if old.as_ref() != Some(value) {
                    let new = object.write(&without_nulls(value));
                    text.replace_range(last.value.clone(), &new);
                }
            }
            (value, None) => text = object.with(&text, key, &without_nulls(value), level),
        }
    }
    text
}

/// RFC 7396 §2: an object in a patch is a patch too, so its nulls are no values.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(keys) => keys
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect(),
        other => other.clone(),
    }
}

/// One member of an object: where it stands in the text.
struct Member {
    key: String,
    /// From the key's quote to the end of the value.
    all: Range<usize>,
    value: Range<usize>,
}

/// One JSON object in a text.
struct Object {
    /// Behind the opening brace.
    start: usize,
    /// Before the closing brace.
    end: usize,
    members: Vec<Member>,
    /// What stands between the opening brace and the first member.
    lead: String,
}

impl Object {
    /// Finds the members of the object that `text` is. The text has been parsed before.
    fn of(text: &str) -> Self {
        let mut scan = Scan { bytes: text.as_bytes(), at: 0 };
        scan.until(b'{');
        scan.at += 1;
        let start = scan.at;
        let mut members = Vec::new();
        loop {
            scan.blanks();
            match scan.peek() {
                Some(b',') => scan.at += 1,
                Some(b'"') => {
                    let from = scan.at;
                    scan.value();
                    let key = serde_json::from_str(&text[from..scan.at]).unwrap_or_default();
                    scan.until(b':');
                    scan.at += 1;
                    scan.blanks();
                    let value = scan.at;
                    scan.value();
                    members.push(Member { key, all: from..scan.at, value: value..scan.at });
                }
                _ => break,
            }
        }
        let first = members.first().map_or(scan.at, |member: &Member| member.all.start);
        Self { start, end: scan.at, lead: text[start..first].to_owned(), members }
    }

    /// Returns the text with a further member at the end, indented like the others.
    fn with(&self, text: &str, key: &str, value: &Value, level: Level) -> String {
        let key = Value::from(key);
        let (before, behind) = (&text[..self.start], &text[self.end..]);
        match self.members.last() {
            Some(last) => {
                let end = last.all.end;
                let value = self.write(value);
                format!("{},{}{key}: {value}{}", &text[..end], self.separator(), &text[end..])
            }
            // An object without members shows no style.
            None => match level {
                Level::Top => format!("{before}\n{INDENT}{key}: {}\n{behind}", indented(value, INDENT)),
                Level::Inner => format!("{before} {key}: {value} {behind}"),
            },
        }
    }

    /// Returns the text without the members of this key, and without the comma that belonged to each.
    fn without(&self, text: &str, key: &str) -> String {
        let kept: Vec<&Member> = self.members.iter().filter(|member| member.key != key).collect();
        let Some(last) = self.members.last() else { return text.to_owned() };
        if kept.is_empty() {
            return format!("{}{}", &text[..self.start], &text[self.end..]);
        }
        let mut out = text[..self.start].to_owned();
        out.push_str(&self.lead);
        let mut previous: Option<usize> = None;
        for (index, member) in self.members.iter().enumerate() {
            if member.key == key {
                continue;
            }
            if previous.is_some() {
                // What stood before this member, which is a comma and blanks.
                out.push_str(&text[self.members[index - 1].all.end..member.all.start]);
            }
            out.push_str(&text[member.all.clone()]);
            previous = Some(index);
        }
        out.push_str(&text[last.all.end..]);
        out
    }

    /// What stands between a comma and the next member.
    fn separator(&self) -> &str {
        if self.lead.is_empty() { " " } else { &self.lead }
    }

    /// Writes a value in the object's style: indented where its members stand on lines of their own.
    fn write(&self, value: &Value) -> String {
        match self.lead.rfind('\n') {
            Some(line_end) => indented(value, &self.lead[line_end + 1..]),
            None => value.to_string(),
        }
    }
}

/// Writes a value whose first line stands after a key that is indented so far.
fn indented(value: &Value, indent: &str) -> String {
    let mut out = String::new();
    for (index, line) in format!("{value:#}").lines().enumerate() {
        if index > 0 {
            out.push('\n');
            out.push_str(indent);
        }
        // Cannot fail: writing to a text.
        let _written = write!(out, "{line}");
    }
    out
}

/// A place in a text that is known to be JSON.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn until(&mut self, wanted: u8) {
        while self.peek().is_some_and(|byte| byte != wanted) {
            self.at += 1;
        }
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// Goes behind the value that begins here.
    fn value(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                None => return,
                Some(b'"') => self.text(),
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b'}' | b']') => return,
                Some(b',' | b':') if depth > 0 => self.at += 1,
                Some(byte) if byte.is_ascii_whitespace() && depth > 0 => self.at += 1,
                Some(_) => self.word(),
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn text(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                return;
            }
        }
    }

    /// A number, true, false or null.
    fn word(&mut self) {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        while self.peek().is_some_and(word) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(text: &str, patch: Value) -> String {
        let Value::Object(patch) = patch else { panic!("an object") };
        merge_patch(text, &patch).unwrap()
    }

    const FILE: &str = "{\n    \"logLevel\" : \"INFO\",\n\n    \"ollamaPort\": 1.1434e4,\n    \"queue\": { \"maxWait\": 5 }\n}\n";

    #[test]
    fn what_a_patch_does_not_name_keeps_its_text() {
        assert_eq!(
            patched(FILE, json!({ "logLevel": "WARN" })),
            "{\n    \"logLevel\" : \"WARN\",\n\n    \"ollamaPort\": 1.1434e4,\n    \"queue\": { \"maxWait\": 5 }\n}\n"
        );
        assert_eq!(patched(FILE, json!({})), FILE);
        assert_eq!(patched(FILE, json!({ "logLevel": "INFO", "queue": { "maxWait": 5 }, "x": null })), FILE);
    }

    #[test]
    fn a_new_key_stands_last_in_the_style_of_the_others() {
        assert_eq!(
            patched("{\n    \"a\": 1\n}", json!({ "b": [1], "c": {} })),
            "{\n    \"a\": 1,\n    \"b\": [\n      1\n    ],\n    \"c\": {}\n}"
        );
        assert_eq!(patched("{\"a\":1}", json!({ "b": [1, 2] })), "{\"a\":1, \"b\": [1,2]}");
        assert_eq!(patched("{ \"a\": 1 }", json!({ "b": true })), "{ \"a\": 1, \"b\": true }");
        assert_eq!(patched("", json!({ "b": 2 })), "{\n  \"b\": 2\n}\n");
        assert_eq!(patched("{}", json!({ "b": 2, "c": 3 })), "{\n  \"b\": 2,\n  \"c\": 3\n}");
        assert_eq!(patched("\u{feff}{ }", json!({ "b": 2 })), "\u{feff}{\n  \"b\": 2\n}");
    }

    #[test]
    fn null_removes_a_key_and_its_comma() {
        let text = "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n";
        assert_eq!(patched(text, json!({ "a": null })), "{\n  \"b\": 2,\n  \"c\": 3\n}\n");
        assert_eq!(patched(text, json!({ "b": null })), "{\n  \"a\": 1,\n  \"c\": 3\n}\n");
        assert_eq!(patched(text, json!({ "c": null })), "{\n  \"a\": 1,\n  \"b\": 2\n}\n");
        assert_eq!(patched(text, json!({ "a": null, "b": null, "c": null })), "{}\n");
    }

    #[test]
    fn objects_merge_key_by_key_and_lists_are_replaced() {
        assert_eq!(
            patched(FILE, json!({ "queue": { "maxWaiting": 3, "maxWait": null } })),
            FILE.replace("{ \"maxWait\": 5 }", "{ \"maxWaiting\": 3 }")
        );
        assert_eq!(patched("{\"a\": {}}", json!({ "a": { "b": 1 } })), "{\"a\": { \"b\": 1 }}");
        assert_eq!(patched("{\"a\": [1, 2]}", json!({ "a": [3] })), "{\"a\": [3]}");
        assert_eq!(patched("{\"a\": 1}", json!({ "a": { "b": null, "c": 1 } })), "{\"a\": {\"c\":1}}");
    }

    #[test]
    fn of_a_key_that_stands_twice_the_last_counts() {
        assert_eq!(patched("{\"a\": 1, \"a\": 2}", json!({ "a": 3 })), "{\"a\": 1, \"a\": 3}");
        assert_eq!(patched("{\"a\": 1, \"b\": 0, \"a\": 2}", json!({ "a": null })), "{\"b\": 0}");
    }

    #[test]
    fn texts_that_look_like_json_do_not_mislead() {
        let text = r#"{"a": "}\",{\"b\":1", "\u0062": [{"b": [1]}, "]"], "c": -1.5E+3}"#;
        assert_eq!(patched(text, json!({ "b": 7, "c": null })), r#"{"a": "}\",{\"b\":1", "\u0062": 7}"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(merge_patch("[1]", &Map::new()).is_err());
        assert!(merge_patch("{ \"a\": ", &Map::new()).is_err());
    }

    /// The text after a patch means what RFC 7396 makes of the values.
    #[test]
    fn meaning_is_that_of_the_rfc() {
        fn rfc(target: &mut Value, patch: &Value) {
            let Value::Object(patch) = patch else {
                *target = patch.clone();
                return;
            };
            if !target.is_object() {
                *target = json!({});
            }
            let keys = target.as_object_mut().unwrap();
            for (key, value) in patch {
                if value.is_null() {
                    keys.remove(key);
                } else {
                    rfc(keys.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        let values = [
            json!(1),
            json!("x,}"),
            json!(null),
            json!([{}, []]),
            json!({}),
            json!({ "a": 1, "b": { "c": [2] } }),
        ];
        let objects: Vec<Value> = values
            .iter()
            .flat_map(|first| values.iter().map(move |second| json!({ "a": first, "b": second })))
            .collect();
        for object in &objects {
            for patch in &objects {
                for text in [object.to_string(), format!("{object:#}\n"), pretty(&object.to_string())] {
                    let mut expected = object.clone();
                    rfc(&mut expected, patch);
                    let new = patched(&text, patch.clone());
                    assert_eq!(serde_json::from_str::<Value>(&new).unwrap(), expected, "{text} {patch}");
                }
            }
        }
    }

    #[test]
    fn pretty_keeps_order_and_spelling() {
        assert_eq!(
            pretty(r#"{"b":1.0e1,"a":{ },"c":[1,{"d":"x: {,\""}],"e":[ ]}"#),
            "{\n  \"b\": 1.0e1,\n  \"a\": {},\n  \"c\": [\n    1,\n    {\n      \"d\": \"x: {,\\\"\"\n    }\n  ],\n  \"e\": []\n}\n"
        );
    }
}
