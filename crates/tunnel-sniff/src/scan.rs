//! Finds the top-level `model` of a JSON body while the body is still arriving. Pure.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// An incremental scanner over a growing text.
///
/// Each call of [`ModelScan::scan`] is given the whole text so far and goes on where the last one stopped. It
/// does not validate: of a text that is not JSON it finds something or nothing, and the backend says what is
/// wrong. Of several `model` members the last counts, as for Go and for serde_json.
#[derive(Debug, Default)]
pub struct ModelScan {
    /// The first byte that has not been looked at.
    at: usize,
    state: State,
    /// Where the string that is being read began, its quote included.
    start: usize,
    /// Whether the last byte read was the backslash of an escape.
    escape: bool,
    depth: u32,
    key: Key,
    model: Option<Range<usize>>,
    name: Option<Range<usize>>,
}

/// What the key that was read last says of its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Model,
    Name,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Key,
    InKey,
    Colon,
    Value,
    InValue,
    Scalar,
    Nested,
    InNested,
    Comma,
    End,
}

impl ModelScan {
    /// Looks at what `text` has gained since the last call.
    pub fn scan(&mut self, text: &[u8]) {
        while self.at < text.len() && self.state != State::End {
            match self.state {
                State::InKey | State::InValue | State::InNested => self.string(text),
                State::Nested => self.nested(text),
                State::Start | State::Key | State::Colon | State::Value | State::Scalar | State::Comma => {
                    self.step(text[self.at]);
                }
                State::End => {}
            }
        }
    }

    /// Tells whether the object has ended, or the text is not an object: more text changes nothing.
    pub fn is_done(&self) -> bool {
        self.state == State::End
    }

    /// Returns where the value stands in the text, its quotes included. None while no `model` that is a
    /// string has been seen.
    pub fn span(&self) -> Option<Range<usize>> {
        self.model.clone()
    }

    /// Returns the same for `name`, which Ollama's `/api/show` and `/api/delete` take where there is no `model`.
    pub fn name_span(&self) -> Option<Range<usize>> {
        self.name.clone()
    }

    /// Moves over one byte outside of strings and of nested values.
    fn step(&mut self, byte: u8) {
        let at = self.at;
        self.at += 1;
        if byte.is_ascii_whitespace() && self.state != State::Scalar {
            return;
        }
        self.state = match (self.state, byte) {
            (State::Start, b'{') => State::Key,
            (State::Key, b'"') => self.open(at, State::InKey),
            (State::Colon, b':') => State::Value,
            (State::Value, b'"') => self.open(at, State::InValue),
            (State::Value, b'{' | b'[') => {
                self.depth = 1;
                self.not_a_string();
                State::Nested
            }
            (State::Value, _) => {
                self.not_a_string();
                State::Scalar
            }
            (State::Scalar | State::Comma, b',') => State::Key,
            (State::Scalar, b) if b != b'}' => State::Scalar,
            // The end of the object, or no JSON.
            _ => State::End,
        };
    }

    fn found(&mut self, span: Option<Range<usize>>) {
        match self.key {
            Key::Other => {}
            Key::Model => self.model = span,
            Key::Name => self.name = span,
        }
    }

    fn open(&mut self, at: usize, state: State) -> State {
        self.start = at;
        state
    }

    fn not_a_string(&mut self) {
        self.found(None);
    }

    /// Moves to the end of the string, or of the text.
    fn string(&mut self, text: &[u8]) {
        if self.escape {
            self.escape = false;
            self.at += 1;
            return;
        }
        // There may be megabytes of an image.
        let Some(n) = memchr2(b'"', b'\\', &text[self.at..]) else {
            self.at = text.len();
            return;
        };
        self.at += n + 1;
        if text[self.at - 1] == b'\\' {
            self.escape = true;
            return;
        }
        let span = self.start..self.at;
        self.state = match self.state {
            State::InKey => {
                self.key = Key::of(&text[span]);
                State::Colon
            }
            State::InNested => State::Nested,
            _ => {
                self.found(Some(span));
                State::Comma
            }
        };
    }

    /// Moves to the next byte of a nested value that matters, or to the end of the text.
    fn nested(&mut self, text: &[u8]) {
        let matters = |b: &u8| matches!(b, b'"' | b'{' | b'[' | b'}' | b']');
        let Some(n) = text[self.at..].iter().position(matters) else {
            self.at = text.len();
            return;
        };
        self.at += n;
        match text[self.at] {
            b'"' => self.state = State::InNested,
            b'{' | b'[' => self.depth += 1,
            _ => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.state = State::Comma;
                }
            }
        }
        self.at += 1;
    }
}

