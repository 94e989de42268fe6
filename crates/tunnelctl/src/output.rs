//! What is written where: standard output has the answer, standard error the talk.

mod look;
pub(crate) mod screen;

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

pub(crate) use self::look::Look;
use crate::cli::Cli;

/// What JSON answers call their form. Fields may be added, none is removed or changed.
const SCHEMA: &str = "tunnelctl/v1";

/// Where and how to write.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    terminal: bool,
    look: Look,
    error_look: Look,
}

impl Output {
    pub(crate) fn new(cli: &Cli) -> Self {
        let env = |name: &str| std::env::var(name).ok();
        let terminal = io::stdout().is_terminal();
        Self {
            json: cli.global.json,
            quiet: cli.global.quiet,
            terminal,
            look: Look::choose(cli.global.color, terminal, env),
            error_look: Look::choose(cli.global.color, io::stderr().is_terminal(), env),
        }
    }

    pub(crate) fn wants_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(crate) fn look(&self) -> &Look {
        &self.look
    }

    /// Writes an answer as it is. Fails when nobody reads any more.
    pub(crate) fn answer(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    /// Writes what was done, unless quiet.
    pub(crate) fn done(&self, sentence: &str) -> io::Result<()> {
        if self.quiet { Ok(()) } else { self.answer(&format!("{}\n", look::clean(sentence))) }
    }

    /// Writes the answer in place of the one before.
    pub(crate) fn redraw(&self, text: &str) -> io::Result<()> {
        // Home, the text with each line cleared to its end, then clear what is below: no flicker.
        let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
        self.answer(&format!("\x1b[H{lines}\x1b[J"))
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
            self.say(&look::clean(sentence));
        }
    }

    /// Tells what went wrong.
    pub(crate) fn error(&self, sentence: &str) {
        self.say(&format!("{} {sentence}", self.error_look.bad("error:"), sentence = look::clean(sentence)));
    }

    fn say(&self, text: &str) {
        // Nobody left to talk to is no reason to fail.
        drop(writeln!(io::stderr().lock(), "{text}"));
    }
}

fn with_schema(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.insert("schema".to_owned(), SCHEMA.into());
    }
    value
}
