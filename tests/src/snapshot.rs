//! What programs print, kept as files beside the tests and compared with what they print now.
//!
//! `UPDATE_SNAPSHOTS=1` writes the files; their changes are then read like any other change of the code.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Lines around a difference that are shown with it.
const CONTEXT: usize = 3;

/// Fails when a text is not what the file has, and shows the difference; `UPDATE_SNAPSHOTS=1` writes it.
pub fn compare(file: &Path, now: &str) -> Result<()> {
    compare_unless(file, now, "UPDATE_SNAPSHOTS")
}

/// The same for a document that people read; `UPDATE_DOCS=1` writes it.
pub fn compare_document(file: &Path, now: &str) -> Result<()> {
    compare_unless(file, now, "UPDATE_DOCS")
}

fn compare_unless(file: &Path, now: &str, update: &str) -> Result<()> {
    if env::var_os(update).is_some_and(|value| value == "1") {
        let folder = file.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        return fs::write(file, now).with_context(|| format!("writing {}", file.display()));
    }
    let kept = match fs::read_to_string(file) {
        Ok(kept) => kept,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    ensure!(
        kept == now,
        "{} does not have what is printed now (- kept, + now); if that is meant, run again with \
         {update}=1\n{}",
        file.display(),
        difference(&kept, now)
    );
    Ok(())
}

/// The lines that went and came, each with a few lines around it.
fn difference(kept: &str, now: &str) -> String {
    let (kept, now): (Vec<&str>, Vec<&str>) = (kept.lines().collect(), now.lines().collect());
    let lines = aligned(&kept, &now);
    let near = |at: usize| {
        let around = at.saturating_sub(CONTEXT)..lines.len().min(at + CONTEXT + 1);
        lines[around].iter().any(|(sign, _)| *sign != ' ')
    };
    let mut text = String::new();
    let mut left_out = false;
    for (at, (sign, line)) in lines.iter().enumerate() {
        if near(at) {
            if left_out {
                text.push_str("  …\n");
            }
            text.push_str(&format!("{sign} {line}\n"));
        }
        left_out = !near(at);
    }
    text
}

/// Both texts as one list of lines that were kept (` `), went (`-`) or came (`+`): a longest common subsequence.
fn aligned<'a>(kept: &[&'a str], now: &[&'a str]) -> Vec<(char, &'a str)> {
    // common[i][j]: the most lines that kept[i..] and now[j..] have in common.
    let mut common = vec![vec![0_u32; now.len() + 1]; kept.len() + 1];
    for i in (0..kept.len()).rev() {
        for j in (0..now.len()).rev() {
            common[i][j] = if kept[i] == now[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < kept.len() || j < now.len() {
        if i < kept.len() && j < now.len() && kept[i] == now[j] {
            lines.push((' ', kept[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == now.len() || (i < kept.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', kept[i]));
            i += 1;
        } else {
            lines.push(('+', now[j]));
            j += 1;
        }
    }
    lines
}

/// What differs from run to run, and what stands for it in a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    /// Longest first, so that a path is found before the folder that it lies in.
    literals: Vec<(String, String)>,
}

impl Masks {
    /// Puts `<name>` wherever this text stands.
    pub fn add(&mut self, text: impl std::fmt::Display, name: &str) {
        let text = text.to_string();
        if text.is_empty() {
            return;
        }
        self.literals.push((text, format!("<{name}>")));
        self.literals.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    /// Masks a text for people: what was added, then times, durations, sizes, rates and ids by their form.
    ///
    /// Columns are as wide as their widest cell, so runs of blanks inside a line become two.
    pub fn text(&self, text: &str) -> String {
        let mut masked: String = text.lines().map(|line| blanks(&forms(&self.known(line))) + "\n").collect();
        if !text.ends_with('\n') {
            masked.pop();
        }
        masked
    }

    /// Masks a JSON value: all numbers (or none, with `Numbers::Kept`), and texts as above.
    pub fn json(&self, value: &mut Value, numbers: Numbers) {
        match value {
            Value::String(text) => *text = forms(&self.known(text)),
            Value::Number(number) => match numbers {
                Numbers::Masked => *value = "<number>".into(),
                Numbers::Kept => {
                    let text = number.to_string();
                    let masked = self.known_alone(&text);
                    if let Some(masked) = masked {
                        *value = masked.into();
                    }
                }
            },
            Value::Array(values) => values.iter_mut().for_each(|value| self.json(value, numbers)),
            Value::Object(members) => members.values_mut().for_each(|value| self.json(value, numbers)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// What was added, wherever it stands as a whole word: port 80 is no part of 8080.
    fn known(&self, text: &str) -> String {
        let mut masked = text.to_owned();
        for (known, name) in &self.literals {
            let mut rest = std::mem::take(&mut masked);
            while let Some(at) = rest.find(known.as_str()) {
                let end = at + known.len();
                let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
                let before = rest[..at].chars().next_back().or_else(|| masked.chars().next_back());
                let part = (word(known.chars().next()) && word(before))
                    || (word(known.chars().next_back()) && word(rest[end..].chars().next()));
                masked.push_str(&rest[..at]);
                masked.push_str(if part { known } else { name });
                rest.drain(..end);
            }
            masked.push_str(&rest);
        }
        masked
    }

    fn known_alone(&self, text: &str) -> Option<String> {
        self.literals.iter().find(|(known, _)| known == text).map(|(_, name)| name.clone())
    }
}

/// Whether the numbers of a JSON answer differ from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// They are counts, times, sizes.
    Masked,
    /// They are settings.
    Kept,
}

/// Units, and what a number before them is.
const UNITS: [(&[&str], &str); 4] = [
    (&["tokens/s", "tok/s", "/s"], "<rate>"),
    (&["tokens", "token"], "<count>"),
    (
        &[
            "milliseconds",
            "ms",
            "µs",
            "us",
            "ns",
            "seconds",
            "second",
            "s",
            "minutes",
            "minute",
            "min",
            "m",
            "hours",
            "hour",
            "h",
            "days",
            "day",
            "d",
        ],
        "<duration>",
    ),
    (&["KiB", "MiB", "GiB", "TiB", "kB", "KB", "MB", "GB", "TB", "bytes", "B"], "<size>"),
];

/// Fewest digits of a hexadecimal id.
const ID_DIGITS: usize = 12;

/// Masks times, ids, and numbers with a unit.
fn forms(line: &str) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    // A number behind a colon is a tag of a model or a port, not how long something took.
    let (mut in_word, mut behind_colon) = (false, false);
    while let Some(first) = rest.chars().next() {
        let found = || id(rest).or_else(|| quantity(rest).filter(|_| !behind_colon));
        // An underscore joins a time to a file's name, and other things to each other.
        let joined = masked.ends_with('_');
        let time = if in_word && !joined { None } else { time(rest) };
        if let Some((length, name)) = time.or_else(|| if in_word { None } else { found() }) {
            masked.push_str(name);
            rest = &rest[length..];
            continue;
        }
        in_word = first.is_alphanumeric() || first == '_';
        behind_colon = first == ':';
        masked.push(first);
        rest = &rest[first.len_utf8()..];
    }
    // Some tell how long it took only where that is worth telling.
    masked.replace(" (<duration>)", "")
}

fn ends_a_word(rest: &str) -> bool {
    !rest.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// `2026-01-31T10:00:00.123Z`, `2026-01-31 10:00:00`, `2026-01-31`, `10:00:00`.
fn time(text: &str) -> Option<(usize, &'static str)> {
    let follows = |at: usize, form: &str| {
        let bytes = text.as_bytes().get(at..at + form.len())?;
        let alike = bytes.iter().zip(form.bytes()).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            form => *byte == form,
        });
        alike.then_some(at + form.len())
    };
    let date = follows(0, "0000-00-00");
    let clock = match date {
        Some(end) => ["T00:00:00", " 00:00:00", "T00-00-00"].iter().find_map(|form| follows(end, form)),
        None => follows(0, "00:00:00"),
    };
    let mut end = clock.or(date)?;
    if clock.is_some() {
        let rest = &text[end..];
        end += rest.len() - rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()).len();
        let zone = follows(end, "+00:00").or_else(|| follows(end, "Z")).or_else(|| follows(end, " UTC"));
        end = zone.unwrap_or(end);
    }
    ends_a_word(&text[end..]).then_some((end, "<time>"))
}

/// A UUID, or a run of hexadecimal digits that is no word and no number.
fn id(text: &str) -> Option<(usize, &'static str)> {
    let digits = |c: char| c.is_ascii_hexdigit() || c == '-';
    let length = text.len() - text.trim_start_matches(digits).len();
    let run = text[..length].trim_end_matches('-');
    let is_id = run.chars().filter(char::is_ascii_hexdigit).count() >= ID_DIGITS
        && run.contains(|c: char| c.is_ascii_digit());
    (is_id && ends_a_word(&text[run.len()..])).then_some((run.len(), "<id>"))
}

/// A number and its unit, with or without a blank between; also several in a row, such as `1 min 5 s`.
fn quantity(text: &str) -> Option<(usize, &'static str)> {
    let number = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if number == 0 {
        return None;
    }
    let fraction = text[number..].strip_prefix('.').map_or(0, |rest| {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 { 0 } else { digits + 1 }
    });
    let number = number + fraction;
    let blank = usize::from(text[number..].starts_with(' '));
    let unit = &text[number + blank..];
    for (units, name) in UNITS {
        for known in units {
            if unit.strip_prefix(known).is_some_and(ends_a_word) {
                let end = number + blank + known.len();
                let blank = usize::from(text[end..].starts_with(' '));
                return match quantity(&text[end + blank..]) {
                    Some((more, same)) if same == name && name == "<duration>" => {
                        Some((end + blank + more, name))
                    }
                    _ => Some((end, name)),
                };
            }
        }
    }
    None
}

/// Leaves two blanks of each longer run inside a line, and none at its end.
fn blanks(line: &str) -> String {
    let indent = line.len() - line.trim_start_matches(' ').len();
    let mut text = line[..indent].to_owned();
    for part in line[indent..].trim_end().split("  ").filter(|part| !part.is_empty()) {
        if text.len() > indent {
            text.push_str("  ");
        }
        text.push_str(part.trim_start());
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_masked() {
        let masks = Masks::default();
        for (text, masked) in [
            ("up for 3 min 12 s, since 2026-01-31T10:00:00.123Z", "up for <duration>, since <time>"),
            ("latency 0.42 ms", "latency <duration>"),
            ("12.5 tokens/s of 7, 53 tokens", "<rate> of 7, <count>"),
            ("connects (12 ms)", "connects"),
            ("backup_2026-01-31T10-00-00.123Z.json", "backup_<time>.json"),
            ("98 MiB free", "<size> free"),
            ("id 0191e0ab-1c2d-7000-8000-0123456789ab.", "id <id>."),
            ("code 404, 3 models, E2E s3 faded", "code 404, 3 models, E2E s3 faded"),
            ("10:00:00 INFO", "<time> INFO"),
            ("at 2026-01-31", "at <time>"),
            ("3 seconds ago", "<duration> ago"),
            ("smollm2:135m at [::1]:80 s", "smollm2:135m at [::1]:80 s"),
            ("a      b  c   ", "a  b  c"),
        ] {
            assert_eq!(masks.text(text), masked);
        }
    }

    #[test]
    fn known_texts_are_masked_where_they_are_words() {
        let mut masks = Masks::default();
        masks.add(80, "port");
        masks.add("/tmp/x", "dir");
        masks.add("/tmp/x/run", "run");
        assert_eq!(masks.text(":80/ 8080 /tmp/x/run/api /tmp/x/y"), ":<port>/ 8080 <run>/api <dir>/y");
    }

    #[test]
    fn numbers_of_settings_are_kept() {
        let mut masks = Masks::default();
        masks.add(12345, "port");
        let mut value = json!({ "port": 12345, "n": 3, "at": "2026-01-31T10:00:00Z" });
        masks.json(&mut value, Numbers::Kept);
        assert_eq!(value, json!({ "port": "<port>", "n": 3, "at": "<time>" }));
        masks.json(&mut value, Numbers::Masked);
        assert_eq!(value["n"], "<number>");
    }

    #[test]
    fn a_difference_shows_what_went_and_what_came() {
        let kept = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let now = "a\nb\nc\nd\ne\nf\nG\nh\n";
        assert_eq!(difference(kept, now), "  …\n  d\n  e\n  f\n- g\n+ G\n  h\n");
        assert_eq!(difference("", "x"), "+ x\n");
    }
}
