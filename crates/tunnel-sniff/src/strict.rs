//! Finds the one model of a JSON body, and refuses each body that two readers could understand differently. Pure.

use crate::scan::decode;

/// Deepest nesting. What clients send is a handful deep.
const DEPTH_MAX: usize = 256;
/// How a NUL is spelled.
const NUL: &[u8] = b"\\u0000";
/// Longest spelling of `model` with its quotes and a NUL, each letter as `\u006d`; a longer key is another one.
const KEY_MAX: usize = 5 * 6 + 2 + NUL.len();
/// Longest spelling of a model's name: 256 bytes, each escaped.
const VALUE_MAX: usize = 256 * 6 + 2;

/// Why a body was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not JSON, or not an object.
    NotJson,
    /// It names a model more than once, or by another member than `model`: readers differ in what counts.
    Several,
    /// Its `model` is no text.
    NotText,
    /// Its model's name is longer than any model's.
    TooLong,
    /// It is nested too deep to be looked through.
    TooDeep,
}

/// Looks through a body piece by piece, and keeps nothing of it but the model's name.
///
/// Of the top level the member `model` counts, in any spelling with escapes, and there may be one. A `name`, and either
/// in another case, is refused: Go's reader takes `MODEL` for `model` and some servers `name`, but for the rest such a
/// body names none, and they work with whichever model they have. So is `models`, with which some take others instead. The grammar is JSON's, to the byte: nothing passes
/// that a lenient reader would see otherwise.
#[derive(Debug, Default)]
pub struct StrictScan {
    state: State,
    /// Whether each open bracket is an object's.
    open: Vec<bool>,
    /// The key or value at the top level that is being read, quotes included.
    text: Vec<u8>,
    role: Role,
    /// What is still to come of `true`, `false`, `null`; empty in a number.
    literal: &'static [u8],
    seen: bool,
    model: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Value,
    /// After `[`: a value, or the end.
    FirstValue,
    /// After `{`: a key, or the end.
    FirstKey,
    Key,
    Colon,
    Text,
    Escape,
    Hex(u8),
    Number,
    Literal,
    After,
    End,
}

/// What the text that is being read is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Other,
    TopKey,
    /// A key below the top.
    Key,
    /// The value of `model`.
    Model,
}

