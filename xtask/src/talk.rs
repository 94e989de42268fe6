//! What the person at the terminal reads; all of it goes to standard error.

use std::io::{IsTerminal, Write};
use std::time::Duration;

pub(crate) fn plan(title: &str, lines: &[&str]) {
    eprintln!("{}", bold(title));
    for line in lines {
        eprintln!("  - {line}");
    }
}

pub(crate) fn step(text: &str) {
    eprintln!("{} {text}", bold("==>"));
}

pub(crate) fn done(text: &str) {
    eprintln!("{} {text}", bold(" ok"));
}

pub(crate) fn note(text: &str) {
    eprintln!("    {text}");
}

/// Shows on a terminal that something is still going on; a log gets a line now and then.
pub(crate) fn waiting(text: &str, elapsed: Duration) {
    let seconds = elapsed.as_secs();
    if std::io::stderr().is_terminal() {
        eprint!("\r    {text}: {seconds} s \x1b[K");
        // A terminal that is gone is noticed elsewhere.
        drop(std::io::stderr().flush());
    } else if seconds > 0 && seconds.is_multiple_of(15) {
        eprintln!("    {text}: {seconds} s");
    }
}

/// Clears the line of [`waiting`].
pub(crate) fn waited() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

fn bold(text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !std::io::stderr().is_terminal() { text.to_owned() } else { format!("\x1b[1m{text}\x1b[0m") }
}
