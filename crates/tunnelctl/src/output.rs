//! What is written where: standard output has the answer, standard error the talk.

mod frame;
mod look;
pub(crate) mod screen;
pub(crate) mod table;
pub(crate) mod words;

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

pub(crate) use self::frame::{Beat, Drawing, Pace};
pub(crate) use self::look::{Look, Mark, clean};
use crate::cli::Cli;
use crate::failure::Failure;

/// What JSON answers call their form. Fields may be added, none is removed or changed.
const SCHEMA: &str = "tunnelctl/v1";

/// Where and how to write.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    terminal: bool,
    /// Whether the terminal can move the cursor.
    moves: bool,
    look: Look,
    error_look: Look,
    /// Whether anything went to standard output.
    answered: Cell<bool>,
    /// What was told to have gone wrong.
    errors: RefCell<Vec<String>>,
}

impl Output {
    pub(crate) fn new(cli: &Cli) -> Self {
        let env = |name: &str| std::env::var(name).ok();
        let terminal = io::stdout().is_terminal();
        Self {
            json: cli.global.json,
            quiet: cli.global.quiet,
            terminal,
            moves: terminal && env("TERM").is_none_or(|term| term != "dumb"),
            look: Look::choose(cli.global.color, terminal, env),
            error_look: Look::choose(cli.global.color, io::stderr().is_terminal(), env),
            answered: Cell::new(false),
            errors: RefCell::default(),
        }
    }

    pub(crate) fn wants_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(crate) fn look(&self) -> &Look {
        &self.look
    }

    /// Writes a table as wide as the terminal.
    pub(crate) fn table(&self, table: &table::Table) -> io::Result<()> {
        self.answer(&table.text(&self.look, self.width()))
    }

    /// Writes a screen of lines, each cut where the terminal ends.
    pub(crate) fn screen(&self, text: &str) -> io::Result<()> {
        let Some(width) = self.width() else { return self.answer(text) };
        let lines = text.lines().map(|line| frame::cut(line, width, &self.look) + "\n");
        self.answer(&lines.collect::<String>())
    }

    /// Writes sentences, broken between words where the terminal ends: what is to be typed must be whole.
    pub(crate) fn notes(&self, text: &str) -> io::Result<()> {
        let Some(width) = self.width() else { return self.answer(text) };
        self.answer(&text.lines().map(|line| wrap(line, width) + "\n").collect::<String>())
    }

    /// Returns how many characters go into a line; none where nobody looks.
    fn width(&self) -> Option<usize> {
        let size = self.terminal.then(terminal_size::terminal_size).flatten();
        size.map(|(width, _)| width.0.into()).filter(|width| *width > 0)
    }

    /// Writes an answer as it is. Fails when nobody reads any more.
    pub(crate) fn answer(&self, text: &str) -> io::Result<()> {
        self.answered.set(true);
        write(text)
    }

    /// Writes the object of a failure where JSON is wanted, unless an answer has been written that tells more.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json && !self.answered.get() {
            // The exit code tells it too, to whoever reads no more.
            drop(self.json(failure.json()));
        }
    }

    /// The same for a verb that has told already what went wrong.
    pub(crate) fn failed_without_answer(&self, exit: u8) {
        self.failure(&Failure::new(exit, self.errors.borrow().join("; ")));
    }

    /// Writes what was done, unless quiet.
    pub(crate) fn done(&self, sentence: &str) -> io::Result<()> {
        if self.quiet { Ok(()) } else { self.answer(&format!("{}\n", clean(sentence))) }
    }

    /// Writes what was done in several lines, unless quiet. What came from outside has been cleaned.
    pub(crate) fn report(&self, lines: &str) -> io::Result<()> {
        if self.quiet { Ok(()) } else { self.answer(lines) }
    }

    /// Begins to draw over and over at this place of the terminal.
    pub(crate) fn drawing(&self) -> Drawing {
        Drawing::new(self.look, self.moves)
    }

    /// Writes an object, for people on a terminal, else on one line.
    pub(crate) fn json(&self, value: Value) -> io::Result<()> {
        if self.terminal {
            self.answer(&format!("{:#}\n", with_schema(value)))
        } else {
            self.json_line(value)
        }
    }

    /// Writes an object on one line.
    pub(crate) fn json_line(&self, value: Value) -> io::Result<()> {
        self.answer(&format!("{}\n", with_schema(value)))
    }

    /// Tells what goes on, unless quiet.
    pub(crate) fn talk(&self, sentence: &str) {
        if !self.quiet {
            self.say(&clean(sentence));
        }
    }

    /// Tells what went wrong.
    pub(crate) fn error(&self, sentence: &str) {
        self.errors.borrow_mut().push(sentence.to_owned());
        self.say(&format!("{} {sentence}", self.error_look.bad("error:"), sentence = clean(sentence)));
    }

    /// Asks a person, who answers on the same line. Quiet does not hold: an answer is waited for.
    pub(crate) fn ask(&self, question: &str) {
        let mut stderr = io::stderr().lock();
        drop(write!(stderr, "{question}").and_then(|()| stderr.flush()));
    }

    fn say(&self, text: &str) {
        // Nobody left to talk to is no reason to fail.
        drop(writeln!(io::stderr().lock(), "{text}"));
    }
}

/// Breaks a line between words; a word that is longer than a line stays whole.
fn wrap(line: &str, width: usize) -> String {
    let mut text = String::new();
    let mut taken = 0;
    for word in line.split(' ') {
        let length = word.chars().count();
        if taken > 0 && taken + 1 + length > width {
            text.push('\n');
            taken = 0;
        } else if taken > 0 {
            text.push(' ');
            taken += 1;
        }
        text.push_str(word);
        taken += length;
    }
    text
}

/// Writes the object of a failure to standard output, on one line.
pub(crate) fn write_failure(failure: &Failure) {
    drop(write(&format!("{}\n", with_schema(failure.json()))));
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn with_schema(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.insert("schema".to_owned(), SCHEMA.into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("to use it: tunnelctl start", 16), "to use it:\ntunnelctl start");
        assert_eq!(wrap("a http://127.0.0.1:11434 b", 8), "a\nhttp://127.0.0.1:11434\nb");
        assert_eq!(wrap("", 8), "");
    }
}
