//! Reading the text of a configuration file.

use std::fmt;

use serde_json::{Map, Value};

/// A text that is not one JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotJson {
    /// Line of the fault, from 1.
    pub line: usize,
    /// Column of the fault in characters, from 1.
    pub column: usize,
    /// What is wrong, such as ``expected `,` or `}` ``.
    pub problem: String,
    /// What stands there, one character or a few words; never more, since a file may hold anything.
    pub found: String,
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}, found {}", self.line, self.column, self.problem, self.found)
    }
}

impl std::error::Error for NotJson {}

/// Reads the text of a configuration file: one JSON object.
///
/// A byte order mark before it is skipped, and a text of nothing but blanks is an empty object.
pub fn parse(text: &str) -> Result<Map<String, Value>, NotJson> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_blank(text) {
        return Ok(Map::new());
    }
    let kind = match serde_json::from_str(text) {
        Ok(Value::Object(keys)) => return Ok(keys),
        Err(error) => return Err(not_json(text, &error)),
        Ok(Value::Array(_)) => "a list",
        Ok(Value::String(_)) => "a text",
        Ok(Value::Number(_)) => "a number",
        Ok(Value::Bool(_)) => "true or false",
        Ok(Value::Null) => "null",
    };
    let before = &text[..text.len() - text.trim_start().len()];
    let (line, column) = position(before);
    Err(NotJson { line, column, problem: "expected an object `{ … }`".to_owned(), found: kind.to_owned() })
}

/// Tells whether a text says nothing at all, not even `{}`.
pub fn is_blank(text: &str) -> bool {
    text.strip_prefix('\u{feff}').unwrap_or(text).trim().is_empty()
}

fn not_json(text: &str, error: &serde_json::Error) -> NotJson {
    // serde_json counts columns in bytes, and points at the last byte that it read.
    let start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let mut at = (start + error.column().saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let (line, column) = position(&text[..at]);
    let message = error.to_string();
    let problem = message.split(" at line ").next().unwrap_or_default().to_owned();
    let found = match text[at..].chars().next() {
        _ if error.is_eof() => "the end of the file".to_owned(),
        None => "the end of the file".to_owned(),
        Some('\n') => "the end of the line".to_owned(),
        Some('/' | '#') => "a comment, which JSON does not have".to_owned(),
        Some(c @ ('"' | '\'')) => format!("`{c}`"),
        Some(c) => format!("`{}`", c.escape_debug()),
    };
    NotJson { line, column, problem, found }
}

/// Returns line and column, both from 1, of what follows this text.
fn position(before: &str) -> (usize, usize) {
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn fault_names_line_column_and_what_is_there() {
        assert_eq!(
            fault("{\n  \"ollamaPort\": 11434\n  \"logLevel\": \"INFO\"\n}"),
            "line 3, column 3: expected `,` or `}`, found `\"`"
        );
        assert_eq!(fault("{\n  \"a\": 1,\n}"), "line 3, column 1: trailing comma, found `}`");
        assert_eq!(
            fault("{ // ports\n}"),
            "line 1, column 3: key must be a string, found a comment, which JSON does not have"
        );
        assert_eq!(fault("{ ollamaPort: 1 }"), "line 1, column 3: key must be a string, found `o`");
    }

    #[test]
    fn unfinished_file_says_so() {
        let text = fault("{\"a\": 1");
        assert!(text.ends_with("found the end of the file"), "{text}");
    }

    #[test]
    fn columns_are_characters() {
        assert_eq!(fault("{\"ä\": ü}"), "line 1, column 7: expected value, found `ü`");
    }

    #[test]
    fn other_json_is_refused() {
        assert_eq!(fault("\n [1]"), "line 2, column 2: expected an object `{ … }`, found a list");
        assert_eq!(fault("null"), "line 1, column 1: expected an object `{ … }`, found null");
    }

    #[test]
    fn empty_file_and_byte_order_mark_are_fine() {
        assert!(parse(" \n").unwrap().is_empty());
        assert_eq!(parse("\u{feff}{\"a\":1}").unwrap().len(), 1);
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