impl StrictScan {
    /// Looks at the next piece. After a fault the scan is over.
    ///
    /// # Errors
    ///
    /// What is wrong with the body, as soon as it shows.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            if self.state == State::Text {
                // Nearly all bytes are here.
                let plain = |byte: &u8| matches!(byte, b'"' | b'\\' | ..=0x1f);
                let n = piece[at..].iter().position(plain).unwrap_or(piece.len() - at);
                self.keep(&piece[at..at + n])?;
                at += n;
                if n > 0 {
                    continue;
                }
            }
            self.step(byte)?;
            at += 1;
        }
        Ok(())
    }

    /// Returns the model, once its name has been read.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Tells whether the object has ended.
    pub fn is_complete(&self) -> bool {
        self.state == State::End
    }

    fn step(&mut self, byte: u8) -> Result<(), Fault> {
        let space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match (self.state, byte) {
            (State::Text | State::Escape | State::Hex(_), _) => return self.text(byte),
            (State::Number, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') => {}
            (State::Number, _) => {
                self.state = State::After;
                return self.step(byte);
            }
            (State::Literal, _) => match self.literal {
                [next, rest @ ..] if *next == byte => self.literal = rest,
                [] => {
                    self.state = State::After;
                    return self.step(byte);
                }
                _ => return Err(Fault::NotJson),
            },
            _ if space => {}
            (State::Start, b'{') => self.nest(true)?,
            (State::FirstKey, b'}') | (State::FirstValue, b']') | (State::After, b'}' | b']') => {
                if self.open.pop() != Some(byte == b'}') {
                    return Err(Fault::NotJson);
                }
                self.state = if self.open.is_empty() { State::End } else { State::After };
            }
            (State::FirstKey | State::Key, b'"') => {
                self.begin(if self.open.len() == 1 { Role::TopKey } else { Role::Key });
            }
            (State::Colon, b':') => self.state = State::Value,
            (State::After, b',') => {
                self.state = if self.open.last() == Some(&true) { State::Key } else { State::Value };
            }
            (State::Value, _) if self.role == Role::Model => {
                if byte != b'"' {
                    return Err(Fault::NotText);
                }
                self.begin(Role::Model);
            }
            (State::Value | State::FirstValue, _) => self.value(byte)?,
            _ => return Err(Fault::NotJson),
        }
        Ok(())
    }

    fn value(&mut self, byte: u8) -> Result<(), Fault> {
        match byte {
            b'"' => self.begin(Role::Other),
            b'{' => self.nest(true)?,
            b'[' => self.nest(false)?,
            b'-' | b'0'..=b'9' => self.state = State::Number,
            b't' => self.literal(b"rue"),
            b'f' => self.literal(b"alse"),
            b'n' => self.literal(b"ull"),
            _ => return Err(Fault::NotJson),
        }
        Ok(())
    }

    fn literal(&mut self, rest: &'static [u8]) {
        self.state = State::Literal;
        self.literal = rest;
    }

    fn nest(&mut self, object: bool) -> Result<(), Fault> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Fault::TooDeep);
        }
        self.open.push(object);
        self.state = if object { State::FirstKey } else { State::FirstValue };
        Ok(())
    }

    fn begin(&mut self, role: Role) {
        self.state = State::Text;
        self.role = role;
        self.text.clear();
        self.text.push(b'"');
    }

    fn text(&mut self, byte: u8) -> Result<(), Fault> {
        self.keep(&[byte])?;
        self.state = match (self.state, byte) {
            (State::Text, b'"') => return self.end(),
            (State::Text, b'\\') => State::Escape,
            (State::Text, 0x20..) => State::Text,
            (State::Escape, b'u') => State::Hex(4),
            (State::Escape, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => State::Text,
            (State::Hex(n), _) if byte.is_ascii_hexdigit() => match n {
                1 => State::Text,
                n => State::Hex(n - 1),
            },
            _ => return Err(Fault::NotJson),
        };
        Ok(())
    }

    /// Keeps what is needed of the text that is being read.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let max = match self.role {
            Role::Other | Role::Key => return Ok(()),
            Role::TopKey => KEY_MAX,
            Role::Model => VALUE_MAX,
        };
        let room = max.saturating_sub(self.text.len());
        if bytes.len() > room && self.role == Role::Model {
            return Err(Fault::TooLong);
        }
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    }

    /// Takes note of a text that has ended.
    fn end(&mut self) -> Result<(), Fault> {
        let role = std::mem::take(&mut self.role);
        self.state = match role {
            Role::TopKey | Role::Key => State::Colon,
            Role::Other | Role::Model => State::After,
        };
        match role {
            // For some readers a text ends there.
            Role::TopKey if self.text.windows(NUL.len()).any(|bytes| bytes == NUL) => {
                return Err(Fault::NotJson);
            }
            Role::TopKey if self.text.len() < KEY_MAX => match decode(&self.text).as_deref() {
                Some("model") if !std::mem::replace(&mut self.seen, true) => self.role = Role::Model,
                Some(key)
                    if ["model", "models", "name"].iter().any(|name| key.eq_ignore_ascii_case(name)) =>
                {
                    return Err(Fault::Several);
                }
                Some(_) => {}
                // Bytes that are no text: a reader that drops them may see another key.
                None => return Err(Fault::NotJson),
            },
            Role::Model => {
                let name = decode(&self.text).ok_or(Fault::NotJson)?;
                self.model = Some(name.into_owned());
            }
            Role::TopKey | Role::Key | Role::Other => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(text: &[u8]) -> Result<Option<String>, Fault> {
        let mut scan = StrictScan::default();
        scan.push(text)?;
        if scan.is_complete() { Ok(scan.model().map(str::to_owned)) } else { Err(Fault::NotJson) }
    }

    #[test]
    fn one_model_at_the_top_is_found() {
        for (text, model) in [
            (r#"{"model":"a"}"#, Some("a")),
            (
                "\n{ \"x\" : [ { \"model\" : 1 } , true, null,-1.5e+3 ] , \"model\" : \"b:1\" } \r\n",
                Some("b:1"),
            ),
            (r#"{"mod\u0065l":"a\/b\u00e9"}"#, Some("a/bé")),
            (r#"{"\u006d\u006f\u0064\u0065\u006c":"a"}"#, Some("a")),
            (r#"{"model_name":"x","xmodel":"y","modèle":"z"}"#, None),
            (r#"{"x":{"model":"no","name":"no"},"y":[["model"]],"z":"\"model\":\"no\""}"#, None),
            ("{}", None),
        ] {
            assert_eq!(judge(text.as_bytes()), Ok(model.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn what_readers_could_see_differently_is_refused() {
        let several = [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","x":1,"Model":"b"}"#,
            r#"{"model":"a","name":"b"}"#,
            r#"{"name":"a","\u006dodel":"b"}"#,
            // Many servers see no model in these, and take the one that they have.
            r#"{"MODEL":"a"}"#,
            r#"{"name":"a"}"#,
            r#"{"model":"a","models":["b"]}"#,
            r#"{"Models":["b"],"model":"a"}"#,
            r#"{"x":1,"Nam\u0065":"a"}"#,
        ];
        for text in several {
            assert_eq!(judge(text.as_bytes()), Err(Fault::Several), "{text}");
        }
        for text in [r#"{"model":["a"]}"#, r#"{"model":null}"#, r#"{"model":{"a":1}}"#, r#"{"model": 5}"#] {
            assert_eq!(judge(text.as_bytes()), Err(Fault::NotText), "{text}");
        }
        let not_json: [&[u8]; 24] = [
            b"{\"mod\xffel\":\"a\"}",
            b"{\"\\ud800model\":\"a\"}",
            b"{\"model\":\"a\",\"model\\u0000x\":\"b\"}",
            b"{\"\\u006d\\u006f\\u0064\\u0065\\u006c\\u0000xxxxxxxxxxxxxxxx\":\"b\"}",
            b"",
            b"{",
            b"[\"model\"]",
            b"\"model\"",
            b"\xef\xbb\xbf{\"model\":\"a\"}",
            b"{\"model\":\"a\"}{\"model\":\"b\"}",
            b"{\"model\":\"a\",}",
            b"{,\"model\":\"a\"}",
            b"{'x':1,\"model\":\"a\"}",
            b"{/*\"*/\"model\":\"a\"}",
            b"{\"x\":[}],\"model\":\"a\"}",
            b"{\"x\":{]},\"model\":\"a\"}",
            b"{\"x\":NaN,\"model\":\"a\"}",
            b"{\"x\":nul,\"model\":\"a\"}",
            b"{\"x\":1 2,\"model\":\"a\"}",
            b"{\"x\":\"a\nb\",\"model\":\"a\"}",
            b"{\"x\":\"\\q\",\"model\":\"a\"}",
            b"{\"x\" \"y\",\"model\":\"a\"}",
            b"{\"model\":\"\\ud800\"}",
            b"{\0\"\0m\0",
        ];
        for text in not_json {
            assert_eq!(judge(text), Err(Fault::NotJson), "{}", String::from_utf8_lossy(text));
        }
        let deep = format!(r#"{{"x":{}{},"model":"m"}}"#, "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        assert_eq!(judge(deep.as_bytes()), Err(Fault::TooDeep));
        let long = format!(r#"{{"model":"{}"}}"#, "x".repeat(VALUE_MAX));
        assert_eq!(judge(long.as_bytes()), Err(Fault::TooLong));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        let key = prop_oneof![Just("model".to_owned()), Just("Name".to_owned()), any::<String>()];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::vec((key.clone(), inner), 0..4)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn valid_json_with_one_model_passes_in_any_pieces(
            inner in json(),
            name in "[a-zé\"\\\\]{1,20}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let text = format!("{{\"x\":{inner},\"model\":{},\"y\":{inner}}}", serde_json::to_string(&name).unwrap());
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            ends.sort_unstable();
            ends.push(text.len());
            let (mut scan, mut from) = (StrictScan::default(), 0);
            for end in ends {
                prop_assert_eq!(scan.push(&text.as_bytes()[from..end]), Ok(()));
                from = end;
            }
            prop_assert!(scan.is_complete());
            prop_assert_eq!(scan.model(), Some(name.as_str()));
        }

        // Without what only numbers have: of those it is looked at only where they end.
        #[test]
        fn what_passes_is_json(text in "\\{[{}\\[\\]\":,\\\\1 nulmode]{0,12}\\}") {
            let text = text.replace('e', "\\u0065");
            if judge(text.as_bytes()).is_ok() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
            }
        }
    }
}