impl Key {
    fn of(quoted: &[u8]) -> Self {
        // The longest spelling, each letter as `\u006d`.
        const LONGEST: usize = 5 * 6 + 2;
        match quoted {
            b"\"model\"" => Self::Model,
            b"\"name\"" => Self::Name,
            _ if quoted.len() > LONGEST || !quoted.contains(&b'\\') => Self::Other,
            _ => match decode(quoted).as_deref() {
                Some("model") => Self::Model,
                Some("name") => Self::Name,
                _ => Self::Other,
            },
        }
    }
}

/// Reads a JSON string, quotes included. None when it is not one.
pub fn decode(quoted: &[u8]) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    // Most names need no unescaping: no copy then.
    if inner.iter().all(|b| matches!(b, 0x20..=0x7e) && *b != b'\\' && *b != b'"') {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice::<String>(quoted).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn model_of(text: &[u8]) -> Option<String> {
        let mut scan = ModelScan::default();
        scan.scan(text);
        scan.span().and_then(|span| decode(&text[span]).map(Cow::into_owned))
    }

    #[test]
    fn finds_only_the_top_level_model() {
        for (text, model) in [
            (r#"{"model":"a"}"#, Some("a")),
            (r#" { "x" : {"model":"no"} , "model" : "b:1" , "y":[{"model":"no"}]}"#, Some("b:1")),
            (r#"{"x":"\"model\":\"no\"","model":"c"}"#, Some("c")),
            (r#"{"model":"a","model":"last"}"#, Some("last")),
            (r#"{"model":"a","model":5}"#, None),
            (r#"{"model":["a"]}"#, None),
            (r#"{"model":null,"x":"model"}"#, None),
            (r#"{"mod\u0065l":"a\/b\u00e9"}"#, Some("a/bé")),
            (r#"{"n":-1.5e3,"t":true,"model":"z""#, Some("z")),
            (r#"["model","a"]"#, None),
            (r#""model""#, None),
            ("", None),
            ("{", None),
        ] {
            assert_eq!(model_of(text.as_bytes()).as_deref(), model, "{text}");
        }
    }

    #[test]
    fn a_name_is_found_beside_a_model() {
        let text = br#"{"x":{"name":"no"},"name":"n","model":"m"}"#;
        let mut scan = ModelScan::default();
        scan.scan(text);
        let read =
            |span: Option<Range<usize>>| span.and_then(|span| decode(&text[span]).map(Cow::into_owned));
        assert_eq!((read(scan.name_span()).as_deref(), read(scan.span()).as_deref()), (Some("n"), Some("m")));
    }

    #[test]
    fn depth_does_not_matter() {
        let deep = format!(r#"{{"x":{}{},"model":"m"}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(model_of(deep.as_bytes()).as_deref(), Some("m"));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_filter("JSON has no NaN", |f| f.is_finite()).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(Value::from("model")),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key(), inner), 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![Just("model".to_owned()), Just("mod".to_owned()), any::<String>()]
    }

    /// Writes an object with duplicate keys, odd white space and `\u` escapes, which serde_json reads back.
    fn text() -> impl Strategy<Value = String> {
        let space = prop_oneof![Just(""), Just(" "), Just("\n\t "), Just("\r\n")];
        prop::collection::vec((key(), json(), space, any::<bool>()), 0..6).prop_map(|members| {
            let mut text = String::from("{");
            for (n, (key, value, space, escaped)) in members.iter().enumerate() {
                let key = if *escaped && key == "model" {
                    r#""\u006dode\u006C""#.to_owned()
                } else {
                    serde_json::to_string(key).unwrap()
                };
                let comma = if n == 0 { "" } else { "," };
                text.push_str(&format!("{comma}{space}{key}{space}:{space}{value}{space}"));
            }
            text + "}"
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in text()) {
            let value: Value = serde_json::from_str(&text).unwrap();
            let expected = value.get("model").and_then(Value::as_str).map(str::to_owned);
            prop_assert_eq!(model_of(text.as_bytes()), expected);
        }

        #[test]
        fn chunk_boundaries_do_not_matter(text in text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            ends.sort_unstable();
            ends.push(text.len());
            let mut scan = ModelScan::default();
            for end in ends {
                scan.scan(&text.as_bytes()[..end]);
            }
            let model = scan.span().and_then(|span| decode(&text.as_bytes()[span]).map(Cow::into_owned));
            prop_assert!(scan.is_done());
            prop_assert_eq!(model, model_of(text.as_bytes()));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), braces in "[{}\\[\\]\":,\\\\model]{0,60}") {
            model_of(&bytes);
            model_of(braces.as_bytes());
        }
    }
}
